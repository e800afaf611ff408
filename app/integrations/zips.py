"""Zip files from strangers: opened only once their sizes are known to be bounded.

Choices:

1. Everything is judged from the directory at the file's end, before a byte is unpacked. `zipfile` never unpacks more
   of an entry than its directory declares, so a directory that lies about sizes gains nothing.
2. Stored and deflated entries only: the other methods let an entry ask for gigabytes of dictionary.
3. Names are looked up, never used as paths: nothing is written anywhere.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from io import BytesIO

from app.integrations.types import Unreadable

MAX_ENTRIES = 100_000
MAX_UNPACKED_BYTES = 1 << 30  # of all entries together
MAX_ENTRY_BYTES = 256 << 20  # of an entry that is read
MAX_RATIO = 200  # unpacked to packed, of all entries together; text packs 5 to 20 times
RATIO_FREE_BYTES = 32 << 20  # below this a high ratio harms nobody

ENTRY_MARK = b"PK\x01\x02"
ENCRYPTED_FLAG = 1
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, LookupError, NotImplementedError, OSError, OverflowError, RuntimeError, ValueError),
)  # whatever zipfile raises on damage
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class Archive:
    """The entries of a zip file within bounds. Raises `Unreadable`: DAMAGED, ENCRYPTED, TOO_LARGE, UNSUPPORTED."""

    def __init__(self, data: bytes) -> None:
        # zipfile makes an object of some hundred bytes for each entry of the directory, so they are counted first.
        if data.count(ENTRY_MARK) > MAX_ENTRIES:
            raise Unreadable("TOO_LARGE", f"The archive has more than {MAX_ENTRIES:,} entries.")
        try:
            self._zip = zipfile.ZipFile(BytesIO(data))
            entries = [entry for entry in self._zip.infolist() if not entry.is_dir()]
        except BROKEN as failure:
            raise Unreadable("DAMAGED", "The archive is damaged: its directory cannot be read.") from failure
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > MAX_UNPACKED_BYTES:
            raise Unreadable("TOO_LARGE", f"The archive unpacks to more than {MAX_UNPACKED_BYTES >> 20} MB.")
        if unpacked > RATIO_FREE_BYTES and unpacked > MAX_RATIO * len(data):
            raise Unreadable("TOO_LARGE", f"The archive unpacks to more than {MAX_RATIO} times its own size.")
        self._entries = {entry.filename: entry for entry in entries}
        self.names: list[str] = list(self._entries)
        self.encrypted = any(entry.flag_bits & ENCRYPTED_FLAG for entry in entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str) -> bytes:
        """The unpacked bytes of the entry ``name``, which must be one of ``names``."""
        entry = self._entries[name]
        if entry.flag_bits & ENCRYPTED_FLAG:
            raise Unreadable("ENCRYPTED", "The archive is protected by a password. Send it without one.")
        if entry.compress_type not in METHODS:
            raise Unreadable("UNSUPPORTED", f"{name} is packed by a method that is not read here.")
        if entry.file_size > MAX_ENTRY_BYTES:
            raise Unreadable("TOO_LARGE", f"{name} unpacks to more than {MAX_ENTRY_BYTES >> 20} MB.")
        try:
            return self._zip.read(entry)
        except BROKEN as failure:
            raise Unreadable("DAMAGED", f"{name} is damaged inside its archive.") from failure
