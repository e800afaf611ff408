"""Zip files from strangers: unpacked in memory, one entry at a time, and within bounds.

Choices:

1. What counts is what is read: an export with gigabytes of pictures beside its texts is no bomb. An entry that says
   itself that it is too much is refused before a byte is unpacked; what it says is not believed: what comes out is
   counted as well, and an entry gets no more than is left.
2. Stored and deflated entries only: the other methods let an entry ask for gigabytes of dictionary.
3. Names are looked up, never used as paths: nothing is written anywhere. What the system put beside the files is left
   out, and a zip within a zip is not opened: its person can do that in one step.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from io import BytesIO

from app.integrations.types import Unreadable

MAX_ENTRIES = 100_000
MAX_UNPACKED_BYTES = 1 << 30  # of all entries that are read together
MAX_ENTRY_BYTES = 256 << 20
MAX_RATIO = 200  # unpacked to packed, of the whole; text packs 5 to 20 times, deflate can do 1,000
RATIO_FREE_BYTES = 16 << 20  # below this a high ratio harms nobody

ENTRY_MARK = b"PK\x01\x02"
ENCRYPTED_FLAG = 1
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, LookupError, NotImplementedError, OSError, OverflowError, RuntimeError, ValueError),
)  # whatever zipfile raises on damage
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_NUMBERS = re.compile(r"([0-9]+)")


def is_zip(data: bytes) -> bool:
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


class Archive:
    """The files in a zip. ``names`` are their paths with slashes, without directories and the system's own files.

    Raises `Unreadable`: DAMAGED and TOO_LARGE when made, these and ENCRYPTED and UNSUPPORTED when a file is read.
    """

    def __init__(self, data: bytes) -> None:
        # zipfile makes an object of some hundred bytes for each entry of the directory, so they are counted first.
        if data.count(ENTRY_MARK) > MAX_ENTRIES:
            raise Unreadable("TOO_LARGE", f"The archive has more than {MAX_ENTRIES:,} entries.")
        try:
            self._zip = zipfile.ZipFile(BytesIO(data))
            entries = self._zip.infolist()
        except BROKEN as failure:
            raise Unreadable("DAMAGED", "The archive is damaged: its directory cannot be read.") from failure
        self._packed = len(data)
        self._unpacked = 0
        self._sizes: dict[str, int] = {}  # a file read twice counts once
        self._entries = {_path(entry.filename): entry for entry in entries if not _aside(_path(entry.filename))}
        self.names: list[str] = list(self._entries)
        self.encrypted = any(entry.flag_bits & ENCRYPTED_FLAG for entry in entries)
        self.nested = any(name.lower().endswith(".zip") for name in self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str) -> bytes:
        """The unpacked bytes of the file ``name``, which must be one of ``names``."""
        entry = self._entries[name]
        if entry.flag_bits & ENCRYPTED_FLAG:
            raise Unreadable("ENCRYPTED", "The archive is protected by a password. Send it without one.")
        if entry.compress_type not in METHODS:
            raise Unreadable("UNSUPPORTED", f"“{name}” is packed by a method that is not read here.")
        others = self._unpacked - self._sizes.get(name, 0)
        most = min(MAX_ENTRY_BYTES, self._most() - others)
        data = b""
        if entry.file_size <= most:
            try:
                with self._zip.open(entry) as member:
                    data = member.read(most + 1)
            except BROKEN as failure:
                raise Unreadable("DAMAGED", f"“{name}” is damaged inside its archive.") from failure
        if max(entry.file_size, len(data)) > most:
            raise Unreadable("TOO_LARGE", f"“{name}” is too large once unpacked.")
        self._sizes[name] = len(data)
        self._unpacked = others + len(data)
        return data

    def lacks(self, code: str, message: str) -> Unreadable:
        """What to raise where none of the files is one that was looked for: they may be in a zip within."""
        if self.nested:
            return Unreadable("NESTED_ZIP", "There is a zip within this zip: unpack the outer one first.")
        return Unreadable(code, message)

    def _most(self) -> int:
        return min(MAX_UNPACKED_BYTES, max(RATIO_FREE_BYTES, MAX_RATIO * self._packed))


def in_order(names: list[str]) -> list[str]:
    """Sorted with numbers as numbers: part 2 before part 10."""
    return sorted(names, key=lambda name: [(len(n), n) if n.isdigit() else (0, n) for n in _NUMBERS.split(name)])


def _path(name: str) -> str:
    return name.replace("\\", "/").replace("\x00", "").removeprefix("./")


def _aside(path: str) -> bool:
    return path.endswith("/") or path.startswith("__MACOSX/") or path.rsplit("/", 1)[-1].startswith("._")
