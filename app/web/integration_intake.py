"""Routes that begin an integration: chats, files, social, api. PROTOCOL.md, Integrations.

Files are received straight into PostgreSQL, piece by piece, whatever their size: a web process never holds one. What
comes of them is a background process's work.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio
import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from app.errors import BadRequest, RepriseError, UnsupportedMediaType, ValidationFailed
from app.integrations.documents.kinds import kind_named
from app.integrations.integration import Type
from app.integrations.receiving import Receiving, receive
from app.web.guard import admitted, caller_of
from app.web.integration_bodies import (
    SPELT,
    UNTOLD,
    ApiJson,
    Begun,
    ChatForm,
    ChatJson,
    FilesForm,
    SocialForm,
    SocialJson,
    api_problems,
    chat_problems,
    files_problems,
    read_fields,
    read_json_fields,
    zone_problems,
)
from app.web.integration_events import TAGS, Watching, begun, paths
from app.web.memory_bodies import whose
from app.web.multipart import KIND, Sent, is_form, read_form
from app.web.parse import Body, header, must_be_json, warning
from app.web.person import USER, AnyRequest
from app.web.reply import json_reply

MAX_IDEMPOTENCY_KEY = 255
SLICE_BYTES = 262_144
DROP_S = 5.0
FILE_NAMES = frozenset({"file", "files"})
BEGIN: dict[str, Any] = {
    "scope": "integrations:write",
    "rate": "integrations",
    "answer": Begun,
    "query": USER,
    "headers": {"Idempotency-Key": "the same key and content give the first answer again, for 24 hours"},
}
ONE_FILE = {"file": {"type": "string", "format": "binary"}}
FILES = {"file": {"type": "array", "items": ONE_FILE["file"], "minItems": 1}}
CHAT_EXAMPLE = {"chat_data": [{"role": "user", "content": "I live in Lyon.", "timestamp": "2026-04-27T10:00:00Z"}]}
SOCIAL_EXAMPLE = {"platform": "reddit", "auth_token": "TOKEN"}
API_EXAMPLE = {"records": [{"id": 1, "text": "I prefer tea to coffee."}]}

T = TypeVar("T", bound=msgspec.Struct)


class Coming:
    """An integration on its way in. Its row is begun with its first file, as the user's whom query or key name; a form
    may name another after its files."""

    def __init__(self, watching: Watching, request: AnyRequest, limit: int) -> None:
        self.body = Body(request.scope, request.receive, limit)
        self._watching = watching
        self._scope = request.scope
        self._account = caller_of(request.scope).account
        self._key = request.headers.get("idempotency-key")
        self._user = ""
        self._unknown: list[str] = []
        self._named: str | None = None
        self._content = hashlib.sha256()
        self._receiving: Receiving | None = None

    async def check(self) -> None:
        """Raises for what can be told before the body: BadRequest, ValidationFailed, Forbidden, RateLimited."""
        if self._key is not None and not 0 < len(self._key) <= MAX_IDEMPOTENCY_KEY:
            reason = f"must be 1 to {MAX_IDEMPOTENCY_KEY} characters"
            raise BadRequest(f"Idempotency-Key {reason}", details={"field": "Idempotency-Key", "reason": reason})
        self._user = whose(self._scope)
        await admitted(self._scope, self._user)

    @property
    def is_form(self) -> bool:
        """Whether the body is a form. Raises UnsupportedMediaType for what is neither that nor JSON."""
        if is_form(header(self._scope, b"content-type")):
            return True
        try:
            must_be_json(self._scope)
        except UnsupportedMediaType:
            raise UnsupportedMediaType(f"the body must be application/json or {KIND}") from None
        return False

    async def file(self, name: str) -> None:
        """A file begins."""
        await (await self._begun()).file(name)

    async def write(self, data: bytes | memoryview) -> None:
        """It goes on."""
        await (await self._begun()).write(data)

    async def form(self, shape: type[T], check: Any = None) -> tuple[T, list[Sent]]:
        """A form's fields and its files, which are in then. Raises ValidationFailed also without a file."""
        form = await read_form(self.body, header(self._scope, b"content-type"), self, FILE_NAMES)
        fields, self._unknown = read_fields(form.fields, shape, check)
        if not form.files:
            raise ValidationFailed([("file", "is required")])
        self._content.update(msgspec.json.encode([sorted(form.fields.items()), form.files]))
        self._named = form.files[0].name if len(form.files) == 1 else f"{len(form.files)} files"
        return fields, form.files

    async def json(self, shape: type[T], check: Any = None) -> tuple[T, list[str]]:
        """A JSON body's fields, and the names of those that came inline: these are in, as files named after them."""
        raw = await self.body.whole()
        body, inline, self._unknown = read_json_fields(raw, shape, check)
        for piece in _slices(memoryview(raw)):
            self._content.update(piece)
            await anyio.lowlevel.checkpoint()
        for name, value in inline.items():
            await self.file(f"{name}.json")
            for piece in _slices(value):
                await self.write(piece)
        return body, list(inline)

    async def hand_over(
        self, body: Any, kind: Type, platform: str, request: dict[str, Any], secret: dict[str, Any] | None = None
    ) -> Response[bytes]:
        """All is in: the workers may have it. Answers 202."""
        user = whose(self._scope, body.user_id)
        receiving = await self._begun()
        if user != self._user:
            await receiving.belongs_to(self._account, user)
        once = None
        if self._key is not None:
            parts = "\x00".join((user, kind, self._key))
            once = (hashlib.sha256(parts.encode()).digest(), self._content.digest())
        asked = {"memories": body.memories} | request
        name = body.name or self._named
        made = await receiving.ready(kind, platform, asked, name=name, secret=secret, once=once)
        await self._watching.wake()
        return json_reply(begun(self._scope, made), status=202, headers=warning(self._unknown))

    async def drop(self) -> None:
        """Forgets what came."""
        if self._receiving is not None:
            with anyio.move_on_after(DROP_S, shield=True), suppress(RepriseError):
                await self._receiving.drop()  # else it is removed an hour later

    async def _begun(self) -> Receiving:
        if self._receiving is None:
            self._receiving = await receive(self._watching.database, self._account, self._user)
        return self._receiving


@asynccontextmanager
async def coming(watching: Watching, request: AnyRequest, limit: int) -> AsyncIterator[Coming]:
    """An integration to be received in the block; whatever goes wrong in it forgets all that came."""
    made = Coming(watching, request, limit)
    try:
        await made.check()
        yield made
    except RepriseError:
        await made.drop()
        await made.body.drain()
        raise
    except BaseException:
        await made.drop()
        raise


def beginning_handlers(watching: Watching, most_bytes: int) -> list[HTTPRouteHandler]:
    """The Litestar handlers."""

    @post(
        paths("/chat"),
        opt=BEGIN | {"body": ChatJson, "example": CHAT_EXAMPLE, "form": (ChatForm, ONE_FILE)},
        status_code=202,
        operation_id="bringChats",
        tags=TAGS,
    )
    async def chat(request: AnyRequest) -> Response[bytes]:
        """Bring chats: an export of ChatGPT, Claude, Telegram, WhatsApp, Slack or Discord, or conversations inline."""
        async with coming(watching, request, most_bytes) as sent:
            if sent.is_form:
                fields, files = await sent.form(ChatForm, zone_problems)
                _one(files)
                asked = {"form": "file", "me": fields.me, "zone": fields.zone}
                return await sent.hand_over(fields, "chat", fields.platform or UNTOLD, asked)
            body, (inline,) = await sent.json(ChatJson, chat_problems)
            asked = {"form": inline, "me": body.me, "zone": body.zone}
            return await sent.hand_over(
                body, "chat", body.platform or (UNTOLD if inline == "export" else "custom"), asked
            )

    @post(
        paths("/files"),
        opt=BEGIN | {"form": (FilesForm, FILES)},
        status_code=202,
        operation_id="bringFiles",
        tags=TAGS,
    )
    async def files(request: AnyRequest) -> Response[bytes]:
        """Bring documents: up to 100 files, PDF, DOCX, TXT, Markdown or HTML."""
        async with coming(watching, request, most_bytes) as sent:
            if not is_form(header(request.scope, b"content-type")):
                raise UnsupportedMediaType(f"the body must be {KIND}")
            fields, files = await sent.form(FilesForm, files_problems)
            kinds = {kind_named(file.name) or "files" for file in files}
            asked = {
                "chunk_size": fields.chunk_size,
                "overlap": fields.overlap,
                "category": fields.category,
                "extract_mode": fields.extract_mode,
            }
            return await sent.hand_over(fields, "file", kinds.pop() if len(kinds) == 1 else "files", asked)

    @post(
        paths("/social"),
        opt=BEGIN | {"body": SocialJson, "example": SOCIAL_EXAMPLE, "form": (SocialForm, ONE_FILE)},
        status_code=202,
        operation_id="bringSocial",
        tags=TAGS,
    )
    async def social(request: AnyRequest) -> Response[bytes]:
        """Bring what one posted on LinkedIn, X or Reddit: from the archive they give, or with an access token."""
        async with coming(watching, request, most_bytes) as sent:
            if sent.is_form:
                fields, files = await sent.form(SocialForm)
                _one(files)
                platform = SPELT.get(fields.platform, fields.platform)
                return await sent.hand_over(fields, "social", platform, {"by": "archive"})
            body, _ = await sent.json(SocialJson)
            platform, secret = SPELT.get(body.platform, body.platform), {"auth_token": body.auth_token}
            return await sent.hand_over(body, "social", platform, {"by": "token"}, secret)

    @post(
        paths("/api"),
        opt=BEGIN | {"body": ApiJson, "example": API_EXAMPLE},
        status_code=202,
        operation_id="bringRecords",
        tags=TAGS,
    )
    async def api(request: AnyRequest) -> Response[bytes]:
        """Bring records: JSON or NDJSON pulled from an address, or sent inline, with a mapping of their fields."""
        async with coming(watching, request, most_bytes) as sent:
            must_be_json(request.scope)
            body, _ = await sent.json(ApiJson, api_problems)
            asked = {
                "url": body.url,
                "mapping": msgspec.to_builtins(body.mapping),
                "format": body.format,
                "records_path": body.records_path,
                "category": body.category,
                "infer": body.infer,
            }
            return await sent.hand_over(
                body, "api", body.platform, asked, {"headers": body.headers} if body.headers else None
            )

    return [chat, files, social, api]


def _one(files: list[Sent]) -> None:
    if len(files) > 1:
        raise ValidationFailed([("file", "there may be one file only")])


def _slices(data: memoryview) -> Iterator[memoryview]:
    return (data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES))
