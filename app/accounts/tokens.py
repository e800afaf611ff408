"""Signed stream tokens: what they say and how they are sealed. Pure; who may have one is `service`'s business.

A token travels in a URL, so it is short: a MessagePack array in base64url, 16 bytes of HMAC-SHA256 in front (RFC 2104
section 5 allows half), and message ids as 12 bytes of SHA-256 each. Account, user and scopes are not in it: they are
those of the key it names, looked up on every use, so that a token dies with its key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import msgspec

from app.errors import Unauthorized

SIGNATURE_BYTES = 16
DIGEST_BYTES = 12
MAX_TOKEN = 4096
"""Longest text looked at: a token for 100 messages has 1,700 characters."""


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What a token says. ``messages`` are digests, joined; ``expires`` is in Unix seconds."""

    key_id: str
    expires: int
    messages: bytes = b""
    integration_id: str = ""
    feed: bool = False


def digest(message_id: str) -> bytes:
    """What stands for a message id in a token."""
    return hashlib.sha256(message_id.encode()).digest()[:DIGEST_BYTES]


def seal(secret: bytes, token: Token) -> str:
    """The token as URL-safe text."""
    payload = msgspec.msgpack.encode(token)
    return base64.urlsafe_b64encode(_signature(secret, payload) + payload).rstrip(b"=").decode()


def unseal(secret: bytes, text: str) -> Token:
    """The token in ``text``, of whatever age. Raises Unauthorized unless it is one of ours, unaltered."""
    refusal = Unauthorized("the stream token is not valid")
    if len(text) > MAX_TOKEN:
        raise refusal
    try:
        sealed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise refusal from None
    signature, payload = sealed[:SIGNATURE_BYTES], sealed[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(secret, payload)):
        raise refusal
    try:
        return msgspec.msgpack.decode(payload, type=Token)
    except msgspec.MsgspecError:
        raise refusal from None


def _signature(secret: bytes, payload: bytes) -> bytes:
    return hmac.digest(secret, b"stream-token\x00" + payload, "sha256")[:SIGNATURE_BYTES]
