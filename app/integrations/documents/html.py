"""HTML: the text a reader of the page would see, one piece per heading.

Choices:

1. The standard library's parser: it loads nothing, runs nothing, resolves no entity but characters, and never refuses.
2. What is no text is left out: scripts, styles, templates, drawings, embedded pages.
3. Blocks are told from lines by the tags' names alone; style sheets are not read.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from app.integrations.documents.text import decode, one_line, tidy
from app.integrations.documents.types import Piece

_UNSAID = {"script", "style", "template", "svg", "math", "canvas", "iframe", "object", "audio", "video", "noframes"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_PARAGRAPHS = {
    *_HEADINGS,
    *("p", "blockquote", "pre", "table", "ul", "ol", "dl", "section", "article", "header", "footer", "main", "nav"),
    *("aside", "form", "fieldset", "figure", "hr", "address", "details"),
}
_LINES = {"div", "li", "tr", "dt", "dd", "caption", "figcaption", "option", "summary", "legend", "body", "title"}
_CELLS = {"td", "th"}
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s{0,9}=\s{0,9}["']?\s{0,9}([\w:.-]{1,40})""", re.IGNORECASE)


def read(data: bytes) -> tuple[str | None, list[Piece]]:
    declared = _CHARSET.search(data[:2048])
    page = _parsed(decode(data, declared[1].decode("ascii", "replace") if declared else None))
    return page.title, page.pieces()


def plain(source: str) -> str:
    """The text of a fragment of HTML."""
    return "\n\n".join(piece.text for piece in _parsed(source).pieces())


def _parsed(source: str) -> _Page:
    page = _Page()
    page.feed(source)
    page.close()
    return page


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._sections: list[tuple[str | None, list[str]]] = [(None, [])]
        self._unsaid: list[str] = []  # the elements we are in whose text is left out
        self._heading: list[str] | None = None
        self._titles: list[str] | None = None
        self._named: str | None = None
        self._pre = 0
        self._fresh_row = True

    @property
    def title(self) -> str | None:
        return self._named or next((heading for heading, _ in self._sections if heading), None)

    def pieces(self) -> list[Piece]:
        pieces = (Piece(tidy("".join(said)), None, heading) for heading, said in self._sections)
        return [piece for piece in pieces if piece.text]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _UNSAID:
            self._unsaid.append(tag)
        if self._unsaid:
            return
        if tag == "title":
            self._titles = []
        if tag in _HEADINGS and self._heading is None:
            self._heading = []
            return
        self._break(tag)
        if tag == "pre":
            self._pre += 1
        elif tag == "li":
            self._say("- ")
        elif tag == "tr":
            self._fresh_row = True
        elif tag in _CELLS:
            if not self._fresh_row:
                self._say(" | ")
            self._fresh_row = False

    def handle_endtag(self, tag: str) -> None:
        if self._unsaid:
            if tag == self._unsaid[-1]:
                self._unsaid.pop()
            return
        if tag == "title" and self._titles is not None:
            self._named = self._named or one_line("".join(self._titles)) or None
            self._titles = None
        elif tag in _HEADINGS and self._heading is not None:
            self._end_heading()
        else:
            self._break(tag)
            if tag == "pre" and self._pre:
                self._pre -= 1

    def handle_data(self, data: str) -> None:
        if self._unsaid:
            return
        if self._titles is not None:
            self._titles.append(data)
        elif self._heading is not None:
            self._heading.append(data)
        elif self._pre:
            self._say(data)
        else:
            self._say(_collapsed(data, after_space=self._at_space()))

    def close(self) -> None:
        super().close()
        if self._heading is not None:
            self._end_heading()

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Skip ``<![…]>`` of any name: the base class ends the program at those it does not know."""
        return self.rawdata.find(">", i) + 1 or -1

    def _end_heading(self) -> None:
        heading = one_line("".join(self._heading or []))
        self._heading = None
        if heading:
            self._sections.append((heading, [heading, "\n\n"]))

    def _break(self, tag: str) -> None:
        if self._heading is not None:
            self._heading.append(" ")
        elif tag in _PARAGRAPHS:
            self._say("\n\n")
        elif tag == "br" or (tag in _LINES and not self._at_line()):
            self._say("\n")

    def _say(self, text: str) -> None:
        if text:
            self._sections[-1][1].append(text)

    def _at_line(self) -> bool:
        said = self._sections[-1][1]
        return not said or said[-1].endswith("\n")

    def _at_space(self) -> bool:
        said = self._sections[-1][1]
        return not said or said[-1][-1:].isspace()


def _collapsed(data: str, *, after_space: bool) -> str:
    """White space as a browser shows it: one space for any run, none at a line's beginning."""
    words = " ".join(data.split())
    if not words:
        return "" if after_space or not data else " "
    before = "" if after_space or not data[0].isspace() else " "
    return before + words + (" " if data[-1].isspace() else "")
