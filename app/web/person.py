"""What the routes about one end user share: whom a request is about, and its JSON body."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request

from app.database import Database
from app.memory.conversations import find_owner
from app.memory.types import Owner
from app.web.guard import admitted, caller_of
from app.web.memory_bodies import whose
from app.web.parse import decode, read_json, warning

USER = {
    "user_id": {"type": "string", "maxLength": 256, "description": "whose; by default the key's user, or `default`"}
}

AnyRequest = Request[Any, Any, Any]
T = TypeVar("T", bound=msgspec.Struct)


class PersonRoutes:
    """The base of such routes' handlers."""

    def __init__(self, database: Database, max_body_bytes: int) -> None:
        self.database = database
        self.max_body_bytes = max_body_bytes

    async def body(
        self, request: AnyRequest, shape: type[T], check: Any = None, **stand_ins: Any
    ) -> tuple[T, dict[str, str]]:
        """The body, and the header that names its unknown fields."""
        raw = await read_json(request.scope, request.receive, self.max_body_bytes)
        body, unknown = decode(raw, shape, check, **stand_ins)
        return body, warning(unknown)

    async def owner(self, request: AnyRequest, user: str | None = None) -> Owner | None:
        """Whom the request is about, if anything is kept of them."""
        name = await self.whose(request, user)
        return await find_owner(self.database, caller_of(request.scope).account, name)

    async def whose(self, request: AnyRequest, user: str | None = None) -> str:
        """Whom the request is about: it is counted as theirs. Raises RateLimited."""
        name = whose(request.scope, user)
        await admitted(request.scope, name)
        return name
