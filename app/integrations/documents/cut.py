"""Chunks of a document: what is embedded, found and quoted as one.

Choices:

1. Chunks end at the last paragraph's end in their second half, else sentence's, line's or word's, else anywhere.
2. No chunk's own text crosses a page, so that a quotation's page is right; the overlap may come from the page before.
3. Nothing is lost and nothing is made up: the texts of a page's chunks less their overlaps are the page's pieces with
   an empty line between them, character for character. `Chunk.overlap` tells how long each overlap is.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Iterator
from itertools import groupby

from app.integrations.documents.types import Chunk, Piece

JOINT = "\n\n"

_BORDER_LENGTH = 8  # enough to see that a border stands right before the longest overlap
_BORDERS = (
    re.compile(r"\n\n+"),
    re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]+\s*"),
    re.compile(r"\n"),
    re.compile(r"\s"),
)


def cut(pieces: list[Piece], chunk_size: int = 1000, overlap: int = 200) -> list[Chunk]:
    """Chunks of at most ``chunk_size`` characters, of which at most ``overlap`` repeat the chunk before.

    Raises ValueError unless ``0 <= overlap < chunk_size``.
    """
    if not 0 <= overlap < chunk_size:
        raise ValueError("the overlap must be smaller than the chunk")
    chunks: list[Chunk] = []
    before = ""  # the end of what has been said
    kept = overlap + _BORDER_LENGTH
    for page, on_page in groupby(pieces, key=lambda piece: piece.page):
        together = list(on_page)
        text = JOINT.join(piece.text for piece in together)
        begins = _begins(together)
        start = 0
        while start < len(text):
            lead = _overlap(before, overlap)
            end = _end(text, start, start + chunk_size - len(lead))
            said = lead + text[start:end]
            heading = together[max(bisect.bisect_right(begins, start) - 1, 0)].heading
            position = len(chunks)
            chunks.append(
                Chunk(
                    id=_id(position, said),
                    text=said,
                    page=page,
                    position=position,
                    heading=heading,
                    overlap=len(lead),
                )
            )
            before = (before + text[max(start, end - kept) : end])[-kept:]
            start = end
        before += JOINT
    return chunks


def _begins(pieces: list[Piece]) -> list[int]:
    """Where each piece begins in their joined text."""
    begins, at = [], 0
    for piece in pieces:
        begins.append(at)
        at += len(piece.text) + len(JOINT)
    return begins


def _end(text: str, start: int, limit: int) -> int:
    """Where the chunk that begins at ``start`` ends, at ``limit`` at the latest."""
    if limit >= len(text):
        return len(text)
    half = start + (limit - start) // 2
    for border in _BORDERS:
        if end := _last(border.finditer(text, half, limit)):
            return end
    return limit


def _last(found: Iterator[re.Match[str]]) -> int:
    end = 0
    for match in found:
        end = match.end()
    return end


def _overlap(before: str, overlap: int) -> str:
    """At most ``overlap`` characters of the end of ``before``, from a sentence's or else a word's beginning."""
    least = len(before) - overlap
    if not overlap or not before[max(least, 0) :].strip():
        return ""
    if least <= 0:
        return before
    for border in (_BORDERS[1], _BORDERS[3]):
        for match in border.finditer(before):
            if match.end() >= least and before[match.end() :].strip():
                return before[match.end() :]
    return before[least:]


def _id(position: int, text: str) -> str:
    return hashlib.sha256(f"{position}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:24]
