"""HTTP to addresses that strangers name: pulls and webhooks. Never into our own networks, never without an end.

Choices:

1. A name is resolved once for each connection, every address it has is checked, and the connection goes to an address
   that was checked: an answer of the name server that changes afterwards changes nothing. TLS keeps the name.
2. A name with one address that is refused is refused as a whole.
3. Redirects are followed here, each like a new address. To another origin go none of the caller's headers but those
   that describe the request: nobody knows which of the others is a secret.
4. What counts is what is unpacked, and unpacking stops at the bound: a few bytes may stand for gigabytes.
5. Time runs while the caller works on what it has read, and is looked at when it reads on. No cancel scope is open
   while the caller runs.
6. No proxy is ever used: it would resolve the names itself.

`client` asks, `network` connects, `addresses` tells what is public, `unpack` unpacks.
"""

from app.outbound.client import Answer, Fetched, Outbound, checked_headers, checked_url, open_outbound

__all__ = ["Answer", "Fetched", "Outbound", "checked_headers", "checked_url", "open_outbound"]
