"""A body's content encoding undone, in pieces of bounded size. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PIECE = 65_536


class Damaged(ValueError):
    """What cannot be unpacked; the message tells why."""


class Packed:
    """A body's content encoding, undone in pieces of bounded size."""

    def __init__(self, encoding: str) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Damaged("it answered in an encoding that was not asked for")
        self._inflater = None if encoding in ("", "identity") else _inflater()
        self._begun = False

    def unpacked(self, raw: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            yield from (raw[start : start + PIECE] for start in range(0, len(raw), PIECE))
            return
        while raw:
            if self._inflater.eof:  # gzip may be several members in a row
                self._inflater = _inflater()
            self._begun = True
            try:
                piece = self._inflater.decompress(raw, PIECE)
            except zlib.error as error:
                raise Damaged("its answer is damaged") from error
            raw = self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            if piece:
                yield piece

    def end(self) -> None:
        if self._inflater is not None and self._begun and not self._inflater.eof:
            raise Damaged("its answer ended early")


def _inflater() -> zlib._Decompress:
    return zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, whichever it begins like
