"""In front of every route: a key by either header, a token where one is taken, the scope, and the user."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.accounts import Account, Accounts, Caller, TokenGrant
from app.database import migrate, open_pool
from app.errors import Forbidden, Unauthorized
from app.settings import Settings
from app.web.guard import Gate, key_in, may_see, user_filter, user_of


@pytest.fixture
async def accounts(settings: Settings) -> AsyncIterator[Accounts]:
    await migrate(settings)
    async with open_pool(settings) as database:
        yield await Accounts.open(database)


@pytest.fixture
async def account(accounts: Accounts) -> Account:
    return await accounts.create_account("acme")


def scope(query: str = "", **headers: str) -> Any:
    listed = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "method": "GET", "headers": listed, "query_string": query.encode(), "state": {}}


async def test_either_header_will_do(accounts: Accounts, account: Account) -> None:
    gate = Gate(accounts)
    made, text = await accounts.create_key(account.id, "k", ["messages:read"])
    for headers in ({"x_api_key": text}, {"authorization": f"Bearer {text}"}, {"authorization": f"bearer  {text} "}):
        asked = scope(**headers)
        bearer = await gate.identify(asked, scope_needed="messages:read")
        assert isinstance(bearer, Caller)
        assert bearer.key_id == made.id
        assert asked["state"]["bearer"] is bearer


@pytest.mark.parametrize(
    "headers",
    [{}, {"x_api_key": ""}, {"x_api_key": "no"}, {"authorization": "Basic dXNlcg=="}, {"authorization": "Bearer"}],
)
async def test_without_a_key_nobody_passes(accounts: Accounts, headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized):
        await Gate(accounts).identify(scope(**headers))


async def test_the_scope_is_needed(accounts: Accounts, account: Account) -> None:
    _, text = await accounts.create_key(account.id, "k", ["messages:read"])
    with pytest.raises(Forbidden, match="lacks the scope messages:write"):
        await Gate(accounts).identify(scope(x_api_key=text), scope_needed="messages:write")


async def test_a_token_is_taken_only_where_it_is(accounts: Accounts, account: Account) -> None:
    gate = Gate(accounts)
    _, text = await accounts.create_key(account.id, "k", ["messages:write"])
    caller = await accounts.authenticate(text)
    token = accounts.issue_token(caller, message_ids=["m1"], expires_at=time.time() + 60)
    with pytest.raises(Unauthorized):
        await gate.identify(scope(f"token={token}"))
    bearer = await gate.identify(scope(f"after=3&token={token}"), token=True, scope_needed="messages:read")
    assert isinstance(bearer, TokenGrant)
    assert may_see(bearer, "m1", "ann")
    assert not may_see(bearer, "m2", "ann")


async def test_a_token_cancels_only_where_its_key_may(accounts: Accounts, account: Account) -> None:
    gate = Gate(accounts)
    for scopes, allowed in ((["messages:write"], True), (["messages:read"], False)):
        _, text = await accounts.create_key(account.id, "k", scopes)
        caller = await accounts.authenticate(text)
        token = accounts.issue_token(caller, message_ids=["m1"], expires_at=time.time() + 60)
        asked = scope(f"token={token}")
        if allowed:
            await gate.identify(asked, token=True, scope_needed="messages:write")
        else:
            with pytest.raises(Forbidden):
                await gate.identify(asked, token=True, scope_needed="messages:write")


async def test_a_header_goes_before_a_token(accounts: Accounts, account: Account) -> None:
    _, text = await accounts.create_key(account.id, "k", ["messages:read"])
    token = accounts.issue_token(await accounts.authenticate(text), feed=True, expires_at=time.time() + 60)
    with pytest.raises(Unauthorized):
        await Gate(accounts).identify(scope(f"token={token}", x_api_key="wrong"), token=True)


def test_x_api_key_wins_over_authorization() -> None:
    assert key_in(scope(authorization="Bearer b", x_api_key="a")) == "a"


def test_the_user_is_the_keys_or_the_requests() -> None:
    unbound, bound = Caller("acc", "key", frozenset()), Caller("acc", "key", frozenset(), user_id="ann")
    assert user_of(unbound, None) == "default"
    assert user_of(unbound, "") == "default"
    assert user_of(unbound, "bob") == "bob"
    assert user_of(bound, None) == "ann"
    assert user_of(bound, "ann") == "ann"
    assert user_filter(unbound, None) is None
    assert user_filter(unbound, "bob") == "bob"
    assert user_filter(bound, None) == "ann"
    for check in (user_of, user_filter):
        with pytest.raises(Forbidden):
            check(bound, "bob")


def test_a_bound_key_sees_its_users_messages_only() -> None:
    assert may_see(Caller("acc", "key", frozenset()), "m", "bob")
    assert may_see(Caller("acc", "key", frozenset(), user_id="bob"), "m", "bob")
    assert not may_see(Caller("acc", "key", frozenset(), user_id="ann"), "m", "bob")
