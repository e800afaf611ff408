"""`/v1/webhooks` over real HTTP: made and shown once, bounded by their key, rotated, tested, looked at, redelivered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from app.accounts import ALL_SCOPES, Accounts
from app.database import open_pool
from app.feeds import TOLD_TO_WEBHOOKS
from app.settings import Settings
from app.webhooks import store
from tests.live import Live, live
from tests.rig import lifecycle_on
from tests.site_rig import site
from tests.webhook_rig import Hooks, always, hooks_on, verified

PATH = "/v1/webhooks"
URL = "https://example.com/hook"


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Live]:
    async with live(settings) as running:
        yield running


@pytest.fixture
async def inside(settings: Settings) -> AsyncIterator[Live]:
    """One that lets webhooks lead to this machine."""
    async with live(msgspec.structs.replace(settings, allow_private_addresses=True)) as running:
        yield running


@pytest.fixture
async def hooks(settings: Settings) -> AsyncIterator[Hooks]:
    """The background process's part. To be asked for after the web process, which makes the tables."""
    async with (
        open_pool(settings) as database,
        lifecycle_on(settings) as lifecycle,
        hooks_on(database, lifecycle) as made,
    ):
        yield made


async def create(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"url": URL, "events": ["message.completed"]} | body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json()["data"])


async def key(root: httpx.AsyncClient, *scopes: str, **more: Any) -> str:
    answer = await root.post("/v1/api-keys", json={"name": "k", "scopes": list(scopes)} | more)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["key"])


async def test_a_webhook_is_made_listed_changed_and_deleted(web: Live) -> None:
    """PROTOCOL G10."""
    async with web.client() as root:
        answer = await root.post(PATH, json={"url": URL, "events": ["message.error", "message.error"], "color": 1})
        assert (answer.status_code, answer.json()["status"]) == (201, "success")
        assert "color" in answer.headers["warning"]
        made = answer.json()["data"]
        assert made["id"].startswith("wh_") and made["secret"].startswith("whsec_")
        assert (made["events"], made["user_id"], made["status"]) == (["message.error"], None, "active")
        second = await create(root, description="second")
        listed = (await root.get(PATH, params={"page_size": 1})).json()
        assert [one["id"] for one in listed["data"]] == [second["id"]]
        assert (listed["pagination"]["total_items"], listed["pagination"]["has_next"]) == (2, True)
        changes = {"events": ["memory.created"], "description": "new", "status": "disabled", "url": f"{URL}2"}
        changed = (await root.patch(f"{PATH}/{made['id']}", json=changes)).json()["data"]
        assert changes.items() <= changed.items()
        assert changed["reason"] == "by its owner"
        assert (await root.get(f"{PATH}/{made['id']}")).json()["data"] == changed
        assert [one["id"] for one in (await root.get(f"{PATH}?status=disabled")).json()["data"]] == [made["id"]]
        gone = await root.delete(f"{PATH}/{made['id']}")
        assert gone.json()["data"] == {"id": made["id"], "deleted": True}
        missing = await root.get(f"{PATH}/{made['id']}")
        assert (missing.status_code, missing.json()["code"]) == (404, "WEBHOOK_NOT_FOUND")
        assert missing.json()["webhook_id"] == made["id"]


async def test_the_secret_is_shown_once(web: Live) -> None:
    """PROTOCOL G8."""
    async with web.client() as root:
        made = await create(root)
        for answer in (
            await root.get(PATH),
            await root.get(f"{PATH}/{made['id']}"),
            await root.patch(f"{PATH}/{made['id']}", json={"description": "x"}),
        ):
            assert answer.status_code == 200
            assert "whsec_" not in answer.text


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"),
        ({"url": "https://localhost/"}, "url"),
        ({"url": "https://[::1]/"}, "url"),
        ({"url": "https://169.254.169.254/latest"}, "url"),
        ({"url": "nonsense", "events": ["nope", "memory.created"]}, "url events[0]"),
        ({"events": []}, "events"),
        ({"events": ["message.created"]}, "events[0]"),
        ({"events": ["webhook.test"]}, "events[0]"),
        ({"url": "", "events": "x", "description": 1}, "url events description"),
        ({"user_id": ""}, "user_id"),
        ({"description": "a\x00"}, "description"),
    ],
)
async def test_what_no_webhook_can_have_is_named_field_by_field(web: Live, body: dict[str, Any], fields: str) -> None:
    """PROTOCOL G10."""
    async with web.client() as root:
        answer = await root.post(PATH, json={"url": URL, "events": ["message.error"]} | body)
        assert answer.status_code == 422, answer.text
        named = [error["field"] for error in answer.json()["error"]["details"]["errors"]]
        assert sorted(named) == sorted(fields.split())
        made = await create(root)
        if "user_id" not in body:
            changed = await root.patch(f"{PATH}/{made['id']}", json=body)
            assert changed.status_code == 422
        assert (await root.get(PATH)).json()["pagination"]["total_items"] == 1


async def test_a_bound_key_has_its_users_webhooks_alone(web: Live) -> None:
    """PROTOCOL G9."""
    async with web.client() as root:
        of_all, of_bob = await create(root), await create(root, user_id="bob")
        bound = await key(root, "webhooks:write", "messages:read", user_id="ann")
        async with web.client(bound) as ann:
            assert (await create(ann))["user_id"] == "ann"
            body = {"url": URL, "events": ["message.error"], "user_id": "bob"}
            assert (await ann.post(PATH, json=body)).status_code == 403
            assert {one["user_id"] for one in (await ann.get(PATH)).json()["data"]} == {"ann"}
            for other in (of_all, of_bob):
                await refused(ann, other["id"])


async def test_another_account_sees_nothing_of_a_webhook(web: Live, settings: Settings) -> None:
    """PROTOCOL G9."""
    async with web.client() as root:
        made = await create(root)
        stranger = await another_account(settings)
    async with web.client(stranger) as other:
        assert (await other.get(PATH)).json()["data"] == []
        await refused(other, made["id"])
    async with web.client() as root:
        assert (await root.get(f"{PATH}/{made['id']}")).json()["data"]["status"] == "active"


async def another_account(settings: Settings) -> str:
    async with open_pool(settings) as database:
        accounts = await Accounts.open(database)
        account = await accounts.create_account("stranger")
        _, text = await accounts.create_key(account.id, "k", ALL_SCOPES)
    return text


async def refused(client: httpx.AsyncClient, webhook_id: str) -> None:
    """Every route of this webhook says that there is none."""
    at = f"{PATH}/{webhook_id}"
    for method, path, body in (
        ("GET", at, None),
        ("PATCH", at, {"status": "disabled"}),
        ("DELETE", at, None),
        ("POST", f"{at}/rotate-secret", None),
        ("POST", f"{at}/test", None),
        ("GET", f"{at}/deliveries", None),
        ("GET", f"{at}/deliveries/dlv_1", None),
        ("POST", f"{at}/deliveries/dlv_1/redeliver", None),
    ):
        answer = await client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "WEBHOOK_NOT_FOUND"), path


async def test_a_key_has_nothing_told_that_it_could_not_read(web: Live) -> None:
    """PROTOCOL G9."""
    async with web.client() as root:
        weak = await key(root, "webhooks:write", "messages:read")
        none = await key(root, "messages:read")
        strong = await create(root, events=list(TOLD_TO_WEBHOOKS))
        async with web.client(none) as client:
            assert (await client.get(PATH)).status_code == 403
        async with web.client(weak) as client:
            answer = await client.post(PATH, json={"url": URL, "events": ["memory.created", "profile.updated"]})
            assert answer.status_code == 403
            assert answer.json()["error"]["details"]["scopes"] == ["memories:read", "profile:read"]
            made = await create(client)
            for hook, changes in ((made, {"events": ["memory.created"]}), (strong, {"url": "https://mine.example/"})):
                assert (await client.patch(f"{PATH}/{hook['id']}", json=changes)).status_code == 403
            assert (await client.patch(f"{PATH}/{made['id']}", json={"description": "x"})).status_code == 200


async def test_the_same_idempotency_key_gives_the_first_answer_again(web: Live) -> None:
    """PROTOCOL C7."""
    async with web.client() as root:
        body, headers = {"url": URL, "events": ["message.error"]}, {"Idempotency-Key": "once"}
        first = (await root.post(PATH, json=body, headers=headers)).json()["data"]
        again = await root.post(PATH, json=body, headers=headers)
        assert (again.status_code, again.json()["data"]) == (201, first)
        other = await root.post(PATH, json=body | {"description": "x"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (409, "CONFLICT")
        rotate = f"{PATH}/{first['id']}/rotate-secret"
        rotated = (await root.post(rotate, headers=headers)).json()["data"]
        assert rotated["secret"] != first["secret"]
        assert (await root.post(rotate, headers=headers)).json()["data"]["secret"] == rotated["secret"]
        assert (await root.post(rotate, headers=headers, json={"overlap_seconds": 1})).status_code == 409
        assert (await root.post(PATH, json=body, headers={"Idempotency-Key": "k" * 300})).status_code == 400
        assert (await root.get(PATH)).json()["pagination"]["total_items"] == 1


async def test_an_account_has_a_bounded_number_of_webhooks(web: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROTOCOL G10."""
    monkeypatch.setattr(store, "MOST", 2)
    async with web.client() as root:
        await create(root), await create(root)
        beyond = await root.post(PATH, json={"url": URL, "events": ["message.error"]})
        assert beyond.status_code == 409


async def test_a_test_event_its_log_and_its_redelivery(inside: Live, hooks: Hooks) -> None:
    """PROTOCOL G7, G8."""
    async with site(always(500)) as receiver, inside.client() as root:
        made = await create(root, url=f"{receiver.url}/hook")
        at = f"{PATH}/{made['id']}"
        tested = await root.post(f"{at}/test")
        assert tested.status_code == 202
        delivery = tested.json()["data"]
        assert {"event": "webhook.test", "status": "pending", "webhook_id": made["id"]}.items() <= delivery.items()
        await hooks.send(4)
        whole = (await root.get(f"{at}/deliveries/{delivery['id']}")).json()["data"]
        assert (whole["status"], whole["attempts"], whole["next_attempt_at"]) == ("dead", 4, None)
        assert [one["status"] for one in whole["log"]] == [500] * 4
        assert whole["log"][0]["response"] == "ok" and whole["log"][0]["milliseconds"] >= 0
        assert whole["body"]["data"] == {"webhook_id": made["id"]}
        dead = (await root.get(f"{at}/deliveries?status=dead")).json()
        assert [one["id"] for one in dead["data"]] == [delivery["id"]]
        assert (await root.get(f"{at}/deliveries?status=delivered")).json()["data"] == []
        receiver.answer = always(200)
        again = await root.post(f"{at}/deliveries/{delivery['id']}/redeliver")
        assert (again.status_code, again.json()["data"]["status"]) == (202, "pending")
        rotated = (await root.post(f"{at}/rotate-secret")).json()["data"]
        assert await hooks.send() == ["delivered"]
        assert {asked.headers["webhook-id"] for asked in receiver.asked} == {delivery["event_id"]}
        for secret in (made["secret"], rotated["secret"]):
            assert verified(receiver.asked[-1], secret)["event"] == "webhook.test"
        missing = await root.get(f"{at}/deliveries/dlv_1")
        assert (missing.status_code, missing.json()["code"]) == (404, "DELIVERY_NOT_FOUND")
        await root.patch(at, json={"status": "disabled"})
        for path in (f"{at}/test", f"{at}/deliveries/{delivery['id']}/redeliver"):
            assert (await root.post(path)).status_code == 409


async def test_what_a_delivery_says_is_shown_to_who_may_read_it(web: Live, hooks: Hooks) -> None:
    """PROTOCOL G9."""
    async with web.client() as root:
        made = await create(root, events=["memory.created"])
        await root.post("/v1/memories", json={"text": "I live in Lyon.", "infer": False})
        await hooks.tell()
        weak = await key(root, "webhooks:write", "messages:read")
        [delivery] = (await root.get(f"{PATH}/{made['id']}/deliveries")).json()["data"]
        at = f"{PATH}/{made['id']}/deliveries/{delivery['id']}"
        assert (await root.get(at)).json()["data"]["body"]["data"]["memory"] == "I live in Lyon."
        async with web.client(weak) as client:
            assert (await client.get(at)).status_code == 403


async def test_the_feed_has_every_kind_and_each_key_those_it_may_read(web: Live, hooks: Hooks) -> None:
    """PROTOCOL A5, A7."""
    async with web.client() as root:
        weak = await key(root, "messages:read")
        await root.post("/v1/memories", json={"text": "I live in Lyon.", "infer": False})
        await hooks.tell()
        for kind in TOLD_TO_WEBHOOKS:
            assert (await root.head(f"/v1/events?kinds={kind}")).status_code == 200
        async with root.stream("GET", "/v1/events?after=1-0") as response:
            assert "event: memory.created" in await lines(response, 4)
        async with web.client(weak) as client:
            assert (await client.head("/v1/events?kinds=memory.created")).status_code == 403
            await root.post("/v1/messages/async", json={"messages": [{"role": "user", "content": "x"}]})
            async with client.stream("GET", "/v1/events?after=1-0") as response:
                got = await lines(response, 4)
        assert "event: message.created" in got
        assert "event: memory.created" not in got


async def lines(response: httpx.Response, most: int) -> list[str]:
    """The first lines that name an event or an id, of a stream that begins with a gap."""
    got: list[str] = []
    async for line in response.aiter_lines():
        if line.startswith(("event:", "id:")):
            got.append(line)
        if len(got) >= most - 1:
            return got
    return got
