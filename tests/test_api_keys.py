"""`/v1/api-keys` over real HTTP: created once and shown once, bound, scoped, listed in pages, revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.database import open_pool
from app.settings import Settings
from tests.live import Live, live

PATH = "/v1/api-keys"


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Live]:
    async with live(settings) as running:
        yield running


async def create(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"name": "k", "scopes": ["messages:read"]} | body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json()["data"])


async def test_a_key_is_created_used_and_revoked(web: Live) -> None:
    async with web.client() as root:
        answer = await root.post(PATH, json={"name": "front end", "scopes": ["messages:read"], "color": "blue"})
        assert answer.status_code == 201
        assert answer.json()["status"] == "success"
        assert "color" in answer.headers["warning"]
        made = answer.json()["data"]
        assert made["key"].startswith("rp_live_")
        assert made["prefix"] == made["key"][:12]
        assert {"name": "front end", "scopes": ["messages:read"], "user_id": None, "status": "active"}.items() <= (
            made.items()
        )
        assert made["expires_at"] is made["last_used"] is made["revoked_at"] is None
        async with web.client(made["key"]) as client:
            assert (await client.get("/v1/messages/async")).status_code == 200
            assert (await client.post("/v1/messages/async", json={})).status_code == 403
            revoked = await root.delete(f"{PATH}/{made['id']}")
            assert revoked.json()["data"]["status"] == "revoked"
            assert (await client.get("/v1/messages/async")).status_code == 401


async def test_the_key_is_shown_once(web: Live) -> None:
    """PROTOCOL P1."""
    async with web.client() as root:
        made = await create(root)
        listed = await root.get(PATH)
    assert made["key"] not in listed.text
    assert "key" not in listed.json()["data"][0]


async def test_the_list_is_paged_and_filtered(web: Live) -> None:
    async with web.client() as root:
        made = [await create(root, name=f"k{i}") for i in range(5)]
        await root.delete(f"{PATH}/{made[0]['id']}")
        first = (await root.get(PATH, params={"page_size": 2})).json()
        assert [key["name"] for key in first["data"]] == ["k4", "k3"]
        assert first["pagination"] == {
            "page": 1,
            "page_size": 2,
            "total_items": 6,
            "total_pages": 3,
            "has_next": True,
            "has_previous": False,
        }
        last = (await root.get(PATH, params={"page": 3, "page_size": 2})).json()
        assert [key["name"] for key in last["data"]] == ["k0", "root"]
        assert (last["pagination"]["has_next"], last["pagination"]["has_previous"]) == (False, True)
        beyond = (await root.get(PATH, params={"page": 9, "page_size": 2})).json()
        assert (beyond["data"], beyond["pagination"]["total_items"]) == ([], 6)
        revoked = (await root.get(PATH, params={"status": "revoked"})).json()
        assert [key["name"] for key in revoked["data"]] == ["k0"]


async def test_a_key_grants_no_more_than_its_creator_has(web: Live) -> None:
    """PROTOCOL P2."""
    async with web.client() as root:
        made = await create(root, scopes=["keys:write", "messages:read"], user_id="ann")
    async with web.client(made["key"]) as client:
        refused = await client.post(PATH, json={"name": "x", "scopes": ["messages:write"]})
        assert (refused.status_code, refused.json()["error"]["details"]) == (403, {"scopes": ["messages:write"]})
        assert (await create(client))["user_id"] == "ann"
        other = await client.post(PATH, json={"name": "x", "scopes": ["messages:read"], "user_id": "bob"})
        assert other.status_code == 403
        assert {key["user_id"] for key in (await client.get(PATH)).json()["data"]} == {"ann"}


async def test_a_bound_key_cannot_end_others(web: Live) -> None:
    """PROTOCOL P2."""
    async with web.client() as root:
        theirs = await create(root, user_id="bob")
        mine = await create(root, scopes=["keys:write"], user_id="ann")
    async with web.client(mine["key"]) as client:
        assert (await client.delete(f"{PATH}/{theirs['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"scopes": ["nope"]}, "scopes[0]"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["nope"], "expires_in": 0}, "expires_in scopes[0]"),
        ({"scopes": "nope", "expires_in": "soon"}, "scopes expires_in"),
        ({"name": 1, "scopes": ["messages:read", "nope"], "expires_in": "soon"}, "name scopes[1] expires_in"),
        ({"name": ""}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "u" * 257}, "user_id"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"expires_in": "2001-01-01T00:00:00Z"}, "expires_in"),
        ({"expires_in": "9999-12-31T00:00:00Z"}, "expires_in"),
    ],
)
async def test_wrong_fields_are_named(web: Live, body: dict[str, Any], fields: str) -> None:
    async with web.client() as root:
        answer = await root.post(PATH, json={"name": "k", "scopes": ["messages:read"]} | body)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["error"]["details"]["errors"]] == fields.split()
        assert (await root.get(PATH)).json()["pagination"]["total_items"] == 1


async def test_expiry_in_seconds_or_as_a_time(web: Live) -> None:
    async with web.client() as root:
        at = datetime.now(UTC) + timedelta(days=1)
        for given in (86_400, at.isoformat(), at.replace(tzinfo=None).isoformat()):
            expires = datetime.fromisoformat((await create(root, expires_in=given))["expires_at"])
            assert abs(expires - at) < timedelta(minutes=1)


async def test_an_idempotency_key_gives_the_same_answer(web: Live) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"name": "k", "scopes": ["messages:read"]}
    async with web.client() as root:
        first = await root.post(PATH, json=body, headers=headers)
        again = await root.post(PATH, json=body, headers=headers)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json()["data"] == again.json()["data"]
        assert (await root.post(PATH, json=body, headers={"Idempotency-Key": "x" * 300})).status_code == 400


async def test_keys_of_another_account_do_not_exist(web: Live) -> None:
    """PROTOCOL P3."""
    async with open_pool(web.settings) as database:
        await database.execute("INSERT INTO accounts (id, name) VALUES ('acc_other', 'other')")
        await database.execute(
            "INSERT INTO api_keys (id, account, name, hash, prefix, scopes)"
            " VALUES ('key_x', 'acc_other', 'x', 'h', 'p', '{}')"
        )
    async with web.client() as root:
        assert (await root.delete(f"{PATH}/key_x")).status_code == 404
        assert (await root.get(PATH)).json()["pagination"]["total_items"] == 1


async def test_a_key_is_rotated_with_an_overlap(web: Live) -> None:
    """PROTOCOL P4."""
    async with web.client() as root:
        made = await create(root, scopes=["messages:read", "keys:write"])
        path = f"{PATH}/{made['id']}/rotate"
        answer = await root.post(path)
        assert answer.status_code == 200, answer.text
        rotated = answer.json()["data"]
        assert rotated["id"] == made["id"]
        assert rotated["key"] != made["key"]
        assert rotated["prefix"] == rotated["key"][:12]
        ends = datetime.fromisoformat(rotated["previous_expires_at"]) - datetime.now(UTC)
        assert timedelta(hours=23) < ends <= timedelta(hours=24)
        for key in (made["key"], rotated["key"]):
            async with web.client(key) as client:
                assert (await client.get("/v1/messages/async")).status_code == 200
        once = {"Idempotency-Key": "r-1"}
        first = (await root.post(path, json={"overlap_seconds": 0}, headers=once)).json()["data"]
        again = (await root.post(path, json={"overlap_seconds": 0}, headers=once)).json()["data"]
        assert (again["key"], again["rotated_at"]) == (first["key"], first["rotated_at"])
        assert (await root.post(path, json={"overlap_seconds": 5}, headers=once)).status_code == 409
        async with web.client(rotated["key"]) as client:
            assert (await client.get("/v1/messages/async")).status_code == 401
        wrong = await root.post(path, json={"overlap_seconds": -1})
        assert (wrong.status_code, wrong.json()["error"]["details"]["field"]) == (422, "overlap_seconds")
        assert (await root.post(f"{PATH}/key_nope/rotate")).status_code == 404
        more = await create(root, scopes=["messages:write"])
        async with web.client(first["key"]) as client:
            refused = await client.post(f"{PATH}/{more['id']}/rotate")
            assert (refused.status_code, refused.json()["key_id"]) == (403, more["id"])
        await root.delete(f"{PATH}/{more['id']}")
        assert (await root.post(f"{PATH}/{more['id']}/rotate")).status_code == 409


async def test_the_last_admin_key_cannot_remove_itself(web: Live) -> None:
    """PROTOCOL P5."""
    async with web.client() as root:
        own = next(key for key in (await root.get(PATH)).json()["data"] if key["name"] == "root")
        assert (await root.post(f"{PATH}/{own['id']}/rotate")).status_code == 409
        refused = await root.delete(f"{PATH}/{own['id']}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
        assert (await root.get(PATH)).status_code == 200
