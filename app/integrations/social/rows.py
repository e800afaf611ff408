"""Tables and times as the platforms write them.

Choices:

1. A row that cannot be read is a problem with the row's number; the next row is read.
2. Times without a zone are UTC: the three platforms write UTC, with or without saying so. A time that cannot be read
   is left out and its row is kept: what was said matters more than when.
3. Columns are found by their names in any case and order: archives of different years differ in both.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from app.integrations.documents.text import decode, tidy
from app.integrations.social.types import Item, ItemKind, Items
from app.integrations.types import Problem, Unreadable
from app.integrations.zips import Archive

Row = Mapping[str, str]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NAMED_MONTH = re.compile(r"\w{3} (\w{3}) (\d{1,2}) (\d\d:\d\d:\d\d) ([+-]\d{4}) (\d{4})")
_MILLISECONDS = re.compile(r"\d{12,13}")


def when(written: str) -> datetime | None:
    """The UTC time of ``2024-05-01 10:00:00 UTC``, ISO 8601, ``Wed May 01 10:00:00 +0000 2024`` or milliseconds."""
    written = written.strip()
    try:
        if _MILLISECONDS.fullmatch(written):
            return datetime.fromtimestamp(int(written) / 1000, UTC)
        if named := _NAMED_MONTH.fullmatch(written):
            month, day, clock, zone, year = named.groups()
            written = f"{year}-{_MONTHS.index(month.lower()) + 1:02}-{int(day):02}T{clock}{zone}"
        found = datetime.fromisoformat(written.removesuffix("UTC").strip())
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def made_id(kind: ItemKind, *parts: str) -> str:
    """An id of the content, for what has none of its own."""
    return f"{kind}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}"


def files(archive: Archive, *names: str) -> list[str]:
    """The entries called one of ``names``, in any folder and case."""
    return [entry for entry in archive.names if entry.rpartition("/")[2].lower() in names]


def table(archive: Archive, name: str, column: str, read: Callable[[Row], Item | None]) -> Items:
    """What ``read`` makes of the rows of the tables called ``name``; each has ``column``, which marks the header."""
    for file in files(archive, name):
        for number, row in _rows(archive, file, column):
            if isinstance(row, Problem):
                yield row
                continue
            try:
                item = read(row)
            except ValueError as failure:
                yield Problem(item_id=f"{file}:{number}", code="BAD_ROW", message=f"Row {number} of {file}: {failure}.")
                continue
            if item is not None:
                yield item


def first_row(archive: Archive, name: str, column: str) -> Row:
    """The first good row of the table called ``name``; empty when there is none."""
    return next(all_rows(archive, name, column), {})


def all_rows(archive: Archive, name: str, column: str) -> Iterator[Row]:
    """The good rows of the tables called ``name``."""
    for file in files(archive, name):
        for _, row in _rows(archive, file, column):
            if not isinstance(row, Problem):
                yield row


def _rows(archive: Archive, file: str, column: str) -> Iterator[tuple[int, Row | Problem]]:
    try:
        text = decode(archive.read(file))
    except Unreadable as failure:
        yield 0, Problem(item_id=file, code=failure.code, message=f"{file}: {failure.message}")
        return
    # LinkedIn's comments escape quotes by a backslash; elsewhere a backslash is a character like any other.
    reader = csv.reader(io.StringIO(text, newline=""), escapechar="\\" if '\\"' in text else None)
    header: list[str] | None = None
    number = 0
    while True:
        try:
            fields = next(reader, None)
        except csv.Error:
            number += 1
            yield number, _bad(file, number, "cannot be read")
            continue
        if fields is None:
            break
        if header is None:
            names = [field.strip().lower() for field in fields]
            header = names if column in names else None
            continue
        number += 1
        if not any(map(str.strip, fields)):
            continue
        if any(map(str.strip, fields[len(header) :])):
            yield number, _bad(file, number, "has more fields than the table has columns")
            continue
        row = dict.fromkeys(header, "")
        row.update((key, tidy(field)) for key, field in zip(header, fields, strict=False))
        yield number, row
    if header is None:
        yield 0, Problem(item_id=file, code="DAMAGED", message=f"{file} has no column «{column}».")


def _bad(file: str, number: int, what: str) -> Problem:
    return Problem(item_id=f"{file}:{number}", code="BAD_ROW", message=f"Row {number} of {file} {what}.")
