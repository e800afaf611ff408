"""Routes of API keys: create, list, rotate, revoke. PROTOCOL.md, API keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Meta

from app.accounts import ALL_SCOPES, Accounts, ApiKey, Caller
from app.errors import BadRequest, Forbidden
from app.iso import iso
from app.web.answers import CreatedKey, ShownKey, Success, SuccessPage
from app.web.guard import admitted, caller_of, user_filter
from app.web.parse import Query, decode, read_json, warning
from app.web.reply import envelope, json_reply, pagination

PATH = "/v1/api-keys"
STATUSES = ("active", "expired", "revoked")
MAX_IDEMPOTENCY_KEY = 255
LONGEST_S = 100 * 366 * 86_400
LONGEST_OVERLAP_S = 30 * 86_400

OPTIONS: dict[str, Any] = {"scope": "keys:write", "rate": "requests"}
ONCE = {"Idempotency-Key": "the same key and body give the first answer again, for a day"}
EXAMPLE = {"name": "backend", "scopes": ["messages:write", "messages:read"]}
LISTED = {
    "status": {"type": "string", "enum": list(STATUSES)},
    "user_id": {"type": "string", "maxLength": 256},
    "page": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 1},
    "page_size": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
}

AnyRequest = Request[Any, Any, Any]
Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]


class NewKey(msgspec.Struct, kw_only=True):
    """The body of a creation. ``expires_in`` is a number of seconds or the ISO 8601 time it expires at."""

    name: Name
    scopes: Annotated[list[str], Meta(min_length=1, max_length=64)]
    user_id: Name | None = None
    expires_in: Annotated[int, Meta(ge=1, le=LONGEST_S)] | str | None = None


class Rotate(msgspec.Struct, kw_only=True):
    """The body of a rotation: for how long the key as it was goes on being good."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=LONGEST_OVERLAP_S)] = 86_400


def key_handlers(accounts: Accounts, max_body_bytes: int) -> list[HTTPRouteHandler]:
    """The Litestar handlers."""

    @post(
        PATH,
        opt=OPTIONS | {"body": NewKey, "example": EXAMPLE, "headers": ONCE, "answer": Success[CreatedKey]},
        status_code=201,
        operation_id="createApiKey",
        tags=["API keys"],
    )
    async def create(request: AnyRequest) -> Response[bytes]:
        """Create an API key. The answer is the only place that ever shows the key itself."""
        caller = await _counted(request)
        raw = await read_json(request.scope, request.receive, max_body_bytes)
        body, unknown = decode(raw, NewKey, _problems, name="-", scopes=[])
        once = _once(request)
        _check_granted(body, caller)
        made, text = await accounts.create_key(
            caller.account,
            body.name,
            body.scopes,
            user_id=user_filter(caller, body.user_id),
            expires_at=_expiry(body.expires_in),
            idempotency_key=once,
            body=raw,
        )
        return json_reply(envelope(shown(made) | {"key": text}), status=201, headers=warning(unknown))

    @get(
        PATH,
        opt=OPTIONS | {"query": LISTED, "answer": SuccessPage[ShownKey]},
        operation_id="listApiKeys",
        tags=["API keys"],
    )
    async def list_(request: AnyRequest) -> Response[bytes]:
        """List the account's API keys, newest first, without the keys themselves."""
        caller = await _counted(request)
        query = Query(request.scope)
        status = query.choice("status", STATUSES)
        user = user_filter(caller, query.text("user_id"))
        page, size = query.page()
        query.check()
        keys, total = await accounts.list_keys(
            caller.account, status=status, user_id=user, limit=size, offset=(page - 1) * size
        )
        return json_reply(envelope([shown(key) for key in keys], pagination=pagination(page, size, total)))

    @post(
        f"{PATH}/{{key_id:str}}/rotate",
        opt=OPTIONS | {"body": Rotate, "optional": True, "example": {}, "headers": ONCE, "answer": Success[CreatedKey]},
        status_code=200,
        operation_id="rotateApiKey",
        tags=["API keys"],
    )
    async def rotate(request: AnyRequest, key_id: FromPath[str]) -> Response[bytes]:
        """Give an API key a new text under the same id. The old text is good until the overlap ends."""
        caller = await _counted(request)
        raw = await read_json(request.scope, request.receive, max_body_bytes)
        body, unknown = decode(raw, Rotate) if raw.strip() else (Rotate(), [])
        made, text = await accounts.rotate_key(
            caller.account,
            key_id,
            overlap_s=body.overlap_seconds,
            by=caller,
            idempotency_key=_once(request),
            body=raw,
        )
        return json_reply(envelope(shown(made) | {"key": text}), headers=warning(unknown))

    @delete(
        f"{PATH}/{{key_id:str}}",
        opt=OPTIONS | {"answer": Success[ShownKey]},
        status_code=200,
        operation_id="revokeApiKey",
        tags=["API keys"],
    )
    async def revoke(request: AnyRequest, key_id: FromPath[str]) -> Response[bytes]:
        """Revoke an API key: at once in this process, within two seconds in every other. Its stream tokens die too."""
        caller = await _counted(request)
        return json_reply(envelope(shown(await accounts.revoke_key(caller.account, key_id, by=caller))))

    return [create, list_, rotate, revoke]


async def _counted(request: AnyRequest) -> Caller:
    """Who calls; the request is counted as its key's user's. Raises RateLimited."""
    caller = caller_of(request.scope)
    await admitted(request.scope, caller.user_id or "default")
    return caller


def _once(request: AnyRequest) -> str | None:
    once = request.headers.get("idempotency-key")
    if once is not None and not 0 < len(once) <= MAX_IDEMPOTENCY_KEY:
        raise BadRequest(f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY} characters")
    return once


def shown(key: ApiKey) -> dict[str, Any]:
    """A key as the wire shows it."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "user_id": key.user_id,
        "status": key.status,
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at) if key.expires_at else None,
        "revoked_at": iso(key.revoked_at) if key.revoked_at else None,
        "last_used": iso(key.last_used_at) if key.last_used_at else None,
        "rotated_at": iso(key.rotated_at) if key.rotated_at else None,
        "previous_expires_at": iso(key.previous_until) if key.previous_until else None,
    }


def _problems(body: NewKey) -> list[tuple[str, str]]:
    errors = [
        (f"scopes[{i}]", f"unknown scope; one of {', '.join(ALL_SCOPES)}")
        for i, scope in enumerate(body.scopes)
        if scope not in ALL_SCOPES
    ]
    try:
        _expiry(body.expires_in)
    except ValueError as error:
        errors.append(("expires_in", str(error)))
    return errors


def _check_granted(body: NewKey, caller: Caller) -> None:
    """Raises Forbidden for scopes that the creator lacks."""
    if lacking := [scope for scope in body.scopes if scope not in caller.scopes]:
        raise Forbidden(f"a key cannot grant what it lacks: {', '.join(lacking)}", details={"scopes": lacking})


def _expiry(given: int | str | None) -> datetime | None:
    now = datetime.now(UTC)
    if given is None:
        return None
    if isinstance(given, int):
        return now + timedelta(seconds=given)
    try:
        at = msgspec.convert(given, datetime)
    except msgspec.ValidationError:
        raise ValueError("must be seconds, or a time in ISO 8601") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    if not now < at <= now + timedelta(seconds=LONGEST_S):
        raise ValueError("must lie in the future")
    return at
