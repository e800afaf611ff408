"""Markdown: its own source, one piece per heading.

Choices:

1. The source stays as it was written: lists, tables and code read well as they are, and rendered they would lose
   their shape. Only headings lose their marks.
2. Blocks are found by a CommonMark parser, without the markup inside lines: a ``#`` in a code block is no heading.
3. What is too long to be parsed in a few seconds stays one piece: its headings are lost, not its text.
4. HTML between the blocks is read as HTML: comments, scripts and styles are not said to anybody.
"""

from __future__ import annotations

from markdown_it import MarkdownIt

from app.integrations.documents import html
from app.integrations.documents.text import decode, one_line, tidy
from app.integrations.documents.types import Piece

MAX_PARSED_CHARACTERS = 4_000_000

_FENCE = "---"


def read(data: bytes) -> tuple[str | None, list[Piece]]:
    return of_text(tidy(decode(data)))


def of_text(text: str) -> tuple[str | None, list[Piece]]:
    """The title (the front matter's, else the first heading of level 1) and the pieces."""
    if len(text) > MAX_PARSED_CHARACTERS:
        return None, [Piece(text)]
    lines = text.split("\n")
    title, begin = _front_matter(lines)
    body = lines[begin:]
    parser = MarkdownIt("commonmark")
    parser.core.ruler.disable("inline")
    sections: list[tuple[str | None, list[str]]] = [(None, lines[:begin])]
    at = 0
    tokens = parser.parse("\n".join(body))
    for index, token in enumerate(tokens):
        if token.level or not token.map:
            continue
        first, past = token.map
        if token.type == "html_block":
            sections[-1][1].extend(body[at:first])
            sections[-1][1].append(html.plain("\n".join(body[first:past])))
            at = past
        elif token.type == "heading_open":
            sections[-1][1].extend(body[at:first])
            heading = one_line(tokens[index + 1].content)
            sections.append((heading or None, [heading]))
            if title is None and token.tag == "h1":
                title = heading or None
            at = past
    sections[-1][1].extend(body[at:])
    pieces = (Piece(tidy("\n".join(said)), None, heading) for heading, said in sections)
    return title, [piece for piece in pieces if piece.text]


def _front_matter(lines: list[str]) -> tuple[str | None, int]:
    """The title in the block between two lines of dashes at the very beginning, and the line after that block."""
    if lines[0] != _FENCE or _FENCE not in lines[1:]:
        return None, 0
    end = lines.index(_FENCE, 1)
    for line in lines[1:end]:
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() == "title":
            return one_line(value.strip().strip("\"'")) or None, end + 1
    return None, end + 1
