"""Zips from outside, unpacked in memory and within bounds.

Choices:

1. Sizes are counted while unpacking: what a zip says of itself is not believed. What is left of the bound on all
   members is the bound on the next.
2. Only stored and deflated members are read: the other methods unpack a block whole, however large.
3. Members are never written to disk, and a zip within a zip is not opened: its person can do that in one step.
"""

from __future__ import annotations

import io
import re
import zipfile

from app.integrations.types import Unreadable
from app.integrations.zips import BROKEN, ENCRYPTED_FLAG, ENTRY_MARK, METHODS

MEMBERS = 200_000
MEMBER_BYTES = 1 << 30
TOTAL_BYTES = 2 << 30
RATIO = 250
"""Unpacked to packed, over all members read. Chat exports are around 10; deflate can do 1,000."""
RATIO_FREE_BYTES = 16 << 20
"""So much may come out at any ratio: small and repetitive exports are no bombs."""


def is_zip(data: bytes) -> bool:
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


class Archive:
    """The files in a zip. ``names`` are their paths with slashes, without directories and the system's own files.

    Raises `Unreadable`: ``DAMAGED`` and ``TOO_MANY_FILES`` when made; ``DAMAGED``, ``ENCRYPTED`` and ``TOO_LARGE``
    of a member when read.
    """

    def __init__(self, data: bytes) -> None:
        if data.count(ENTRY_MARK) > MEMBERS:
            raise Unreadable("TOO_MANY_FILES", f"This zip holds more than {MEMBERS:,} files.")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            entries = self._zip.infolist()
        except BROKEN as error:
            raise Unreadable("DAMAGED", "This zip is damaged or incomplete.") from error
        self._entries = {_path(entry.filename): entry for entry in entries if not _aside(entry)}
        self._packed = len(data)
        self._unpacked = 0
        self.names = list(self._entries)

    def read(self, name: str) -> bytes:
        """The member's bytes."""
        entry = self._entries[name]
        if entry.flag_bits & ENCRYPTED_FLAG:
            raise Unreadable("ENCRYPTED", f"“{name}” is protected by a password.")
        if entry.compress_type not in METHODS:
            raise Unreadable("DAMAGED", f"“{name}” is packed in a way that is not read here.")
        most = min(
            MEMBER_BYTES,
            TOTAL_BYTES - self._unpacked,
            max(RATIO_FREE_BYTES, self._packed * RATIO) - self._unpacked,
        )
        try:
            with self._zip.open(entry) as member:
                data = member.read(most + 1)
        except BROKEN as error:
            raise Unreadable("DAMAGED", f"“{name}” is damaged.") from error
        self._unpacked += len(data)
        if len(data) > most:
            raise Unreadable("TOO_LARGE", f"“{name}” is too large once unpacked.")
        return data


def in_order(names: list[str]) -> list[str]:
    """Sorted with numbers as numbers: part 2 before part 10."""
    return sorted(names, key=lambda name: [(len(n), n) if n.isdigit() else (0, n) for n in _NUMBERS.split(name)])


_NUMBERS = re.compile(r"([0-9]+)")


def _path(name: str) -> str:
    return name.replace("\\", "/").replace("\x00", "").removeprefix("./")


def _aside(entry: zipfile.ZipInfo) -> bool:
    path = _path(entry.filename)
    return path.endswith("/") or path.startswith("__MACOSX/") or path.rsplit("/", 1)[-1].startswith("._")
