"""Which IP addresses belong to the public internet. Pure.

Choices:

1. The tables are written out from the registries of special-purpose addresses: what `ipaddress` calls global differs
   between versions of Python.
2. Of IPv6 only the block that is given out to the public is public, less what is reserved within it.
3. An address that carries an IPv4 address (mapped, NAT64, 6to4) leads there, and is as public as that one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC_4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by the customers of a carrier; the metadata of some clouds
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's own services, under an address that looks public
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation, as the other two below
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
    )
]
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation, as 3fff::
        "3fff::/20",
    )
]
_LOW_32 = [IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")]
_6TO4 = IPv6Network("2002::/16")


def is_public(address: str) -> bool:
    """Whether an address, as `getaddrinfo` writes it, is one of the public internet. What is no address is not."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        carried = _carried(parsed)
        if carried is None:
            return parsed in _PUBLIC_6 and not any(parsed in network for network in _NOT_PUBLIC_6)
        parsed = carried
    return not any(parsed in network for network in _NOT_PUBLIC_4)


def _carried(address: IPv6Address) -> IPv4Address | None:
    number = int(address)
    if any(address in network for network in _LOW_32):
        return IPv4Address(number & 0xFFFF_FFFF)
    return IPv4Address(number >> 80 & 0xFFFF_FFFF) if address in _6TO4 else None
