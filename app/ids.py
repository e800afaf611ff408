"""Identifiers: prefixed, time-ordered, unguessable.

An id is ``<prefix>_<26 characters>``: a ULID-like value in Crockford's base 32, 48 bits of milliseconds followed by
80 random bits, so that ids sort by creation time and two processes never need to agree on anything.
"""

from __future__ import annotations

import hashlib
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def base32(value: int, length: int) -> str:
    out = []
    for _ in range(length):
        out.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(out))


def new_id(prefix: str) -> str:
    """A fresh id such as ``msg_01k0zq…`` (prefix, underscore, 26 characters)."""
    return f"{prefix}_{base32((time.time_ns() // 1_000_000 << 80) | secrets.randbits(80), 26)}"


def derived_id(prefix: str, *parts: str) -> str:
    """The same id for the same parts, always: what makes a repeated create idempotent. Not time-ordered."""
    digest = hashlib.sha256("\x00".join(parts).encode()).digest()
    return f"{prefix}_{base32(int.from_bytes(digest[:17]) >> 6, 26)}"


def token(bits: int = 128) -> str:
    """A random claim token or secret in base 32."""
    return base32(secrets.randbits(bits), -(-bits // 5))
