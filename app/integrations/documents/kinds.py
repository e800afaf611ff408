"""What a file is: what its name says, and what its first bytes say."""

from __future__ import annotations

from pathlib import PurePath
from typing import NamedTuple

from app.integrations.documents.types import Kind
from app.integrations.types import Unreadable
from app.integrations.zips import Archive, is_zip

_SUFFIXES: dict[str, Kind] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".txt": "txt",
    ".text": "txt",
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}
_TEXTS = {"txt", "md", "html"}
_MARKS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF87a", "a GIF picture"),
    (b"GIF89a", "a GIF picture"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"OggS\x00", "a sound recording"),
    (b"ID3", "a sound recording"),
)
_OLE_MARK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PDF_MARK = b"%PDF-"
_PDF_MARK_WITHIN = 1024  # readers of the format take it this late
_IN_ZIP = (
    ("word/", "a Word document", "docx"),
    ("xl/", "an Excel workbook", None),
    ("ppt/", "a PowerPoint presentation", None),
    ("META-INF/manifest.xml", "an OpenDocument file", None),
    ("META-INF/container.xml", "an e-book", None),
)


class Found(NamedTuple):
    """What the content is: ``called`` for the person, ``kind`` when it is one we read."""

    called: str
    kind: Kind | None = None


def kind_named(name: str) -> Kind | None:
    """The kind that a file's name says; None for one that is not read here."""
    return _SUFFIXES.get(PurePath(name.lower()).suffix)


def kind_of(name: str, data: bytes) -> Kind:
    """The kind that name and content agree on. Raises `Unreadable` UNSUPPORTED, ENCRYPTED, MISLABELLED or DAMAGED."""
    named = kind_named(name)
    found = look(data)
    if named is None:
        if found and found.kind and not PurePath(name).suffix:
            return found.kind
        raise Unreadable("UNSUPPORTED", "Only PDF, DOCX, TXT, Markdown and HTML files are read.")
    if data.startswith(_OLE_MARK) and "EncryptedPackage".encode("utf-16-le") in data:
        raise Unreadable("ENCRYPTED", "The document is protected by a password. Send it without one.")
    if named == "pdf" and (found is None or found.kind != "pdf") and _PDF_MARK in data[:_PDF_MARK_WITHIN]:
        return named
    if found and found.kind != named:
        raise Unreadable("MISLABELLED", f"The file is called {named.upper()}, but holds {found.called}.")
    if found is None and named not in _TEXTS:
        if _is_text(data):
            raise Unreadable("MISLABELLED", f"The file is called {named.upper()}, but holds plain text or HTML.")
        raise Unreadable("DAMAGED", f"The file is called {named.upper()}, but does not begin like one.")
    return named


def look(data: bytes) -> Found | None:
    """What the first bytes and a zip's directory say; None for text and whatever has no mark."""
    if data.startswith(_PDF_MARK):
        return Found("a PDF document", "pdf")
    if is_zip(data):
        return _in_zip(data)
    if data.startswith(_OLE_MARK):
        return Found("a document of an old Office (DOC, XLS or PPT)")
    if data[:4] == b"RIFF" and data[8:12] in {b"WEBP", b"WAVE", b"AVI "}:
        return Found({b"WEBP": "a WebP picture", b"WAVE": "a sound recording"}.get(data[8:12], "a film"))
    if data[4:8] == b"ftyp":
        return Found("a film or picture")
    return next((Found(called) for mark, called in _MARKS if data.startswith(mark)), None)


def _in_zip(data: bytes) -> Found:
    try:
        names = Archive(data).names
    except Unreadable as failure:
        if failure.code != "DAMAGED":
            raise
        # A cut archive has lost its directory; the names stand before each entry as well.
        docx = b"word/" in data
        return Found("a damaged Word document", "docx") if docx else Found("a damaged zip archive")
    for begin, called, kind in _IN_ZIP:
        if any(name.startswith(begin) for name in names):
            return Found(called, "docx" if kind else None)
    return Found("a zip archive")


def _is_text(data: bytes) -> bool:
    sample = data[:4096]
    try:
        sample.decode()
    except UnicodeDecodeError as failure:
        return failure.start > len(sample) - 4 and 0 not in sample
    return 0 not in sample
