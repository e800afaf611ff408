"""Who is calling, and may they: in front of every route.

A route says what it needs in its options: ``opt={"scope": "messages:read"}``; ``"token": True`` where a stream token
will do as well; ``"public": True`` where nobody is asked. A route that says nothing needs a valid key. ``"rate"`` names
the class whose limits it takes its part of, once it is known whose it is (`admitted`). The caller is then in the
request's state: `caller_of` for routes with a key, `bearer_of` where tokens are taken.

Bare ASGI handlers and WebSockets call `Gate.identify` themselves. A verified token opens exactly what it names: whoever
takes tokens asks `may_see` for every message.
"""

from __future__ import annotations

import math
import time
from typing import Any, cast
from urllib.parse import parse_qs

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from app.accounts import Accounts, Caller, TokenGrant
from app.errors import Forbidden, RateLimited, Unauthorized
from app.limits import Limits

Connection = ASGIConnection[Any, Any, Any, Any]
Bearer = Caller | TokenGrant
"""Who a request comes from, where stream tokens are taken too."""

RATE = "rate"
"""In a request's state: what it is to be counted by."""
EXTRA = "extra_headers"
"""In a request's state: headers that its answer gets, whatever it is."""

TOKEN_SCOPES = frozenset({"messages:read", "integrations:read"})
"""What a token allows whatever its key's scopes are: who may start a message may watch it. Cancelling needs a key
that may write."""


class Gate:
    """The guard of one application."""

    def __init__(self, accounts: Accounts, limits: Limits | None = None) -> None:
        self._accounts = accounts
        self._limits = limits

    async def guard(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Litestar's guard: identifies the caller and checks the route's scope."""
        if handler.opt.get("public") or connection.scope.get("method") == "OPTIONS":
            return
        await self.identify(
            connection.scope, token=bool(handler.opt.get("token")), scope_needed=str(handler.opt.get("scope", ""))
        )
        rate = handler.opt.get("rate")
        if rate and self._limits is not None:
            connection.scope["state"][RATE] = (self._limits, rate)

    async def identify(self, scope: Scope, *, token: bool = False, scope_needed: str = "") -> Bearer:
        """Who sent this request. Headers go before the token in the query.

        Raises Unauthorized without valid credentials, Forbidden without the scope, Unavailable when keys cannot be
        checked.
        """
        key = key_in(scope)
        bearer: Bearer
        if key is not None:
            bearer = await self._accounts.authenticate(key)
        elif token and (text := token_in(scope)):
            bearer = await self._accounts.read_token(text)
        else:
            raise Unauthorized("an API key is needed: X-API-Key: KEY or Authorization: Bearer KEY")
        caller = bearer if isinstance(bearer, Caller) else bearer.caller
        by_token = isinstance(bearer, TokenGrant) and scope_needed in TOKEN_SCOPES
        if scope_needed and not by_token:
            must_have(caller, scope_needed)
        scope["state"]["bearer"] = bearer
        return bearer


def must_have(caller: Caller, scope_needed: str) -> None:
    """Raises Forbidden without this scope. For routes whose body decides which one they need."""
    if scope_needed not in caller.scopes:
        raise Forbidden(f"this API key lacks the scope {scope_needed}", details={"scope": scope_needed})


async def admitted(scope: Scope, user: str) -> None:
    """Counts the request as this user's, once, where its route is limited. Raises RateLimited.

    The answer tells what is left. The root key is not counted.
    """
    limited: tuple[Limits, str] | None = scope["state"].pop(RATE, None)
    caller = caller_of(scope)
    if limited is None or caller.root:
        return
    taken = await limited[0].take(caller.account, user, limited[1])
    if taken is None:
        return
    told = (("limit", taken.limit), ("remaining", taken.remaining), ("reset", taken.reset))
    scope["state"][EXTRA] += [(f"x-ratelimit-{name}".encode(), str(value).encode()) for name, value in told]
    if taken.refused:
        after = max(1, math.ceil(taken.reset - time.time()))
        raise RateLimited(f"too many requests: {taken.limit} are allowed, try again in {after} s", retry_after=after)


def key_in(scope: Scope) -> str | None:
    """The API key in the headers, or None. Raises Unauthorized for an Authorization that is no Bearer."""
    found: str | None = None
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return value.decode("latin-1").strip()
        if name == b"authorization":
            kind, _, credentials = value.decode("latin-1").strip().partition(" ")
            if kind.lower() != "bearer" or not credentials.strip():
                raise Unauthorized("Authorization must be: Bearer KEY")
            found = credentials.strip()
    return found


def token_in(scope: Scope) -> str:
    """The stream token in the query, or the empty string."""
    query = scope["query_string"]
    if b"token=" not in query:
        return ""
    return parse_qs(query.decode("latin-1")).get("token", [""])[0]


def bearer_of(scope: Scope) -> Bearer:
    """Who the guard found. For routes that take tokens."""
    return cast(Bearer, scope["state"]["bearer"])


def caller_of(scope: Scope) -> Caller:
    """The API key's holder the guard found. For routes that take keys only."""
    return cast(Caller, scope["state"]["bearer"])


def user_of(caller: Caller, requested: str | None) -> str:
    """The end user a request is about: the key's, or the request's, or ``default``.

    Raises Forbidden for another user than the key's.
    """
    if caller.user_id is None:
        return requested or "default"
    if requested and requested != caller.user_id:
        raise Forbidden("this API key is bound to another user")
    return caller.user_id


def user_filter(caller: Caller, requested: str | None) -> str | None:
    """On message routes: whose messages a list shows; None shows the whole account's. Raises Forbidden as above."""
    return user_of(caller, requested) if caller.user_id is not None else requested


def may_see(bearer: Bearer, message_id: str, user: str) -> bool:
    """Whether this message of the bearer's account, started for ``user``, exists for the bearer."""
    if bearer.user_id is not None and bearer.user_id != user:
        return False
    return isinstance(bearer, Caller) or bearer.covers(message_id)
