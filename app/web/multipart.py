"""Forms with files (``multipart/form-data``, RFC 7578), read as they come: fields are kept, files are handed on.

Choices:

1. A part with a file name is a file, any other a field: what RFC 7578 tells them apart by. A file input that was left
   empty comes as a part without name and content, and counts as none.
2. What is wrong with the form as such (no boundary, no end, a broken header) is a bad request. What is wrong with its
   parts is told by name, like a wrong field of JSON, at the end: all mistakes at once.
"""

from __future__ import annotations

import hashlib
import re
from typing import Protocol
from urllib.parse import unquote

import msgspec
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from app.errors import BadRequest, ValidationFailed
from app.web.parse import MOST_ERRORS, Body, Errors

KIND = "multipart/form-data"
MOST_FILES = 100
MOST_PARTS = 200
MOST_FIELD_BYTES = 16_384
LONGEST_NAME = 255
"""Of a file. Of a longer one the end is kept, which says what it is."""

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{1,70}")  # RFC 2046, 5.1.1
_EXTENDED_NAME = re.compile(r";\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^;\s]+)", re.IGNORECASE)  # RFC 8187


class Sink(Protocol):
    """Where files go: the parts of one follow its name."""

    async def file(self, name: str) -> None: ...

    async def write(self, data: bytes) -> None: ...


class Sent(msgspec.Struct, frozen=True):
    """A file that was handed on. ``digest`` is its SHA-256."""

    name: str
    size: int
    digest: str


class Form(msgspec.Struct, frozen=True):
    """What a form held, beside the contents of its files."""

    fields: dict[str, str]
    files: list[Sent]


class _File:
    """The file that is coming in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        self.hash = hashlib.sha256()


class _Reader:
    """Takes a form apart. ``accepted`` are the names that files may come under."""

    def __init__(self, sink: Sink, accepted: frozenset[str]) -> None:
        self.fields: dict[str, str] = {}
        self.files: list[Sent] = []
        self.errors: Errors = []
        self._sink = sink
        self._accepted = accepted
        self._name = ""
        self._field: bytearray | None = None
        self._file: _File | None = None
        self._started = False

    async def begin(self, segment: MultipartSegment) -> None:
        self._name, self._field, self._file, self._started = segment.name or "", None, None, False
        shown = self._name or "a part without name"
        file_name = _file_name(segment)
        if file_name is None:
            if self._name in self._accepted:
                self.errors.append((shown, "must be a file: it came without a file name"))
            elif self._name in self.fields:
                self.errors.append((shown, "is given more than once"))
            else:
                self._field = bytearray()
        elif self._name not in self._accepted:
            self.errors.append((shown, f"may not be a file: files are sent as {' or '.join(sorted(self._accepted))}"))
        elif len(self.files) >= MOST_FILES:
            self.errors.append((shown, f"there may be at most {MOST_FILES} files"))
        else:
            self._file = _File(file_name)
            if file_name:
                await self._start(self._file)

    async def take(self, piece: bytes) -> None:
        if self._file is not None:
            if not self._started:
                await self._start(self._file)
            self._file.size += len(piece)
            self._file.hash.update(piece)
            await self._sink.write(piece)
        elif self._field is not None:
            self._field += piece
            if len(self._field) > MOST_FIELD_BYTES:
                self.errors.append((self._name, f"may have at most {MOST_FIELD_BYTES} bytes"))
                self._field = None

    def end(self) -> None:
        if self._file is not None and self._started:
            self.files.append(Sent(self._file.name, self._file.size, self._file.hash.hexdigest()))
        elif self._field is not None:
            try:
                self.fields[self._name] = self._field.decode()
            except UnicodeDecodeError:
                self.errors.append((self._name, "must be text in UTF-8"))

    async def _start(self, file: _File) -> None:
        self._started = True
        await self._sink.file(file.name)


async def read_form(body: Body, content_type: bytes, sink: Sink, accepted: frozenset[str]) -> Form:
    """Reads a form to its end, handing its files to ``sink`` as they come.

    Raises BadRequest for what is no form, ValidationFailed naming every part that is wrong, and what ``body`` and
    ``sink`` raise.
    """
    parser = PushMultipartParser(_boundary(content_type), max_segment_count=MOST_PARTS)
    reader = _Reader(sink, accepted)
    try:
        async for piece in body:
            for event in parser.parse(piece):
                if isinstance(event, MultipartSegment):
                    await reader.begin(event)
                elif event is None:
                    reader.end()
                else:
                    await reader.take(event)
                if len(reader.errors) >= MOST_ERRORS:
                    raise ValidationFailed(reader.errors)
        parser.close()
    except ParserLimitReached as error:
        raise BadRequest(f"the form is beyond the bounds of its kind: {error}") from None
    except MultipartError as error:
        raise BadRequest(f"the body is no {KIND}: {error.args[0]}") from None  # what follows are Python's own errors
    if reader.errors:
        raise ValidationFailed(reader.errors)
    return Form(reader.fields, reader.files)


def is_form(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == KIND.encode()


def _boundary(content_type: bytes) -> str:
    _, options = parse_options_header(content_type.decode("latin-1"))
    boundary: str = options.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise BadRequest(f"the content type {KIND} must name its boundary")
    return boundary


def _file_name(segment: MultipartSegment) -> str | None:
    """The name of the part's file, None for a field."""
    name = segment.filename
    if name is None and (found := _EXTENDED_NAME.search(segment.header("Content-Disposition", ""))):
        name = unquote(found[2], encoding=found[1], errors="replace")
    return None if name is None else name[-LONGEST_NAME:]
