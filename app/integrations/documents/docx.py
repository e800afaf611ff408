"""DOCX: the text of the document, one piece per heading, then its notes.

Choices:

1. The XML is read as a stream by the standard library behind defusedxml, which refuses every document type
   declaration: no entities, own or foreign. Ready-made readers of the format leave out what stands in content controls,
   text boxes and accepted insertions.
2. What was deleted or moved away is not said; of two alternative drawings the first is read.
3. A table's row is a line, its cells divided by bars. Headers and footers repeat on every page and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from app.integrations.documents.text import one_line, tidy
from app.integrations.documents.types import Piece
from app.integrations.types import Unreadable
from app.integrations.zips import Archive

_MAIN = re.compile(r"word/document\d*\.xml")
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_UNSAID = {"del", "moveFrom", "Fallback", "instrText", "fldData"}
_SPACES = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_JOINTS = {"tc": " ", "tr": " | ", "tbl": "\n"}
_HEADING_NAME = re.compile(r"(?:heading ?\d|title)", re.IGNORECASE)


def read(data: bytes) -> tuple[str | None, list[Piece]]:
    """Raises `Unreadable` as `zips.Archive` does."""
    archive = Archive(data)
    main = next((name for name in archive.names if _MAIN.fullmatch(name)), None)
    if main is None:
        raise Unreadable("DAMAGED", "The document has no text part.")
    try:
        headings = _heading_styles(archive)
        pieces = list(_pieces(archive.read(main), headings))
        notes = [piece.text for name in _NOTES if name in archive for piece in _pieces(archive.read(name), {})]
        if notes:
            pieces.append(Piece("\n\n".join(notes), None, "Notes"))
        title = _title(archive)
    except DefusedXmlException as failure:
        raise Unreadable("DAMAGED", "The document declares entities of its own, which are not read.") from failure
    except ParseError as failure:
        raise Unreadable("DAMAGED", "The document's text part is damaged.") from failure
    return title or next((piece.heading for piece in pieces if piece.heading), None), pieces


def _events(data: bytes, *events: str) -> Iterator[tuple[str, str, Element]]:
    """Event, local name (the namespaces of the strict and the common form differ) and element."""
    for event, element in iterparse(BytesIO(data), events=events, forbid_dtd=True):
        yield event, element.tag.rpartition("}")[2], element


def _attribute(element: Element, name: str) -> str:
    return next((value for key, value in element.attrib.items() if key.rpartition("}")[2] == name), "")


def _heading_styles(archive: Archive) -> dict[str, bool]:
    """Styles by id: is it a heading? Ids are translated with the language of the writer's Word, names are not."""
    if "word/styles.xml" not in archive:
        return {}
    styles: dict[str, bool] = {}
    for _, tag, element in _events(archive.read("word/styles.xml"), "end"):
        if tag == "style":
            named = next((_attribute(child, "val") for child in element if child.tag.endswith("}name")), "")
            styles[_attribute(element, "styleId")] = bool(_HEADING_NAME.fullmatch(named))
            element.clear()
    return styles


def _title(archive: Archive) -> str | None:
    if "docProps/core.xml" not in archive:
        return None
    titles = (el.text or "" for _, tag, el in _events(archive.read("docProps/core.xml"), "end") if tag == "title")
    return one_line(next(titles, "")) or None


class _Paragraph:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.heading = False
        self.listed = False

    def text(self) -> str:
        text = tidy("".join(self.said))
        return f"- {text}" if self.listed and text and not self.heading else text


def _pieces(data: bytes, headings: dict[str, bool]) -> Iterator[Piece]:
    heading: str | None = None
    blocks: list[list[str]] = [[]]  # the piece's own, then those of the tables, rows and cells we are in
    paragraphs: list[_Paragraph] = []  # those we are in: a text box stands inside one
    unsaid = 0
    for event, tag, element in _events(data, "start", "end"):
        if tag in _UNSAID:
            unsaid += 1 if event == "start" else -1
        if unsaid:
            continue
        if event == "start":
            if tag == "p":
                paragraphs.append(_Paragraph())
            elif tag in _JOINTS:
                blocks.append([])
            continue
        if tag == "p" and paragraphs:
            paragraph = paragraphs.pop()
            text = paragraph.text()
            if text and paragraph.heading and len(blocks) == 1:
                if blocks[0]:
                    yield Piece("\n\n".join(blocks[0]), None, heading)
                heading = one_line(text)
                blocks = [[text]]
            elif text:
                blocks[-1].append(text)
            element.clear()
        elif tag in _JOINTS and len(blocks) > 1:
            if text := _JOINTS[tag].join(blocks.pop()):
                blocks[-1].append(text)
            element.clear()
        elif paragraphs:
            _say(paragraphs[-1], tag, element, headings)
    if blocks[0]:
        yield Piece("\n\n".join(blocks[0]), None, heading)


def _say(paragraph: _Paragraph, tag: str, element: Element, headings: dict[str, bool]) -> None:
    if tag == "t":
        paragraph.said.append(element.text or "")
    elif tag in _SPACES:
        paragraph.said.append(_SPACES[tag])
    elif tag == "pStyle":
        style = _attribute(element, "val")
        paragraph.heading = headings.get(style, bool(_HEADING_NAME.fullmatch(style)))
    elif tag == "numPr":
        paragraph.listed = True
