"""What the integration routes are asked, and what they answer. Pure. PROTOCOL.md, Integrations.

The bodies may be large: what a request brings along inline (`Inline`) is never decoded here, only found in its JSON and
handed on as it came. What it says of it is checked like any other body, every wrong field by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from app.errors import BadRequest, ValidationFailed
from app.integrations.exports.reader import PLATFORMS
from app.integrations.integration import StatusBody, Type
from app.integrations.records import Mapping
from app.memory.types import Category
from app.web.answers import When
from app.web.history_bodies import Platform
from app.web.memory_bodies import Errors, Name
from app.web.parse import MOST_ERRORS, told, wrong

MOST_CHECKED_BYTES = 1_000_000
"""Of a field that is decoded to be checked."""
MOST_HEADERS = 50
UNTOLD = "auto"
"""The platform of an export until a worker has told whose it is."""
SPELT = {"x": "twitter"}
INLINE = ("export", "chat_data", "records")

_LIST = re.compile(rb"\s*\[\s*[^\]\s]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]{0,8000}")
_OURS = {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "accept-encoding"}

Label = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Dotted = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Secret = Annotated[str, Meta(min_length=1, max_length=8_000, pattern=r"^[\x21-\x7e]+$")]
T = TypeVar("T", bound=msgspec.Struct)


class _Common(msgspec.Struct, kw_only=True):
    """``name`` is the caller's own label. ``memories: false`` draws no memories from what is brought."""

    name: Label | None = None
    memories: bool = True
    user_id: Annotated[Name | None, Meta(description="whose")] = None


class ChatForm(_Common, kw_only=True):
    """An export as its platform gives it. ``platform`` is told from the file where it is not named; ``me`` is the name
    of the person whose account this is; ``zone`` that of times written without one."""

    platform: Literal["chatgpt", "claude", "telegram", "whatsapp", "slack", "discord"] | None = None
    me: Name | None = None
    zone: Annotated[Label | None, Meta(description="an IANA name, such as Europe/Lisbon")] = None


class ChatJson(_Common, kw_only=True):
    """Either ``export``, the export's own JSON, or ``chat_data``: conversations ``{id, title, created_at, updated_at,
    messages[{id, role, content, timestamp, name}]}``, or the messages of one."""

    platform: Platform | None = None
    me: Name | None = None
    zone: Annotated[Label | None, Meta(description="an IANA name, such as Europe/Lisbon")] = None
    export: list[Any] | dict[str, Any] | None = None
    chat_data: Annotated[list[Any], Meta(min_length=1)] | None = None


class FilesForm(_Common, kw_only=True):
    """Documents. ``extract_mode``: ``verbatim`` keeps each chunk as a memory, ``facts`` draws memories from it."""

    chunk_size: Annotated[int, Meta(ge=200, le=8_000, description="characters")] = 1_000
    overlap: Annotated[int, Meta(ge=0, lt=8_000, description="characters, fewer than chunk_size")] = 200
    category: Category | None = None
    extract_mode: Literal["verbatim", "facts"] = "verbatim"


class SocialForm(_Common, kw_only=True):
    """The archive that the platform gives as the export of one's own data. ``x`` is ``twitter``."""

    platform: Literal["linkedin", "twitter", "reddit", "x"]


class SocialJson(SocialForm, kw_only=True):
    """``auth_token`` lets the platform's API be read; it is kept until the work ends."""

    auth_token: Secret


class ApiJson(_Common, kw_only=True):
    """Either ``url``, pulled with ``headers``, or ``records``. ``headers`` are kept until the work ends."""

    url: Annotated[str, Meta(max_length=2_048, pattern=r"^https?://")] | None = None
    records: Annotated[list[Any], Meta(min_length=1)] | None = None
    mapping: Mapping | None = None
    headers: Annotated[dict[str, str], Meta(max_length=MOST_HEADERS)] | None = None
    format: Literal["auto", "json", "ndjson"] = "auto"
    records_path: Dotted | None = None
    platform: Platform = "api"
    category: Category | None = None
    infer: bool = False


class Retry(msgspec.Struct, kw_only=True):
    """What its source asks for and is not kept: needed again where the source is."""

    auth_token: Secret | None = None
    headers: Annotated[dict[str, str], Meta(max_length=MOST_HEADERS)] | None = None

    def secret(self) -> dict[str, Any] | None:
        given = {"auth_token": self.auth_token, "headers": self.headers}
        return {name: value for name, value in given.items() if value} or None


class Begun(msgspec.Struct, kw_only=True):
    """An integration that waits for a worker."""

    integration_id: str
    type: Type
    platform: str
    status: Literal["pending"] = "pending"
    created_at: When
    events_url: str


class Learned(msgspec.Struct):
    id: str
    memory: str


class Shown(StatusBody, kw_only=True):
    """The status, with what was asked for, secrets apart, and the newest memories that were made."""

    name: str | None
    request: dict[str, Any]
    memories: list[Learned]


class Listed(StatusBody, kw_only=True):
    """The status, without errors and logs."""

    name: str | None


class Page(msgspec.Struct):
    integrations: list[Listed]
    next_cursor: str | None


class CancelledIntegration(msgspec.Struct, kw_only=True):
    message: str = "Integration cancelled successfully"
    integration_id: str
    status: Literal["cancelled"] = "cancelled"


def read_fields(fields: dict[str, str], shape: type[T], check: Any = None) -> tuple[T, list[str]]:
    """A form's fields as ``shape``, and the names of those it does not know; an empty field is one not given.

    Raises ValidationFailed naming every wrong one.
    """
    values: dict[str, Any] = {}
    found: Errors = []
    for field in msgspec.structs.fields(shape):
        text = fields.get(field.encode_name, "")
        if not text and field.required:
            found.append((field.encode_name, "is required"))
        if text:
            _take(values, found, field, text, _from_text)
    return _made(shape, values, found, check), _unknown(fields, shape)


def read_json_fields(
    raw: bytes | bytearray, shape: type[T], check: Any = None
) -> tuple[T, dict[str, memoryview], list[str]]:
    """A JSON body as ``shape``, what it brings inline (by field, as it came), and the names of unknown fields.

    Raises BadRequest for what is no JSON, ValidationFailed naming every wrong field. Inline values stay unset.
    """
    given = _members(raw)
    inline: dict[str, memoryview] = {}
    values: dict[str, Any] = {}
    found: Errors = []
    for field in msgspec.structs.fields(shape):
        one = given.get(field.encode_name)
        if one is None and field.required:
            found.append((field.encode_name, "is required"))
        if one is None:
            continue
        if field.name in INLINE:
            _inline(inline, found, field.name, memoryview(one))
        elif len(memoryview(one)) > MOST_CHECKED_BYTES:
            found.append((field.encode_name, "is too large"))
        else:
            _take(values, found, field, one, _from_json)
    body = _made(shape, values, found, (lambda body: check(body, inline)) if check else None)
    return body, inline, _unknown(given, shape)


def chat_problems(body: ChatJson, inline: dict[str, memoryview]) -> Errors:
    found = zone_problems(body)
    if len(inline) != 1:
        found.append(("export", "give either export or chat_data"))
    elif "export" in inline and body.platform not in (None, *PLATFORMS):
        found.append(("platform", f"must be one of {', '.join(PLATFORMS)}"))
    return found


def zone_problems(body: ChatForm | ChatJson) -> Errors:
    try:
        if body.zone is not None:
            ZoneInfo(body.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return [("zone", "must be the IANA name of a time zone, such as Europe/Lisbon")]
    return []


def files_problems(body: FilesForm) -> Errors:
    return [] if body.overlap < body.chunk_size else [("overlap", "must be less than chunk_size")]


def api_problems(body: ApiJson, inline: dict[str, memoryview]) -> Errors:
    found: Errors = []
    if (body.url is None) == ("records" not in inline):
        found.append(("url", "give either url or records"))
    if body.url is not None:
        found += _url_problems(body.url)
    elif body.headers:
        found.append(("headers", "are sent to a url, and there is none"))
    return found + header_problems(body)


def header_problems(body: ApiJson | Retry) -> Errors:
    found: Errors = []
    for name, value in (body.headers or {}).items():
        if not _HEADER_NAME.fullmatch(name):
            found.append(("headers", "holds what is no name of a header"))
        elif name.lower() in _OURS:
            found.append((f"headers.{name}", "may not be given: it follows from the connection"))
        elif not _HEADER_VALUE.fullmatch(value):
            found.append((f"headers.{name}", "must be printable ASCII of at most 8000 characters"))
    return found


def _url_problems(url: str) -> Errors:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return [("url", "is no address")]
    if not host or re.search(r"[\x00-\x20\x7f]", url):
        return [("url", "is no address")]
    return [("url", "may not hold a user or password: send them in headers")] if "@" in parts.netloc else []


def _members(raw: bytes | bytearray) -> dict[str, msgspec.Raw]:
    if not raw:
        raise BadRequest("the body is empty: it must be a JSON object")
    try:
        found = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise ValidationFailed([("body", "must be a JSON object")]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    return found


def _inline(inline: dict[str, memoryview], found: Errors, name: str, value: memoryview) -> None:
    if value.nbytes == len(b"null") and bytes(value) == b"null":
        return
    if name == "export" and bytes(value[:1]) not in (b"[", b"{"):
        found.append((name, "must be the export's own JSON: an array or an object"))
    elif name != "export" and not _LIST.match(value):
        found.append((name, "must be an array that is not empty"))
    else:
        inline[name] = value


def _from_json(raw: msgspec.Raw, kind: Any, path: str) -> Any:
    """One field's value. Raises BadRequest for what is no JSON, ValidationFailed."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise ValidationFailed(
            wrong(_from_json(raw, Any, path), kind, path) or [told(str(error), path, kind)]
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _from_text(text: str, kind: Any, path: str) -> Any:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValidationFailed([told(str(error), path, _choices(kind))]) from None


def _take(values: dict[str, Any], found: Errors, field: Any, given: Any, read: Callable[[Any, Any, str], Any]) -> None:
    """Notes the value of a field, or what is wrong with it."""
    try:
        values[field.name] = read(given, field.type, field.encode_name)
    except ValidationFailed as error:
        found += [(one["field"], one["reason"]) for one in error.details["errors"]]


def _choices(kind: Any) -> Any:
    """Of a choice that may be left out, the choice."""
    return next((one for one in getattr(kind, "__args__", ()) if getattr(one, "__origin__", None) is Literal), kind)


def _made(shape: type[T], values: dict[str, Any], found: Errors, check: Any) -> T:
    if not found:
        body = shape(**values)
        found = check(body) if check else []
        if not found:
            return body
    raise ValidationFailed(found[:MOST_ERRORS])


def _unknown(given: dict[str, Any], shape: type[msgspec.Struct]) -> list[str]:
    known = {field.encode_name for field in msgspec.structs.fields(shape)}
    return [name for name in given if name not in known]
