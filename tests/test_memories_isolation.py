"""Whatever one user asks of any route, by whatever id, filter, name or metadata: nothing of another user appears."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.accounts import Accounts
from app.database import open_pool
from tests.live import Live
from tests.memory_client import PATH, memory_web

SCOPES = ["memories:read", "memories:write", "profile:read", "profile:write"]
WORDS = ("amber", "birch", "cobalt")
"""What each party's memories have in them, and nobody else's."""


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("tisolation", redis_url, database_url, tmp_path_factory) as running:
        yield running


class Party:
    """One user of one account, and all they ever had remembered."""

    def __init__(self, client: httpx.AsyncClient, user: str, word: str) -> None:
        self.client = client
        self.user = user
        self.word = word
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.backup = ""

    async def remember(self, said: list[dict[str, Any]]) -> None:
        for one in said:
            body = one | {"user_id": self.user, "text": f"I have a {self.word} {one['text']}."}
            answer = await self.client.post(PATH, json=body)
            assert answer.status_code == 201, answer.text
            for made in answer.json()["data"]["memories"]:
                self.ids.append(made["id"])
                self.texts.append(made["memory"])
        spare = {"user_id": self.user, "text": f"A {self.word} memory to forget.", "infer": False}
        made = (await self.client.post(PATH, json=spare)).json()["data"]["memories"]
        gone = await self.client.delete(f"{PATH}/{made[0]['id']}", params={"user_id": self.user})
        self.backup = gone.json()["data"]["backup_id"]

    async def all(self) -> list[str]:
        answer = await self.client.get(PATH, params={"user_id": self.user, "page_size": 100, "latest_only": "false"})
        return sorted(one["memory"] for one in answer.json()["data"])


names = st.sampled_from(["a", "b", "shared"])
metadata = st.dictionaries(
    st.sampled_from(["user_id", "owner", "account", "thread_id", "agent_id", "note"]),
    st.sampled_from(["ann", "bob", "default", 1, None, {"user_id": "bob"}]),
    max_size=3,
)
said = st.lists(
    st.fixed_dictionaries(
        {"text": st.sampled_from(["bicycle", "cottage in Lyon", "sister called Ana"]), "infer": st.booleans()},
        optional={"agent_id": names, "thread_id": names, "source": names, "metadata": metadata},
    ),
    min_size=1,
    max_size=3,
)
narrowed = st.fixed_dictionaries({}, optional={"agent_id": names, "thread_id": names, "source": names})


async def probe(asker: Party, other: Party, filters: dict[str, str]) -> None:
    """Everything ``asker`` may send that names something of ``other``."""
    mine, client = {"user_id": asker.user}, asker.client
    answers = [
        await client.get(PATH, params=mine | filters | {"page_size": 100, "latest_only": "false"}),
        await client.get(PATH, params=mine | {"q": other.word}),
        await client.post(f"{PATH}/search", json=mine | filters | {"query": f"{other.word} bicycle", "limit": 100}),
        await client.post(
            f"{PATH}/search", json=mine | {"query": " ".join(other.texts) or "x", "latest_only": False, "rerank": True}
        ),
        await client.get(f"{PATH}/export", params=mine),
        await client.get("/v1/users/profile", params=mine | {"refresh": "true"}),
        await client.get("/v1/users/profile/bio", params=mine),
    ]
    for answer in answers:
        assert other.word not in answer.text, answer.request.url
    for memory_id in other.ids:
        for answer in (
            await client.get(f"{PATH}/{memory_id}", params=mine),
            await client.get(f"{PATH}/{memory_id}/history", params=mine),
            await client.patch(f"{PATH}/{memory_id}", json=mine | {"content": "mine now"}),
            await client.delete(f"{PATH}/{memory_id}", params=mine | {"cascade": "true", "backup": "false"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "MEMORY_NOT_FOUND"), answer.text
            assert other.word not in answer.text
    if other.ids:
        batch = await client.post(f"{PATH}/batch-delete", json=mine | {"memory_ids": other.ids, "cascade": True})
        assert {one["status"] for one in batch.json()["data"]["results"]} == {"not_found"}
    restored = await client.post(f"{PATH}/restore", json=mine | {"backup_id": other.backup})
    assert restored.status_code == 404, restored.text


@pytest.fixture(scope="module")
async def keys(web: Live) -> list[str]:
    """A key each of two accounts, bound to no user."""
    made = []
    async with open_pool(web.settings) as database:
        accounts = await Accounts.open(database)
        for name in ("one", "two"):
            account = await accounts.create_account(f"{name}-{secrets.token_hex(3)}")
            made.append((await accounts.create_key(account.id, "k", SCOPES))[1])
    return made


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=[Phase.generate],  # each example is hundreds of requests: a failure is told, not made smaller
)
@given(everything=st.tuples(said, said, said), filters=st.lists(narrowed, min_size=3, max_size=3))
async def test_nobody_sees_or_touches_what_is_another_users_or_accounts(
    web: Live, keys: list[str], everything: Any, filters: list[dict[str, str]]
) -> None:
    """PROTOCOL N17."""
    ann, bob = f"ann-{secrets.token_hex(3)}", f"bob-{secrets.token_hex(3)}"
    async with web.client(keys[0]) as first, web.client(keys[1]) as second:
        parties = [Party(first, ann, WORDS[0]), Party(first, bob, WORDS[1]), Party(second, ann, WORDS[2])]
        for party, what in zip(parties, everything, strict=True):
            await party.remember(what)
        before = [await party.all() for party in parties]
        assert all(before)
        for asker, narrowing in zip(parties, filters, strict=True):
            for other in parties:
                if other is not asker:
                    await probe(asker, other, narrowing)
        assert [await party.all() for party in parties] == before
        unnamed = [await client.get(PATH, params={"page_size": 100}) for client in (first, second)]
        assert not [word for word in WORDS for answer in unnamed if word in answer.text]
