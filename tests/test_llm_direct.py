"""The direct path against the scripted upstream: text byte for byte, retries, refusals, and closing at once."""

from __future__ import annotations

import gzip
import socket
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from app.errors import UpstreamFailed
from app.llm import openai_wire, retry
from app.llm.retry import RetryingModel, pause_s
from app.llm.types import Door, Stop, Target, Text, Usage
from tests.llm_rig import answer, joined, request, text_of
from tests.upstream import Upstream, upstream


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def door(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.001)
    async with httpx.AsyncClient(trust_env=False) as http:
        yield openai_wire.door(http)


def model(up: Upstream, door: Door, name: str, **fields: Any) -> RetryingModel:
    fields = {"api_base": up.base_url, "api_key": "the-key"} | fields
    return RetryingModel(Target(name=name, model=name, path="direct", **fields), door)


@pytest.mark.parametrize("name", ["t300", "t40-p400", "t150-same", "t3-nodone", "t5-emptychoices", "t9-usagelast"])
async def test_the_text_comes_byte_for_byte(up: Upstream, door: Door, name: str) -> None:
    deltas = await answer(model(up, door, name))
    assert text_of(deltas) == up.text(name)
    count = sum(isinstance(d, Text) for d in deltas)
    assert deltas[-2:] == [Stop("end_turn"), Usage(11, count)]


async def test_what_is_asked(up: Upstream, door: Door) -> None:
    params = {"extra_headers": {"x-team": "blue"}, "extra_body": {"guided": 1}, "temperature": 0.5}
    await answer(model(up, door, "t1", params=params), request("Grüezi 🙂", max_tokens=7))
    sent = up.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert sent.body == {
        "model": "t1",
        "messages": [{"role": "user", "content": "Grüezi 🙂"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "guided": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert sent.headers["authorization"] == "Bearer the-key"
    assert sent.headers["x-team"] == "blue"


async def test_max_tokens_ends_with_its_reason(up: Upstream, door: Door) -> None:
    deltas = await answer(model(up, door, "t50"), request(max_tokens=10))
    assert joined(deltas)["stop"] == [("max_tokens", None)]


async def test_the_connection_is_used_again(up: Upstream, door: Door) -> None:
    for _ in range(3):
        await answer(model(up, door, "t5"))
    assert len(up.connections) == 1


@pytest.mark.parametrize("failure", ["fail429x2", "fail500x2", "fail502x2", "fail503x2", "fail504x2", "refusex2"])
async def test_what_passes_is_tried_again(up: Upstream, door: Door, failure: str) -> None:
    name = f"t5-{failure}"
    assert text_of(await answer(model(up, door, name))) == up.text(name)
    assert len(up.requests) == 3


@pytest.mark.parametrize(
    ("failure", "kind", "tries"),
    [
        ("fail429", "rate_limit_error", 3),
        ("fail500", "api_error", 3),
        ("fail503", "overloaded_error", 3),
        ("refuse", "api_error", 3),
        ("fail400", "invalid_request_error", 1),
        ("fail401", "authentication_error", 1),
        ("fail403", "authentication_error", 1),
        ("noroute", "not_found_error", 1),
        ("fail422", "invalid_request_error", 1),
        ("err0", "api_error", 3),
    ],
)
async def test_what_stays_is_told(up: Upstream, door: Door, failure: str, kind: str, tries: int) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        await answer(model(up, door, f"t5-{failure}"))
    assert caught.value.type == kind
    assert caught.value.explanation
    assert len(up.requests) == tries


async def test_an_upstream_that_is_not_there(up: Upstream, door: Door) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(UpstreamFailed, match="could not be reached"):
            await answer(model(up, door, "t5", api_base=base))


@pytest.mark.parametrize(("ending", "code"), [("cut", "TRUNCATED"), ("short", "TRUNCATED"), ("err", "ERROR")])
async def test_nothing_is_tried_again_after_the_first_delta(up: Upstream, door: Door, ending: str, code: str) -> None:
    name = f"t20-{ending}10"
    found = []
    with pytest.raises(UpstreamFailed) as caught:
        async with model(up, door, name).stream(request()) as batches:
            async for batch in batches:
                found += batch
    assert caught.value.code == f"UPSTREAM_{code}"
    assert text_of(found) == up.text(name)
    assert not any(isinstance(d, Stop) for d in found)
    assert len(up.requests) == 1


async def test_a_cut_before_the_first_delta_is_tried_again(up: Upstream, door: Door) -> None:
    with pytest.raises(UpstreamFailed):
        await answer(model(up, door, "t20-cut0"))
    assert len(up.requests) == 3


def test_the_pauses() -> None:
    assert 0.125 <= pause_s(1) <= 0.375
    assert 0.25 <= pause_s(2) <= 0.75
    assert pause_s(1, 3.0) == 3.0
    assert pause_s(1, 3600.0) == 10.0


async def test_an_upstream_that_knows_no_stream_options(up: Upstream, door: Door) -> None:
    name = "t5-nostreamopts"
    for _ in range(2):
        deltas = await answer(model(up, door, name))
        assert text_of(deltas) == up.text(name)
        assert not any(isinstance(d, Usage) for d in deltas)
    assert ["stream_options" in (r.body or {}) for r in up.requests] == [True, False, False]


async def test_a_compressed_answer(up: Upstream, door: Door) -> None:
    whole = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    pieces = gzip.compress(whole)
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    name = up.play("gzip", [pieces[:9], pieces[9:]], headers=headers)
    assert await answer(model(up, door, name)) == [Text("a"), Stop("end_turn")]


async def test_a_whole_answer_instead_of_a_stream(up: Upstream, door: Door) -> None:
    whole = b'{"choices": [{"message": {"content": "a"}, "finish_reason": "length"}]}'
    name = up.play("whole", [whole], headers={"content-type": "application/json"})
    assert await answer(model(up, door, name)) == [Text("a"), Stop("max_tokens")]


async def test_an_error_page(up: Upstream, door: Door) -> None:
    name = up.play("page", [b"<html>\n  <b>Bad   gateway</b>" + b"x" * 100_000], status=502)
    with pytest.raises(UpstreamFailed, match=r"<html> <b>Bad gateway</b>x+") as caught:
        await answer(model(up, door, name))
    assert len(caught.value.message) <= 300


@pytest.mark.parametrize("name", ["t5-slowstart60", "t1000-p100", "t20-stall5", "t100000"])
async def test_cancelling_closes_the_upstream(up: Upstream, door: Door, name: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(answer, model(up, door, name))
        await up.wait_request()
        if "slow" not in name:
            await up.wait(lambda: any(c.sent >= 3 for c in up.connections))
        group.cancel_scope.cancel()
    close = await up.wait_close()
    assert close.headers_sent is ("slow" not in name)
    await up.wait(lambda: not up.connections)


async def test_leaving_early_closes_the_upstream(up: Upstream, door: Door) -> None:
    async with model(up, door, "t1000-p100").stream(request()) as batches:
        async for _ in batches:
            break
    await up.wait_close()
    with pytest.raises(ZeroDivisionError):
        async with model(up, door, "t1000-p100").stream(request()) as batches:
            async for _ in batches:
                raise ZeroDivisionError
    await up.wait_close(2)


async def test_cancelling_during_the_pause_between_tries(
    up: Upstream, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 60.0)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(answer, model(up, door, "t5-fail500"))
            await up.wait(lambda: up.finished)
            group.cancel_scope.cancel()
    assert len(up.requests) == 1


async def test_openai_s_own_service_is_priced() -> None:
    def priced(name: str, usage: Usage) -> float:
        assert (name, usage.output_tokens) == ("gpt", 2)
        return 0.25

    def play(sent: httpx.Request) -> httpx.Response:
        assert sent.url == "https://api.openai.com/v1/chat/completions"
        stop = b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}'
        usage = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'

        async def events() -> AsyncIterator[bytes]:
            yield b"data: %b\n\ndata: %b\n\ndata: [DONE]\n\n" % (stop, usage)

        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=events())

    target = Target(name="x", model="gpt", path="direct", api_base="https://api.openai.com/v1")
    async with httpx.AsyncClient(transport=httpx.MockTransport(play)) as http:
        deltas = await answer(RetryingModel(target, openai_wire.door(http, priced)))
    assert deltas[-1] == Usage(1, 2, 0.25)
