"""One document, whatever its kind. Pure: no network, no entities from elsewhere, nothing written, nothing run.

Errors are `Unreadable`: EMPTY, UNSUPPORTED, MISLABELLED (saying what the content is), ENCRYPTED, DAMAGED, TOO_LARGE.
"""

from __future__ import annotations

from pathlib import PurePath

from pypdf.errors import LimitReachedError

from app.integrations.documents import docx, html, markdown, pdf, text
from app.integrations.documents.kinds import kind_of
from app.integrations.documents.types import Document, Kind, Piece
from app.integrations.types import Problem, Unreadable

MAX_DATA_BYTES = 50 << 20

_READERS = {"docx": docx.read, "txt": text.read, "md": markdown.read, "html": html.read}


def read_document(name: str, data: bytes) -> Document:
    """The text of the file called ``name``. Nothing but `Unreadable` is raised, whatever ``data`` is."""
    if not data:
        raise Unreadable("EMPTY", "The file is empty.")
    if len(data) > MAX_DATA_BYTES:
        raise Unreadable("TOO_LARGE", f"The file is larger than {MAX_DATA_BYTES >> 20} MB.")
    kind = kind_of(name, data)
    try:
        title, pieces, problems = _read(kind, data)
    except Unreadable:
        raise
    except (MemoryError, LimitReachedError) as failure:
        raise Unreadable("TOO_LARGE", "The document takes more memory to read than is given.") from failure
    except Exception as failure:  # parsers meet damaged files with errors of any class, RecursionError among them
        raise Unreadable("DAMAGED", f"The {kind.upper()} is damaged and cannot be read.") from failure
    pieces = [piece for piece in pieces if piece.text]
    if not pieces:
        hint = " Scanned pages hold pictures of text: send a PDF with a text layer." if kind == "pdf" else ""
        raise Unreadable("EMPTY", f"The document holds no text.{hint}")
    stem = text.one_line(PurePath(name.replace("\\", "/")).stem)
    return Document(title=title or stem or "Untitled", kind=kind, pieces=pieces, problems=problems)


def _read(kind: Kind, data: bytes) -> tuple[str | None, list[Piece], list[Problem]]:
    if kind == "pdf":
        return pdf.read(data)
    title, pieces = _READERS[kind](data)
    return title, pieces, []
