"""PDF: the text of each page, as one piece.

Choices:

1. pypdf bounds what a stream may unpack to, how many pages a tree may have and how much work one extraction may do;
   what it refuses is TOO_LARGE. The process around it (`bounded`) bounds the rest.
2. A page that cannot be read is a problem of the document, not its end.
3. Ligatures are written out: a search for "office" must find what was set as "oﬃce".
4. A document that opens with the empty password is read: such passwords only forbid printing and the like.
"""

from __future__ import annotations

from io import BytesIO

from pypdf import PasswordType, PdfReader
from pypdf.errors import DependencyError, LimitReachedError, WrongPasswordError

from app.integrations.documents.text import one_line, tidy
from app.integrations.documents.types import Piece
from app.integrations.types import Problem, Unreadable

MAX_PAGES = 10_000
MAX_CHARACTERS = 50_000_000

_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})


def read(data: bytes) -> tuple[str | None, list[Piece], list[Problem]]:
    """Raises `Unreadable` ENCRYPTED or TOO_LARGE, and whatever pypdf raises on a damaged file."""
    reader = PdfReader(BytesIO(data))
    try:
        if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
            raise _encrypted()
    except (WrongPasswordError, NotImplementedError, DependencyError) as failure:
        raise _encrypted() from failure
    if len(reader.pages) > MAX_PAGES:
        raise Unreadable("TOO_LARGE", f"The document has more than {MAX_PAGES:,} pages.")
    pieces: list[Piece] = []
    problems: list[Problem] = []
    length = 0
    for number in range(1, len(reader.pages) + 1):
        try:
            text = tidy(reader.pages[number - 1].extract_text().translate(_LIGATURES))
        except LimitReachedError:
            problems.append(_problem(number, "TOO_LARGE", "unpacks to more than can be read"))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - pypdf meets a damaged page with errors of any class
            problems.append(_problem(number, "DAMAGED", "is damaged and could not be read"))
        else:
            length += len(text)
            if length > MAX_CHARACTERS:
                raise Unreadable("TOO_LARGE", f"The document holds more than {MAX_CHARACTERS:,} characters.")
            if text:
                pieces.append(Piece(text, number))
    if not pieces and problems:
        raise Unreadable(problems[0].code, "None of the document's pages could be read.")
    return _title(reader), pieces, problems


def _encrypted() -> Unreadable:
    return Unreadable("ENCRYPTED", "The document is protected by a password. Send it without one.")


def _problem(number: int, code: str, what: str) -> Problem:
    return Problem(item_id=f"page {number}", code=code, message=f"Page {number} {what}.")


def _title(reader: PdfReader) -> str | None:
    try:
        return one_line(reader.metadata.title or "" if reader.metadata else "") or None
    except Exception:  # noqa: BLE001 - as above; a document with a broken title is still a document
        return None
