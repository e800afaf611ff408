"""Values out of JSON nobody has checked: each function takes anything and gives its type, or raises `Malformed`.

Choices:

1. The outer levels are decoded to `msgspec.Raw` and each message by itself: memory stays near the file and one
   conversation, and one bad message is one bad message.
2. Half a surrogate pair (what is left of an emoji cut in two) and bytes that are no UTF-8 are repaired, not refused:
   real exports have both.
3. A time that makes no sense is no time; a text that is no text makes its message malformed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import Any, TypeVar

import msgspec

from app.ids import derived_id

ID_CHARACTERS = 200
NAME_CHARACTERS = 200

Raw = msgspec.Raw
T = TypeVar("T")

_BOM = b"\xef\xbb\xbf"
_ESCAPES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_SECONDS = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_KINDS = {
    "image": "jpg jpeg png gif webp heic bmp svg tiff",
    "video": "mp4 mov 3gp mkv webm avi m4v",
    "audio": "opus ogg oga mp3 m4a aac wav flac amr",
}
_KIND_OF = {extension: kind for kind, extensions in _KINDS.items() for extension in extensions.split()}


class Malformed(ValueError):
    """Not what the format says; the message tells what."""


def first_character(data: bytes) -> bytes:
    """What a file begins with, blanks and the byte order mark aside."""
    return data[:1000].removeprefix(_BOM).lstrip()[:1]


def whole(data: bytes) -> Raw:
    """A file as one JSON value."""
    return Raw(data.removeprefix(_BOM))


def items(raw: bytes | Raw) -> list[Raw]:
    """The elements of a JSON array."""
    return _decoded(raw, list[Raw], "a list")


def members(raw: bytes | Raw) -> dict[str, Raw]:
    """The members of a JSON object."""
    return _decoded(raw, dict[str, Raw], "an object")


def record(raw: bytes | Raw) -> dict[str, Any]:
    """A JSON object with all that is in it."""
    return _decoded(raw, dict[str, Any], "an object")


def anything(raw: bytes | Raw | None) -> Any:
    """Any JSON value; None where there is none."""
    return None if raw is None else _decoded(raw, object, "JSON")


def _decoded(raw: bytes | Raw, kind: type[T], what: str) -> T:
    if isinstance(raw, bytes):
        raw = raw.removeprefix(_BOM)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise Malformed(f"is not {what}") from error
    except RecursionError as error:
        raise Malformed("is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        repaired = _repaired(bytes(raw))
        if repaired is None:
            raise Malformed("is damaged, or no JSON at all") from error
        return _decoded(repaired, kind, what)


def _repaired(data: bytes) -> bytes | None:
    """``data`` as it can be decoded, None when it needs no repair (and then cannot be)."""
    repaired = _ESCAPES.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)
    try:
        repaired.decode()
    except UnicodeDecodeError:
        repaired = repaired.decode(errors="replace").encode()
    return repaired if repaired != data else None


def text(value: object) -> str:
    """A text, without the NULs no database takes; "" for null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed("has a text that is no text")
    return value.replace("\x00", "")


def label(value: object) -> str | None:
    """A name or title on one line; None when there is none."""
    if not isinstance(value, str):
        return None
    return " ".join(value[: NAME_CHARACTERS * 4].replace("\x00", "").split())[:NAME_CHARACTERS] or None


def records(value: object) -> list[dict[str, Any]]:
    """The objects in a list; all else in it, or instead of it, is left out."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def within(value: object) -> dict[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, dict) else {}


def own_id(value: object, *otherwise: str) -> str:
    """The platform's id as text, else one derived from ``otherwise``, the same for the same parts."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= ID_CHARACTERS and value.isprintable():
        return value
    return derived_id("imp", *otherwise)


def moment(value: object, zone: tzinfo = UTC) -> datetime | None:
    """Seconds since 1970 (a number, or digits) or an ISO time; one without a zone is of ``zone``."""
    try:
        if isinstance(value, str) and not _SECONDS.fullmatch(value):
            at = datetime.fromisoformat(value[:40])
            return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            seconds = float(value)
            return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None
    return None


def attachment(name: object = None, *, mime: object = None, kind: str | None = None) -> str:
    """The line that stands for something sent along, such as ``[image: name.png]``."""
    called = label(name)
    if kind is None:
        kind = mime.split("/")[0] if isinstance(mime, str) else ""
        if kind not in _KINDS:
            kind = _KIND_OF.get(called.rsplit(".", 1)[-1].lower(), "file") if called else "file"
    return f"[{kind}: {called}]" if called else f"[{kind}]"


def quoted(words: str) -> str:
    """``words`` as a block quote: they are told, not said, and no facts are drawn from them."""
    return "\n".join(f"> {line}".rstrip() for line in words.strip().split("\n"))


def together(*pieces: str) -> str:
    """The pieces that are not empty, each on a line of its own."""
    return "\n".join(piece.strip() for piece in pieces if piece.strip())
