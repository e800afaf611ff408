"""Records of any API: JSON or NDJSON bytes and a mapping in, records one by one out.

Choices:

1. Which form the bytes have is told by the content type, else by how they begin: an array holds records, an object
   holds a list of them or is one itself, several lines that each begin an object are NDJSON.
2. The outer level is divided first and each record read by itself: memory stays near the bytes, and one bad record is
   one bad record.
3. A path is keys joined by dots, list positions among them (``author.name``, ``tags.0``). A key that holds dots itself
   is found too.
4. A record without an id gets one of its content: the same record pulled again is the same record.
5. The zeros of a time in numbers tell its unit: no time since 1973 in milliseconds is one before 5138 in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.ids import derived_id
from app.integrations.documents.text import one_line, tidy
from app.integrations.exports.fields import (
    Malformed,
    Raw,
    anything,
    first_character,
    items,
    members,
    moment,
    own_id,
    record,
    whole,
)
from app.integrations.types import Problem, Unreadable

MOST_RECORDS = 200_000
LONGEST_TEXT = 32_000
LONGEST_CATEGORY = 100
LONGEST_VALUE = 1_000
PEEKED_LINES = 100

_TEXTS = ("text", "content", "body", "message", "description")
_IDS = ("id", "_id", "uuid")
_TIMES = ("timestamp", "created_at", "createdAt", "date", "time")
_LISTS = ("records", "items", "data", "results", "entries", "rows", "messages")
_PLACEHOLDER = re.compile(r"\{([^{}]{1,200})\}")
_DIGITS = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,9})?")
_SECONDS_END = 1e11
_DATE_DIGITS = 8
_LINED = ("ndjson", "jsonl", "json-seq", "jsonlines")

Path = Annotated[str, Meta(min_length=1, max_length=200)]
Template = Annotated[str, Meta(min_length=1, max_length=1_000)]


class Mapping(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where in a record its fields are; what is not named is looked for under the usual names.

    ``text`` is a path, several paths whose texts are joined by line ends, or a template such as ``{title}: {body}``.
    ``metadata`` gives names to paths.
    """

    text: Template | Annotated[list[Path], Meta(min_length=1, max_length=20)] | None = None
    id: Path | None = None
    timestamp: Path | None = None
    title: Path | None = None
    category: Path | None = None
    metadata: Annotated[dict[Annotated[str, Meta(min_length=1, max_length=100)], Path], Meta(max_length=20)] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record. ``said_at`` is aware, in UTC. Values of ``metadata`` that are long or not plain are text, cut."""

    id: str
    text: str
    said_at: datetime | None = None
    title: str | None = None
    category: str | None = None
    metadata: dict[str, str | int | float | bool] = {}


Records = Iterator[Record | Problem]


def read_records(
    data: bytes, *, mapping: Mapping | None = None, records_path: str | None = None, content_type: str = ""
) -> Records:
    """The records of a body in their order. ``records_path`` leads to the list in a JSON object.

    Raises `Unreadable` at once: EMPTY, MISLABELLED, DAMAGED or NO_RECORDS (no list where ``records_path`` leads).
    """
    mapping = mapping or Mapping()
    begins = first_character(data)
    if not begins:
        raise Unreadable("EMPTY", "There is nothing to read.")
    if any(kind in content_type.lower() for kind in _LINED) or (begins == b"{" and _is_lined(data)):
        if not _some_line_reads(data):
            raise Unreadable("DAMAGED", "None of the first lines is a JSON object.")
        return _bounded(_of_lines(data, mapping))
    if begins not in (b"{", b"["):
        raise Unreadable("MISLABELLED", "The data is neither JSON nor NDJSON.")
    try:
        elements = items(data) if begins == b"[" and not records_path else _list_within(data, records_path)
    except Malformed as error:
        if begins == b"{" and _some_line_reads(data):
            return _bounded(_of_lines(data, mapping))  # its first line is the damaged one
        raise Unreadable("DAMAGED", f"The JSON {error}.") from error
    return _bounded(_of_elements(elements, mapping))


def map_records(values: Iterable[Any], mapping: Mapping | None = None) -> Records:
    """The records of decoded JSON values, as a request brings them along."""
    numbered = enumerate(values, 1)
    return _bounded(_mapped(f"record:{number}", value, mapping or Mapping()) for number, value in numbered)


def _bounded(records: Iterable[Record | Problem]) -> Records:
    for number, one in enumerate(records):
        if number == MOST_RECORDS:
            more = f"Only the first {MOST_RECORDS:,} records are read."
            yield Problem(item_id=f"record:{number + 1}", code="TOO_MANY", message=more)
            return
        yield one


def _is_lined(data: bytes) -> bool:
    """Whether the first line is an object and another one follows."""
    lines = _lines(data)
    _, first = next(lines)
    if next(lines, None) is None:
        return False
    try:
        members(first)
    except Malformed:
        return False
    return True


def _some_line_reads(data: bytes) -> bool:
    for _, (_, line) in zip(range(PEEKED_LINES), _lines(data), strict=False):
        try:
            members(line)
        except Malformed:
            continue
        return True
    return False


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1."""
    start, number = 0, 0
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        number += 1
        if line := data[start:end].strip(b" \t\r\x1e"):  # RFC 7464 begins a record with 0x1e
            yield number, line
        start = end + 1


def _of_lines(data: bytes, mapping: Mapping) -> Records:
    for number, line in _lines(data):
        try:
            value = record(line)
        except Malformed as error:
            bad = f"Line {number} {error}."
            yield Problem(item_id=f"line:{number}", code="BAD_RECORD", message=bad)
            continue
        yield _mapped(f"line:{number}", value, mapping)


def _of_elements(elements: list[Raw], mapping: Mapping) -> Records:
    for number, element in enumerate(elements, 1):
        try:
            value = anything(element)
        except Malformed as error:
            bad = f"Record {number} {error}."
            yield Problem(item_id=f"record:{number}", code="BAD_RECORD", message=bad)
            continue
        yield _mapped(f"record:{number}", value, mapping)


def _list_within(data: bytes, records_path: str | None) -> list[Raw]:
    """The list that ``records_path`` leads to, or the first of the usual names; else the object as the only record."""
    here = whole(data)
    if records_path is None:
        top = members(data)
        return next((items(top[name]) for name in _LISTS if name in top and _begins(top[name]) == b"["), [here])
    for key in records_path.split("."):
        begins = _begins(here)
        inner = members(here).get(key) if begins == b"{" else _at(items(here), key) if begins == b"[" else None
        if inner is None:
            raise Unreadable("NO_RECORDS", f"The data has nothing at «{records_path}».")
        here = inner
    if _begins(here) != b"[":
        raise Unreadable("NO_RECORDS", f"What the data has at «{records_path}» is no list.")
    return items(here)


def _begins(raw: Raw) -> bytes:
    return first_character(bytes(memoryview(raw)[:1000]))


def _at(values: list[Any], key: str) -> Any:
    return values[int(key)] if key.isascii() and key.isdigit() and int(key[:9]) < len(values) else None


def _mapped(place: str, value: object, mapping: Mapping) -> Record | Problem:
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict):
        return Problem(item_id=place, code="BAD_RECORD", message=f"{_called(place)} is not an object.")
    given = _id_of(value, mapping)
    text = tidy(_text(value, mapping))
    if not text:
        where = _named(mapping)
        return Problem(item_id=given or place, code="NO_TEXT", message=f"{_called(place)} has no text in {where}.")
    if len(text) > LONGEST_TEXT:
        long = f"The text of {place.replace(':', ' ')} has {len(text):,} characters; {LONGEST_TEXT:,} are allowed."
        return Problem(item_id=given or place, code="TOO_LONG", message=long)
    said_at = _moment(_first(value, mapping.timestamp, _TIMES))
    title = one_line(_plain(_first(value, mapping.title, ("title",)))) or None
    return Record(
        id=given or derived_id("rec", text, said_at.isoformat() if said_at else "", title or ""),
        text=text,
        said_at=said_at,
        title=title,
        category=one_line(_plain(_first(value, mapping.category, ("category",))), LONGEST_CATEGORY) or None,
        metadata=_metadata(value, mapping.metadata),
    )


def _called(place: str) -> str:
    return place.replace(":", " ").capitalize()


def _named(mapping: Mapping) -> str:
    paths = [mapping.text] if isinstance(mapping.text, str) else mapping.text or _TEXTS
    return " or ".join(f"«{path}»" for path in paths)


def _text(value: dict[str, Any], mapping: Mapping) -> str:
    if isinstance(mapping.text, list):
        return "\n".join(filter(None, (_plain(_found(value, path)) for path in mapping.text)))
    if mapping.text is None:
        return next(filter(str.strip, (_plain(value.get(name)) for name in _TEXTS)), "")
    if not (paths := _PLACEHOLDER.findall(mapping.text)):
        return _plain(_found(value, mapping.text))
    found = {path: _plain(_found(value, path)).strip() for path in paths}
    return _PLACEHOLDER.sub(lambda place: found[place[1]], mapping.text) if any(found.values()) else ""


def _id_of(value: dict[str, Any], mapping: Mapping) -> str | None:
    found = _first(value, mapping.id, _IDS)
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        return None
    return own_id(found, str(found))


def _metadata(value: dict[str, Any], paths: dict[str, str]) -> dict[str, str | int | float | bool]:
    kept: dict[str, str | int | float | bool] = {}
    for name, path in paths.items():
        found = _found(value, path)
        if isinstance(found, bool | float) or (isinstance(found, int) and abs(found) < 1 << 53):
            kept[name] = found
        elif found is not None:
            text = found if isinstance(found, str) else msgspec.json.encode(found).decode()
            kept[name] = tidy(text[: LONGEST_VALUE * 2])[:LONGEST_VALUE]
    return kept


def _first(value: dict[str, Any], path: str | None, names: tuple[str, ...]) -> Any:
    """What is at ``path``; without one, under the first of ``names`` that has something."""
    if path is not None:
        return _found(value, path)
    return next((value[name] for name in names if value.get(name) not in (None, "")), None)


def _found(value: Any, path: str) -> Any:
    """What is at ``path``; None when nothing is."""
    if isinstance(value, dict):
        if path in value:
            return value[path]
        keys = path.split(".")
        for count in range(len(keys) - 1, 0, -1):
            head = ".".join(keys[:count])
            if head in value:
                return _found(value[head], ".".join(keys[count:]))
        return None
    if not isinstance(value, list):
        return None
    key, _, rest = path.partition(".")
    inner = _at(value, key)
    return _found(inner, rest) if rest else inner


def _plain(found: object) -> str:
    """Text of a text or a number, and of a list of them line by line; of all else none."""
    if isinstance(found, str):
        return found
    if isinstance(found, int | float) and not isinstance(found, bool):
        return str(found)
    return "\n".join(filter(None, map(_plain, found))) if isinstance(found, list) else ""


def _moment(found: object) -> datetime | None:
    """A time in ISO 8601, or in seconds since 1970 or thousandths of them, as a number or in digits."""
    if isinstance(found, str):
        found = found.strip()
        if found.isdigit() and len(found) <= _DATE_DIGITS:  # as seconds all of them are in 1970
            return moment("-".join((found[:4], found[4:6], found[6:])))
        if not _DIGITS.fullmatch(found):
            return moment(found)
        found = float(found)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    while _SECONDS_END <= found < float("inf"):
        found /= 1000
    return moment(found)
