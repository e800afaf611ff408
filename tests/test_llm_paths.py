"""The two paths agree: the same bytes give the same answer directly and through litellm. Both close at once."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from app.errors import UpstreamFailed
from app.llm import litellm_door, openai_wire, retry
from app.llm.line_stream import LineStream
from app.llm.retry import RetryingModel
from app.llm.types import Door, Signature, Target, TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock, Turn
from tests.llm_rig import answer, joined, request, text_of
from tests.upstream import Upstream, upstream
from tests.upstream_plans import tool_calls

PROVIDERS = ["openai", "hosted_vllm", "anthropic"]


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture(scope="module")
async def through_litellm() -> AsyncIterator[Door]:
    door = litellm_door.door()
    await litellm_door.warm()
    yield door
    await litellm_door.close()


@pytest.fixture
async def direct() -> AsyncIterator[Door]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield openai_wire.door(http)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.001)


def via(door: Door, up: Upstream, name: str, provider: str = "openai", **params: Any) -> RetryingModel:
    base = up.root_url if provider == "anthropic" else up.base_url
    target = Target(
        name=name, model=f"{provider}/{name}", path="litellm", api_base=base, api_key="k-123456", params=params
    )
    return RetryingModel(target, door)


def straight(door: Door, up: Upstream, name: str) -> RetryingModel:
    return RetryingModel(Target(name=name, model=name, path="direct", api_base=up.base_url, api_key="k-123456"), door)


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | fields


def call(index: int, call_id: str | None = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"index": index, "function": function} | ({"id": call_id, "type": "function"} if call_id else {})


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
OWN = chunk({}) | {"choices": [], "usage": USAGE}
ROLE = chunk({"role": "assistant", "content": ""})
TEXT = [chunk({"content": piece}) for piece in ("Grü", "ezi", " 🙂\u2028", "\n\n", "data: x")]
EMPTY = chunk({}) | {"choices": []}
STREAMS: dict[str, list[dict[str, Any]]] = {
    "usage on a chunk of its own": [ROLE, *TEXT, chunk({}, "stop"), OWN],
    "usage on the last chunk": [ROLE, *TEXT, chunk({}, "stop", usage=USAGE)],
    "usage on the last text": [ROLE, *TEXT[:-1], chunk({"content": "end"}, "stop", usage=USAGE)],
    "usage missing": [ROLE, *TEXT, chunk({}, "stop")],
    "usage null until it comes": [ROLE | {"usage": None}, TEXT[0] | {"usage": None}, chunk({}, "stop"), OWN],
    "a finish reason on the last text": [ROLE, *TEXT[:-1], chunk({"content": "end"}, "length"), OWN],
    "empty choices first": [EMPTY | {"prompt_filter_results": []}, ROLE, *TEXT, chunk({}, "stop"), OWN],
    "reasoning": [
        ROLE,
        chunk({"reasoning_content": "hm "}),
        chunk({"reasoning_content": "yes"}),
        *TEXT,
        chunk({}, "stop"),
    ],
    "a tool call in fragments": [
        ROLE,
        chunk({"content": None, "tool_calls": [call(0, "c1", "look_up")]}),
        chunk({"tool_calls": [call(0, arguments='{"a"')]}),
        chunk({"tool_calls": [call(0, arguments=":1}")]}),
        chunk({}, "tool_calls"),
        OWN,
    ],
    "tool calls side by side": [
        ROLE,
        chunk({"content": "Let me see."}),
        chunk({"tool_calls": [call(0, "c1", "look_up"), call(1, "c2", "ask")]}),
        chunk({"tool_calls": [call(1, arguments='{"b":'), call(0, arguments="{}")]}),
        chunk({"tool_calls": [call(1, arguments="2}")]}),
        chunk({}, "tool_calls"),
        OWN,
    ],
    "a whole tool call at once": [
        ROLE,
        chunk({"tool_calls": [call(0, "c1", "look_up", '{"a":1}')]}),
        chunk({}, "tool_calls"),
    ],
    "stop after a tool call": [ROLE, chunk({"tool_calls": [call(0, "c1", "f", "{}")]}), chunk({}, "stop"), OWN],
    "filtered": [ROLE, TEXT[0], chunk({}, "content_filter"), OWN],
    "nothing said": [ROLE, chunk({}, "stop"), OWN],
}


def wire(chunks: list[dict[str, Any]], size: int, end: bytes = b"data: [DONE]\n\n") -> list[bytes]:
    """The stream's bytes, cut every ``size`` bytes: inside lines, inside characters."""
    raw = b"".join(b"data: %b\n\n" % json.dumps(c, ensure_ascii=False).encode() for c in chunks) + end
    return [raw[i : i + size] for i in range(0, len(raw), size)]


@pytest.mark.parametrize("size", [7, 4096])
@pytest.mark.parametrize("what", STREAMS)
async def test_the_paths_agree(up: Upstream, direct: Door, through_litellm: Door, what: str, size: int) -> None:
    name = up.play(what.replace(" ", "_"), wire(STREAMS[what], size))
    ours = joined(await answer(straight(direct, up, name)))
    assert len(ours["stop"]) == 1
    for provider in ("openai", "hosted_vllm"):
        assert joined(await answer(via(through_litellm, up, name, provider))) == ours


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
@pytest.mark.parametrize(
    "name",
    [
        "t5-fail429x2",
        "t5-fail500x2",
        "t5-refusex1",
        "t5-fail429",
        "t5-fail500",
        "t5-fail503",
        "t5-fail401",
        "t5-fail400",
        "t5-noroute",
        "t9-err4",
        "t9-cut4",
        "t9-short4",
        "t9-err0",
        "t9-cut0",
        "t9-nostreamopts",
    ],
)
async def test_the_paths_fail_alike(
    up: Upstream, direct: Door, through_litellm: Door, provider: str, name: str
) -> None:
    async def outcome(model: RetryingModel) -> tuple[Any, ...]:
        up.reset()
        found = []
        try:
            async with model.stream(request()) as batches:
                async for batch in batches:
                    found += batch
        except UpstreamFailed as error:
            words = error.message if "cripted" in error.message or "exist" in error.message else ""
            return text_of(found), error.type, error.code, words, len(up.requests)
        return joined(found), len(up.requests)

    ours = await outcome(straight(direct, up, name))
    assert await outcome(via(through_litellm, up, name, provider)) == ours


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["t60", "t250-same", "t5-think3", "t3-tool2"])
async def test_each_provider_says_what_the_upstream_said(
    up: Upstream, through_litellm: Door, provider: str, name: str
) -> None:
    deltas = await answer(via(through_litellm, up, name, provider), request(max_tokens=1000))
    found = joined(deltas)
    assert text_of(deltas) == up.text(name)
    thoughts = [c[1] for c in found["content"] if c[0] == "Thinking"]
    assert "".join(thoughts) == up.thinking(name)
    calls = tool_calls(2 if "tool" in name else 0)
    assert [(c["id"], c["name"], json.loads(c["json"])) for c in found["tools"].values()] == [
        (c["id"], c["name"], c["input"]) for c in calls
    ]
    assert found["stop"] == [("tool_use" if calls else "end_turn", None)]
    assert found["usage"] is not None


async def test_anthropic_s_signature_comes_and_goes_back(up: Upstream, through_litellm: Door) -> None:
    deltas = await answer(via(through_litellm, up, "t3-think2", "anthropic"), request(max_tokens=1000))
    assert [d for d in deltas if isinstance(d, Signature)] == [Signature("c2lnbmVk")]
    turns = [
        Turn("user", "a"),
        Turn("assistant", [ThinkingBlock("hm", "c2lnbmVk"), TextBlock("b"), ToolUseBlock("c1", "f", {"x": 1})]),
        Turn("user", [ToolResultBlock("c1", "done"), TextBlock("go on")]),
    ]
    tools = [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}]
    asked = request(max_tokens=2000, tools=tools, thinking={"type": "enabled", "budget_tokens": 1024})
    asked.messages = turns
    await answer(via(through_litellm, up, "t1", "anthropic"), asked)
    body = up.requests[-1].body
    assert body is not None
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"},
        {"type": "text", "text": "b"},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
    ]
    assert [block["type"] for block in body["messages"][2]["content"]] == ["tool_result", "text"]
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert body["tools"][0]["name"] == "f"


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("name", ["t5-slowstart60", "t1000-p100", "t20-stall5"])
async def test_cancelling_closes_the_upstream(up: Upstream, through_litellm: Door, provider: str, name: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(answer, via(through_litellm, up, name, provider))
        await up.wait_request()
        if "slow" not in name:
            await up.wait(lambda: any(c.sent >= 3 for c in up.connections))
        group.cancel_scope.cancel()
    close = await up.wait_close()
    assert close.headers_sent is ("slow" not in name)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_leaving_early_closes_the_upstream(up: Upstream, through_litellm: Door, provider: str) -> None:
    async with via(through_litellm, up, "t1000-p100", provider).stream(request()) as batches:
        async for _ in batches:
            break
    await up.wait_close()
    await up.wait(lambda: not up.connections)


async def test_a_provider_nobody_knows_is_an_error(through_litellm: Door) -> None:
    target = Target(name="nobody/knows", model="nobody/knows", path="litellm")
    with pytest.raises(UpstreamFailed) as caught:
        await answer(RetryingModel(target, through_litellm))
    assert (caught.value.type, caught.value.code) == ("not_found_error", "MODEL_NOT_FOUND")
    assert (str(caught.value), caught.value.retryable) == ("no provider is called nobody", False)


async def test_litellm_says_nothing_of_its_own(
    up: Upstream, through_litellm: Door, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        for name in ("t5-fail500", "t5-cut2", "t5"):
            try:
                await answer(via(through_litellm, up, name), request("a secret of mine"))
            except UpstreamFailed as error:
                assert "k-123456" not in error.message
    assert "secret of mine" not in caplog.text
    assert not [r for r in caplog.records if r.name.startswith("LiteLLM")]
    assert "".join(capfd.readouterr()) == ""


async def test_no_task_is_left_behind(up: Upstream, through_litellm: Door) -> None:
    before = asyncio.all_tasks()
    await answer(via(through_litellm, up, "t5"))
    await up.wait(lambda: not {t for t in asyncio.all_tasks() - before if "Logging" not in repr(t)})


def test_what_litellm_s_table_knows_is_priced() -> None:
    from app.llm.types import Usage

    priced = litellm_door.cost_usd("openai/gpt-4o-mini", Usage(1_000_000, 1_000_000))
    assert priced is not None
    assert priced > 0
    assert litellm_door.cost_usd("openai/nobody-s", Usage(1, 1)) is None


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_characters_that_look_like_line_ends_are_escaped(size: int) -> None:
    raw = "a\u2028b\u2029c\u0085d€é".encode()

    class Pieces(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for i in range(0, len(raw), size):
                yield raw[i : i + size]

    found = b"".join([piece async for piece in LineStream(Pieces())])
    assert found.decode() == "a\\u2028b\\u2029c\\u0085d€é"
