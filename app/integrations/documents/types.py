"""What a document is to us: pieces of text in reading order, each with its page or heading where there is one."""

from __future__ import annotations

from typing import Literal

import msgspec

from app.integrations.types import Problem

Kind = Literal["pdf", "docx", "txt", "md", "html"]


class Piece(msgspec.Struct, frozen=True):
    """Text of one page or under one heading, tidied (`text.tidy`). Pages count from 1."""

    text: str
    page: int | None = None
    heading: str | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """``problems`` names the pages that could not be read."""

    title: str
    kind: Kind
    pieces: list[Piece]
    problems: list[Problem] = []


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a document. The first ``overlap`` characters of ``text`` are the end of the chunk before."""

    id: str  # the same for the same chunk of the same document
    text: str
    page: int | None
    position: int  # from 0
    heading: str | None = None
    overlap: int = 0
