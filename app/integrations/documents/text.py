"""Plain text: bytes to characters, and characters to what can be stored.

Choices:

1. A byte order mark decides; else UTF-8 when it fits; else UTF-16 when every second byte is nought; else the encoding
   the document declares; else Windows-1252, which a file that is neither most likely is.
2. Text with a few broken bytes among many good UTF-8 sequences is UTF-8: read as Windows-1252 all its letters would be
   wrong, not a few.
3. A cut last character is dropped: whoever cut the file cut there.
"""

from __future__ import annotations

import codecs
import re

from app.integrations.documents.types import Piece
from app.integrations.types import Unreadable

_SAMPLE_BYTES = 64 << 10
_BINARY_SHARE = 0.02  # of control characters; text has none but those below
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\b\t\n\v\f\r\x1b")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARABLE = re.compile(r"(?:iso-?8859|windows-|cp\d|koi8|shift_?jis|euc-|gb|big5|mac)", re.IGNORECASE)
_SOFT_HYPHEN, _MARK = 0xAD, 0xFEFF  # invisible, and in the way of every search
_UNSTORABLE = {code: None for code in (*range(32), 127, _SOFT_HYPHEN, _MARK) if chr(code) not in "\t\n"}


def decode(data: bytes, declared: str | None = None) -> str:
    """The characters of ``data``. Raises `Unreadable` MISLABELLED when it is no text at all."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    sample = data[:_SAMPLE_BYTES]
    if wide := _utf16(sample):
        return data.decode(wide, "replace")
    if sample.count(0) or len(sample) - len(sample.translate(None, _CONTROLS)) > _BINARY_SHARE * len(sample):
        raise Unreadable("MISLABELLED", "The file holds binary data, not text.")
    try:
        return codecs.utf_8_decode(data, "strict", False)[0]
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if len(text) - len(text.encode("ascii", "ignore")) > 2 * broken:
        return text
    wanted = declared if declared and _DECLARABLE.match(declared) else "cp1252"
    for encoding in (wanted, "cp1252"):
        try:
            return data.decode(encoding)
        except (LookupError, UnicodeError):
            continue
    return data.decode("latin-1")


def _utf16(sample: bytes) -> str | None:
    """UTF-16 without a mark: Latin letters have every high byte nought, and no text has a nought elsewhere."""
    half = len(sample) // 2
    low, high = sample[0::2].count(0), sample[1::2].count(0)
    if half and high > 0.4 * half and not low:
        return "utf-16-le"
    if half and low > 0.4 * half and not high:
        return "utf-16-be"
    return None


def tidy(text: str) -> str:
    """One kind of line end, no control characters, no spaces at lines' ends, no more than one empty line in a row."""
    text = re.sub(r"\r\n?|[\v\f\u2028\u2029\x85]", "\n", text).translate(_UNSTORABLE)
    try:
        text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs, which neither JSON nor PostgreSQL takes
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def one_line(text: str, limit: int = 200) -> str:
    """A title or heading: one line of at most ``limit`` characters."""
    return " ".join(tidy(text).split())[:limit].rstrip()


def read(data: bytes) -> tuple[str | None, list[Piece]]:
    return None, [Piece(tidy(decode(data)))]
