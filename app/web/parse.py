"""Requests on their way in: bodies and query parameters that are wrong are told so field by field. Knows no route.

A body that is right costs two passes of msgspec. One that is wrong is taken apart, so that the answer names *every*
wrong field by its full path (``messages[2].content[0].text``) and the caller mends them all at once.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import parse_qs

import anyio
import msgspec
from litestar.types import Receive, Scope

from app.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed

MOST_ERRORS = 100
DRAIN_S = 5.0
DRAIN_TIMES = 8
"""What is read and dropped past the limit, in time and in limits: a client still sending reads no answer."""

BODY_PAUSE_S = 30.0
"""Longest wait for the next part of a body."""

T = TypeVar("T", bound=msgspec.Struct)
E = TypeVar("E", bound=str)

_WHERE = re.compile(r" - at `\$(.*?)`$")
Errors = list[tuple[str, str]]


class Body:
    """The request's body as it comes, of at most ``limit`` bytes: ``async for piece in body``.

    Iterating raises PayloadTooLarge beyond the limit, BadRequest when the client goes away or sends nothing for
    ``BODY_PAUSE_S``. Who refuses a body before its end calls `drain` first.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._more = True
        declared = header(scope, b"content-length")
        self._size = int(declared) if declared.isdigit() and int(declared) > limit else 0

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        while self._size <= self._limit:
            if not self._more:
                raise StopAsyncIteration
            piece = await self._next()
            self._size += len(piece)
            if piece and self._size <= self._limit:
                return piece
        raise PayloadTooLarge(f"the body may have at most {self._limit} bytes", details={"max_bytes": self._limit})

    async def _next(self) -> bytes:
        with anyio.move_on_after(BODY_PAUSE_S) as pause:
            message = await self._receive()
        if pause.cancelled_caught:
            self._more = False
            raise BadRequest(f"the rest of the body did not come: nothing was received for {BODY_PAUSE_S:g} s")
        if message["type"] != "http.request":
            self._more = False
            raise BadRequest("the client went away before its body had arrived")
        self._more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def whole(self) -> bytes | bytearray:
        """All of it, held once. What is too much is not kept."""
        body: bytes | bytearray = b""
        try:
            async for piece in self:
                if not body:
                    body = piece
                else:
                    body = bytearray(body) if isinstance(body, bytes) else body
                    body += piece
        except PayloadTooLarge:
            body = b""
            await self.drain()
            raise
        return body

    async def drain(self) -> None:
        """Reads and drops the rest, within bounds: a client that is still sending reads no answer."""
        left = self._limit * DRAIN_TIMES
        with anyio.move_on_after(DRAIN_S), suppress(BadRequest):
            while self._more and left > 0:
                left -= len(await self._next())
        self._more = False


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body, as `read_large_body` reads it."""
    return bytes(await read_large_body(scope, receive, limit))


async def read_large_body(scope: Scope, receive: Receive, limit: int) -> bytes | bytearray:
    """The request's body, held once. Raises as a `Body` does."""
    return await Body(scope, receive, limit).whole()


async def read_json(scope: Scope, receive: Receive, limit: int) -> bytes:
    """`read_body` of a request that must be JSON. Raises UnsupportedMediaType as well; no content type is taken."""
    must_be_json(scope)
    return await read_body(scope, receive, limit)


def must_be_json(scope: Scope) -> None:
    """Raises UnsupportedMediaType for a request that says its body is something else."""
    kind = header(scope, b"content-type").partition(b";")[0].strip().lower()
    if kind and kind != b"application/json":
        raise UnsupportedMediaType("the body must be application/json")


def header(scope: Scope, name: bytes) -> bytes:
    """A header's value (name in lower case), or nothing."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def decode(
    raw: bytes, shape: type[T], check: Callable[[T], Errors] | None = None, **stand_ins: Any
) -> tuple[T, list[str]]:
    """The body as ``shape``, and the names of top-level fields that ``shape`` does not know.

    ``check`` says what types and bounds cannot. It is asked about a body with wrong fields too: they have their
    default, or for want of one the right value that ``stand_ins`` gives, so that all mistakes are told at once.
    Raises BadRequest for what is no JSON, ValidationFailed naming every field that is wrong or missing.
    """
    if not raw.strip():
        raise BadRequest("the body is empty: it must be a JSON object")
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValidationFailed([("body", "must be a JSON object")])
    try:
        body = msgspec.convert(value, shape)
    except (msgspec.ValidationError, RecursionError):
        found = wrong(value, shape, "")
        if check is not None:
            found += check(_mended(value, shape, stand_ins))
        raise ValidationFailed(found[:MOST_ERRORS]) from None
    if check is not None and (found := check(body)):
        raise ValidationFailed(found[:MOST_ERRORS])
    return body, [name for name in value if name not in _names(shape)]


def _mended(value: dict[str, Any], shape: type[T], stand_ins: dict[str, Any]) -> T:
    """A ``shape`` of what is right in ``value``."""
    right = dict(stand_ins)
    for field in msgspec.structs.fields(shape):
        with suppress(KeyError, msgspec.ValidationError, RecursionError):
            right[field.name] = msgspec.convert(value[field.encode_name], field.type)
    return shape(**right)


@lru_cache(maxsize=256)
def _names(shape: type[msgspec.Struct]) -> frozenset[str]:
    """Asking msgspec for a type's fields resolves its annotations anew: half of what a right body costs."""
    return frozenset(field.encode_name for field in msgspec.structs.fields(shape))


def moment(text: str) -> datetime:
    """A time in ISO 8601 (a date alone is its midnight, UTC where no zone is named). Raises ValueError."""
    when = datetime.fromisoformat(text)
    try:
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{text} lies outside the calendar") from None


def warning(unknown: list[str]) -> dict[str, str]:
    """The header that names ignored fields (RFC 7234's warn-code 299), or none."""
    if not unknown:
        return {}
    names = ", ".join(re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:64] for name in unknown[:20])
    return {"Warning": f'299 - "ignored unknown fields: {names}"'}


def wrong(value: Any, kind: Any, path: str) -> Errors:
    """Every way in which ``value`` is no ``kind``; empty when it is one."""
    try:
        msgspec.convert(value, kind)
        return []
    except (msgspec.ValidationError, RecursionError) as error:
        inner = _inside(value, kind, path)
        return inner or [told(str(error), path, kind)]


def _inside(value: Any, kind: Any, path: str) -> Errors:
    """The errors of the parts of ``value``, where it has parts and ``kind`` says what they are."""
    kind = _plain(kind, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(value, list) and origin is list:
        return _collect((wrong, item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
    if isinstance(value, dict) and origin is dict:
        return _collect((wrong, item, arguments[1], _join(path, key)) for key, item in value.items())
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _fields(value, kind, path)
    return []


def _collect(checks: Any) -> Errors:
    found: Errors = []
    for check, value, kind, path in checks:
        found += check(value, kind, path)
        if len(found) >= MOST_ERRORS:
            break
    return found


def _fields(value: dict[str, Any], shape: type[msgspec.Struct], path: str) -> Errors:
    found: Errors = []
    for field in msgspec.structs.fields(shape):
        at = _join(path, field.encode_name)
        if field.encode_name in value:
            found += wrong(value[field.encode_name], field.type, at)
        elif field.required:
            found.append((at, "is required"))
    return found


def _plain(kind: Any, value: Any) -> Any:
    """``kind`` without annotations, and of a union the member that ``value`` was meant to be."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0], value)
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    members = [_plain(member, value) for member in get_args(kind)]
    if isinstance(value, list):
        return next((m for m in members if get_origin(m) is list), kind)
    if isinstance(value, dict):
        structs = [m for m in members if isinstance(m, type) and issubclass(m, msgspec.Struct)]
        tagged = [m for m in structs if (c := m.__struct_config__).tag_field and value.get(c.tag_field) == c.tag]
        if tagged or (len(structs) == 1 and structs[0].__struct_config__.tag is None):
            return (tagged or structs)[0]
        return next((m for m in members if get_origin(m) is dict), kind)
    return kind


def told(text: str, path: str, kind: Any) -> tuple[str, str]:
    """msgspec's message as (field, reason)."""
    if text.startswith("Invalid enum value") and get_origin(kind) is Literal:
        return path, f"must be one of {', '.join(map(str, get_args(kind)))}"
    if found := _WHERE.search(text):
        text, inner = text[: found.start()], found.group(1)
        path = (path + inner) if path else inner.removeprefix(".")
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        return _join(path, missing.group(1)), "is required"
    return path or "body", text[:1].lower() + text[1:]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class Query:
    """The query parameters of a request: read them all, then `check`, so that every wrong one is named at once."""

    def __init__(self, scope: Scope) -> None:
        text = scope["query_string"].decode("utf-8", "replace")
        self._values = parse_qs(text, keep_blank_values=True)
        self._errors: Errors = []

    def text(self, name: str, *, longest: int = 256) -> str | None:
        """A string, or None when absent or empty."""
        value = self._values.get(name, [""])[0]
        if len(value) > longest:
            self._errors.append((name, f"must have at most {longest} characters"))
        elif "\x00" in value:
            self._errors.append((name, "must not contain the NUL character"))
        return value or None

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        raw = self.text(name)
        if raw is None:
            return default
        if not re.fullmatch(r"-?[0-9]{1,18}", raw) or not least <= int(raw) <= most:
            self._errors.append((name, f"must be a whole number from {least} to {most}"))
            return default
        return int(raw)

    def required(self, name: str) -> str:
        """A string that must be there."""
        value = self.text(name)
        if value is None:
            self._errors.append((name, "is required"))
        return value or ""

    def choice(self, name: str, choices: tuple[E, ...]) -> E | None:
        """One of ``choices``, or None when absent."""
        raw = self.text(name)
        if raw is None:
            return None
        for choice in choices:
            if raw == choice:
                return choice
        self._errors.append((name, f"must be one of {', '.join(choices)}"))
        return None

    def several(self, name: str, choices: tuple[str, ...]) -> list[str]:
        """Some of ``choices``, with commas between, each once; none when absent."""
        raw = self.text(name)
        found = list(dict.fromkeys(part.strip() for part in raw.split(","))) if raw else []
        if not set(found) <= set(choices):
            self._errors.append((name, f"must be of {', '.join(choices)}, with commas between"))
        return found

    def flag(self, name: str, default: bool = False) -> bool:
        """``true``/``false`` (``1``/``0`` too)."""
        wish = self.wish(name)
        return default if wish is None else wish

    def wish(self, name: str) -> bool | None:
        """A flag, or None when absent."""
        raw: Literal["true", "1", "false", "0"] | None = self.choice(name, ("true", "1", "false", "0"))
        return None if raw is None else raw in ("true", "1")

    def page(self) -> tuple[int, int]:
        """``page`` (from 1) and ``page_size`` (1 to 100, by default 20)."""
        return self.integer("page", 1, least=1, most=1_000_000), self.integer("page_size", 20, least=1, most=100)

    def parsed(self, name: str, parse: Callable[[str], Any], reason: str) -> Any:
        """What ``parse`` makes of the text, None when absent; its ValueError is the reason's."""
        raw = self.text(name)
        if raw is None:
            return None
        try:
            return parse(raw)
        except ValueError:
            self._errors.append((name, reason))
            return None

    def check(self) -> None:
        """Raises ValidationFailed when any parameter read so far was wrong."""
        if self._errors:
            raise ValidationFailed(self._errors)
