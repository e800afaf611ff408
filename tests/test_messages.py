"""The routes of messages, black box, over HTTP against a whole deployment. PROTOCOL.md, Messages."""

from __future__ import annotations

import json

import anyio
import httpx
import pytest
from redis.asyncio import Redis

from tests.rig import until
from tests.sse import assert_dense, error_of, text_of
from tests.system import System

PATH = "/v1/messages/async"
BODY = {"model": "t20", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def client(live: System):
    async with live.client() as made:
        yield made


@pytest.mark.parametrize("prefix", ["", "lite-"])
async def test_initiate_observe_status(live: System, client: httpx.AsyncClient, prefix: str):
    """PROTOCOL I1, T1, T2, E3."""
    answer = await client.post(PATH, json=BODY | {"model": f"{prefix}t20-p50", "metadata": {"thread_id": "T", "x": 1}})
    started = answer.json()
    assert answer.status_code == 200
    assert started["status"] == "pending"
    assert started["message"] == "Request initiated successfully"
    message_id = started["message_id"]
    assert started["stream_url"] == f"{PATH}/{message_id}/stream"
    assert started["status_url"] == f"{PATH}/{message_id}/status"
    assert started["cancel_url"] == f"{PATH}/{message_id}/cancel"
    events = await live.observe(client, message_id)
    assert_dense(events)
    assert text_of(events) == live.up.text("t20-p50")
    assert events[-1].type == "message_stop"
    status = await live.status(client, message_id)
    assert set(status) == {
        *("message_id", "status", "created_at", "updated_at", "completed_at", "error_message"),
        *("stream_type", "metadata"),
    }
    measured = status["metadata"]
    assert (status["status"], measured["stop_reason"], measured["attempt"]) == ("completed", "end_turn", 1)
    assert (measured["thread_id"], measured["x"], measured["model"]) == ("T", 1, f"{prefix}t20-p50")
    assert (measured["output_tokens"], measured["last_seq"]) == (20, len(events))
    assert measured["memory"]["status"] == "queued"
    assert measured["time_to_first_token_ms"] >= 0
    whole = (await client.get(f"{PATH}/{message_id}")).json()
    assert whole["content"] == [{"type": "text", "text": live.up.text("t20-p50")}]
    assert (whole["role"], whole["status"], whole["usage"]["output_tokens"]) == ("assistant", "completed", 20)


async def test_thinking_and_tools_come_through(live: System, client: httpx.AsyncClient):
    for model in ("t20-think5-tool", "lite-t20-think5-tool"):
        message_id = await live.initiate(client, model)
        status = await live.ended(client, message_id)
        assert status["metadata"]["stop_reason"] == "tool_use"
        assert len(status["metadata"]["tools_used"]) == 1
        content = (await client.get(f"{PATH}/{message_id}")).json()["content"]
        assert [block["type"] for block in content] == ["thinking", "text", "tool_use"]
        assert isinstance(content[2]["input"], dict)


@pytest.mark.parametrize(
    "model", ["fail500", "lite-fail500", "cut10", "lite-cut10", "err10", "lite-err10", "short10", "nobody/none-such"]
)
async def test_a_failing_model_ends_in_a_clear_error(live: System, client: httpx.AsyncClient, model: str):
    """PROTOCOL I3, E3."""
    message_id = await live.initiate(client, model, deadline_seconds=30)
    events = await live.observe(client, message_id)
    assert_dense(events)
    error = events[-1].data
    assert events[-1].type == "error"
    assert error["request_id"]
    assert set(error["error"]) == {"type", "message", "detail"}
    assert set(error["error"]["detail"]) == {"code", "explanation"}
    status = await live.status(client, message_id)
    assert status["status"] == "error"
    assert error["error"]["detail"]["explanation"] in status["error_message"]
    assert "Traceback" not in json.dumps(error)


async def test_a_model_that_recovers_is_retried_unseen(live: System, client: httpx.AsyncClient):
    message_id = await live.initiate(client, "fail429x2-t20", text="recover")
    events = await live.observe(client, message_id)
    assert_dense(events)
    assert text_of(events) == live.up.text("fail429x2-t20")


async def test_ten_observers_from_different_moments_get_the_same_bytes(live: System, client: httpx.AsyncClient):
    message_id = await live.initiate(client, "t200-p100")
    seen: list[list] = []

    async def observe(delay: float, web: int):
        await anyio.sleep(delay)
        async with live.client(web=web) as own:
            seen.append([event.raw for event in await live.observe(own, message_id)])

    async with anyio.create_task_group() as tg:
        for i in range(10):
            tg.start_soon(observe, i * 0.3, i % 2)
    assert len(seen) == 10
    assert all(one == seen[0] for one in seen)


class TestCancel:
    """Queued, before the first token, mid-stream, elsewhere, twice, after the end."""

    async def test_before_the_first_token_and_from_another_process(self, live: System, client: httpx.AsyncClient):
        """PROTOCOL X1, X2."""
        message_id = await live.initiate(client, "slowstart2-t20")
        await live.written(client, message_id, 1)
        n = await self._upstream_request(live, "slowstart2-t20")
        async with live.client(web=1) as other:
            answer = await other.post(f"{PATH}/{message_id}/cancel")
        expected = {"message": "Stream cancelled successfully", "message_id": message_id, "status": "cancelled"}
        assert (answer.status_code, answer.json()) == (200, expected)
        await until(lambda: any(c.request == n for c in live.up.closes), 3)
        await self._stays_cancelled(live, client, message_id)

    @pytest.mark.parametrize("prefix", ["", "lite-"])
    async def test_in_the_middle(self, live: System, client: httpx.AsyncClient, prefix: str):
        """PROTOCOL X2, X3, L1."""
        message_id = await live.initiate(client, f"{prefix}t400-p100")
        await live.written(client, message_id, 20)
        n = await self._upstream_request(live, "t400-p100")
        answer = await client.post(f"{PATH}/{message_id}/cancel")
        assert answer.status_code == 200
        await until(lambda: any(c.request == n for c in live.up.closes), 3)
        again = await client.post(f"{PATH}/{message_id}/cancel")
        assert (again.status_code, again.json()) == (200, answer.json())
        await self._stays_cancelled(live, client, message_id)
        content = (await client.get(f"{PATH}/{message_id}")).json()["content"]
        assert live.up.text("t400-p100").startswith(content[0]["text"])

    async def test_after_the_end(self, live: System, client: httpx.AsyncClient):
        """PROTOCOL X3."""
        message_id = await live.initiate(client, "t1")
        await live.ended(client, message_id)
        body = error_of(await client.post(f"{PATH}/{message_id}/cancel"), 409, "CONFLICT")
        assert body["error"]["details"]["status"] == "completed"
        assert body["message_id"] == message_id
        assert (await live.status(client, message_id))["status"] == "completed"

    async def _upstream_request(self, live: System, model: str) -> int:
        await until(lambda: any(r.model.endswith(model) for r in live.up.requests))
        return max(r.n for r in live.up.requests if r.model.endswith(model))

    async def _stays_cancelled(self, live: System, client: httpx.AsyncClient, message_id: str):
        before = await live.observe(client, message_id)
        assert before[-1].type == "message_cancelled"
        assert_dense(before)
        status = await live.status(client, message_id)
        assert status["status"] == "cancelled"
        assert status["completed_at"]
        await anyio.sleep(0.5)  # time in which a late writer would write
        assert await live.observe(client, message_id) == before
        assert await live.status(client, message_id) == status
        last = status["metadata"]["last_seq"]
        assert (await client.get(f"{PATH}/{message_id}/stream?after={last}")).status_code == 204


async def test_cancelling_a_queued_message_never_asks_the_model(live: System, client: httpx.AsyncClient):
    """PROTOCOL X1, I4."""
    key = await live.key_of("queued")
    async with live.client(key) as own:
        asked = len(live.up.requests)
        running = [await live.initiate(own, "stall10", deadline_seconds=60) for _ in range(live.settings.max_running)]
        waiting = await live.initiate(own, "t20", text="never asked")
        assert (await live.status(own, waiting))["status"] == "pending"
        answer = await own.post(f"{PATH}/{waiting}/cancel")
        assert answer.status_code == 200
        events = await live.observe(own, waiting)
        assert [e.type for e in events] == ["message_cancelled"]
        for message_id in running:
            assert (await own.post(f"{PATH}/{message_id}/cancel")).status_code == 200
        assert not [r for r in live.up.requests[asked:] if "never asked" in json.dumps(r.body)]


class TestDelete:
    async def test_while_active_with_observers(self, live: System, client: httpx.AsyncClient):
        """PROTOCOL D1, D2, I2."""
        message_id = await live.initiate(client, "t400-p100")
        await live.written(client, message_id, 10)
        seen: list[list] = []

        async def observe():
            seen.append(await live.observe(client, message_id))

        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(observe)
            await anyio.sleep(0.3)
            answer = await client.delete(f"{PATH}/{message_id}")
            assert (answer.status_code, answer.content) == (204, b"")
            routes = ("GET ", "GET /status", "GET /stream", "POST /cancel", "DELETE ", "DELETE /delete")
            for method, path in (route.split(" ") for route in routes):
                error_of(await client.request(method, f"{PATH}/{message_id}{path}"), 404, "MESSAGE_NOT_FOUND")
        assert [events[-1].type for events in seen] == ["message_cancelled"] * 3
        listed = (await client.get(PATH, params={"limit": 100})).json()["messages"]
        assert message_id not in [m["message_id"] for m in listed]
        error_of(await client.post(PATH, params={"message_id": message_id}, json=BODY), 409, "CONFLICT")
        redis = live.settings.redis_url

        async def only_the_tombstone() -> bool:
            async with Redis.from_url(redis) as connection:
                keys = [k async for k in connection.scan_iter(match=f"*{message_id}*")]
            return len(keys) == 1 and b":t:" in keys[0]

        await until(only_the_tombstone, 15)

    async def test_a_finished_one_by_the_other_address(self, live: System, client: httpx.AsyncClient):
        message_id = await live.initiate(client, "t1")
        await live.ended(client, message_id)
        assert (await client.delete(f"{PATH}/{message_id}/delete")).status_code == 204
        error_of(await client.get(f"{PATH}/{message_id}/status"), 404, "MESSAGE_NOT_FOUND")


async def test_accounts_and_users_do_not_see_each_other(live: System, client: httpx.AsyncClient):
    """PROTOCOL C2, C3."""
    other_key = await live.key_of("other")
    bound_key = await live.key_of("default", "--user", "ada")
    mine = await live.initiate(client, "t400-p100", message_id="chosen-one", metadata={"user_id": "bob"})
    token = (await client.post("/v1/stream-tokens", json={"message_ids": [mine]})).json()["token"]
    async with live.client(other_key) as other, live.client(bound_key) as bound:
        same = await live.initiate(other, "t1", message_id="chosen-one")
        assert same == mine
        await live.ended(other, same)
        assert (await live.status(client, mine))["status"] == "processing"
        adas = await live.initiate(bound, "t1")
        assert (await live.status(client, adas))["message_id"] == adas
        for method, path in (("GET", ""), ("GET", "/status"), ("GET", "/stream"), ("POST", "/cancel"), ("DELETE", "")):
            error_of(await bound.request(method, f"{PATH}/{mine}{path}"), 404, "MESSAGE_NOT_FOUND")
            error_of(await other.request(method, f"{PATH}/{adas}{path}"), 404, "MESSAGE_NOT_FOUND")
        assert [m["message_id"] for m in (await bound.get(PATH)).json()["messages"]] == [adas]
        assert {m["message_id"] for m in (await other.get(PATH)).json()["messages"]} == {same}
        error_of(await bound.get(PATH, params={"user_id": "bob"}), 403, "FORBIDDEN")
        error_of(await bound.post(PATH, json=BODY | {"metadata": {"user_id": "bob"}}), 403, "FORBIDDEN")
        error_of(await other.post("/v1/stream-tokens", json={"message_ids": [adas]}), 404, "MESSAGE_NOT_FOUND")
    async with httpx.AsyncClient(base_url=live.url, timeout=10) as anyone:
        for path in (f"{adas}/stream", "never/stream"):
            error_of(await anyone.get(f"{PATH}/{path}", params={"token": token}), 404, "MESSAGE_NOT_FOUND")
        error_of(await anyone.get(f"{PATH}/{mine}/stream", params={"token": token + "x"}), 401, "UNAUTHORIZED")
        error_of(await anyone.get(f"{PATH}/{mine}/status", params={"token": token}), 401, "UNAUTHORIZED")
        error_of(await anyone.post(f"{PATH}/{adas}/cancel", params={"token": token}), 404, "MESSAGE_NOT_FOUND")
        assert (await anyone.post(f"{PATH}/{mine}/cancel", params={"token": token})).status_code == 200


async def test_the_list_pages_and_filters(live: System):
    """PROTOCOL L2."""
    key = await live.key_of("lister")
    async with live.client(key) as own:
        ids = []
        for i in range(7):
            metadata = {"thread_id": f"t{i % 2}", "user_id": f"u{i % 3}"}
            ids.append(await live.initiate(own, "t1", metadata=metadata, stream_type="chat" if i == 3 else "default"))
        for message_id in ids:
            await live.ended(own, message_id)

        async def listed(**params) -> list[str]:
            found: list[str] = []
            cursor = None
            while True:
                page = (await own.get(PATH, params=params | ({"cursor": cursor} if cursor else {}))).json()
                found += [m["message_id"] for m in page["messages"]]
                cursor = page["next_cursor"]
                if cursor is None:
                    return found

        assert await listed() == ids[::-1]
        assert await listed(limit=1) == ids[::-1]
        assert await listed(limit=3) == ids[::-1]
        assert await listed(thread_id="t1") == [ids[5], ids[3], ids[1]]
        assert await listed(user_id="u0", limit=1) == [ids[6], ids[3], ids[0]]
        assert await listed(stream_type="chat") == [ids[3]]
        assert await listed(status="error") == []
        for params, field in (({"limit": 0}, "limit"), ({"limit": "x"}, "limit"), ({"status": "done"}, "status")):
            body = error_of(await own.get(PATH, params=params), 422, "VALIDATION_ERROR")
            assert body["error"]["details"]["field"] == field
        error_of(await own.get(PATH, params={"cursor": "???"}), 400, "BAD_REQUEST")


class TestIdempotency:
    async def test_the_same_key_and_body_create_once(self, live: System, client: httpx.AsyncClient):
        """PROTOCOL C7."""
        answers: list[dict] = []

        async def post():
            answer = await client.post(PATH, json=BODY, headers={"Idempotency-Key": "once-1"})
            answers.append(answer.json())

        async with anyio.create_task_group() as tg:
            for _ in range(5):
                tg.start_soon(post)
        assert len({(a["message_id"], a["created_at"]) for a in answers}) == 1
        changed = BODY | {"max_tokens": 5}
        refused = await client.post(PATH, json=changed, headers={"Idempotency-Key": "once-1"})
        error_of(refused, 409, "CONFLICT")
        assert "Idempotency-Key" in refused.json()["detail"]
        key = await live.key_of("other")
        async with live.client(key) as other:
            elsewhere = await other.post(PATH, json=changed, headers={"Idempotency-Key": "once-1"})
            assert elsewhere.json()["message_id"] != answers[0]["message_id"]

    async def test_a_chosen_id_is_unique(self, live: System, client: httpx.AsyncClient):
        """PROTOCOL I2."""
        assert (await client.post(PATH, params={"message_id": "mine-1"}, json=BODY)).status_code == 200
        error_of(await client.post(PATH, params={"message_id": "mine-1"}, json=BODY), 409, "CONFLICT")
        for bad in ("stream", "-x", "a b", "x" * 129, "é", ""):
            body = error_of(await client.post(PATH, params={"message_id": bad}, json=BODY), 422, "VALIDATION_ERROR")
            assert body["error"]["details"]["field"] == "message_id"


async def test_fairness_b_starts_while_a_hundred_of_a_wait(live: System):
    """PROTOCOL I4."""
    a_key, b_key = await live.key_of("fair-a"), await live.key_of("fair-b")
    async with live.client(a_key) as a, live.client(b_key) as b:
        async with anyio.create_task_group() as tg:
            for i in range(300):
                tg.start_soon(live.initiate, a, "t60-p20")
                if i % 20 == 19:
                    await anyio.sleep(0.05)
        mine = await live.initiate(b, "t1")
        status = await live.ended(b, mine, 15)
        assert status["status"] == "completed"
        waiting = (await a.get(PATH, params={"status": "pending", "limit": 100})).json()["messages"]
        assert len(waiting) == 100  # most of A's still wait
        cursor: str | None = ""
        while cursor is not None:
            page = (await a.get(PATH, params={"limit": 100} | ({"cursor": cursor} if cursor else {}))).json()
            for message in page["messages"]:
                if not message["completed_at"]:
                    await a.post(f"{PATH}/{message['message_id']}/cancel")
            cursor = page["next_cursor"]


async def test_a_revoked_key_is_refused_in_every_process(live: System, client: httpx.AsyncClient):
    """PROTOCOL C4."""
    made = (await client.post("/v1/api-keys", json={"name": "short-lived", "scopes": ["messages:read"]})).json()["data"]
    async with live.client(made["key"]) as here, live.client(made["key"], web=1) as there:
        for own in (here, there):
            assert (await own.get(PATH)).status_code == 200
        assert (await client.delete(f"/v1/api-keys/{made['id']}")).status_code in (200, 204)

        async def refused() -> bool:
            return [(await own.get(PATH)).status_code for own in (here, there)] == [401, 401]

        await until(refused, 2)
