"""Chunks into deltas: the shapes providers really send, and the ends that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import UpstreamFailed
from app.llm.chat_stream import ChatStream
from app.llm.types import Delta, Stop, Text, Thinking, ToolArguments, ToolStart, Usage
from tests.llm_rig import joined


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish, **fields}]}


def stream(*chunks: dict[str, Any], done: bool = True, stops: list[str] | None = None) -> list[Delta]:
    reader = ChatStream(stops or [])
    found: list[Delta] = []
    for one in chunks:
        found += reader.feed(b"data: " + json.dumps(one).encode() + b"\n\n")
    if done:
        found += reader.feed(b"data: [DONE]\n\n")
    return found + reader.finish()


def tool(
    index: int | None, call_id: str | None = None, name: str | None = None, arguments: Any = None
) -> dict[str, Any]:
    call: dict[str, Any] = {"function": {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}}
    call |= {k: v for k, v in (("index", index), ("id", call_id)) if v is not None}
    return chunk({"tool_calls": [call]})


def tools(*chunks: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = joined(stream(*chunks, chunk(finish="tool_calls")))
    assert found["stop"] == [("tool_use", None)]
    return [(call["id"], call["name"], call["json"]) for call in found["tools"].values()]


def test_text_and_reasoning() -> None:
    for field in ("reasoning_content", "reasoning"):
        found = stream(chunk({field: "hm"}), chunk({"content": "a"}), chunk({"content": "b"}, "stop"))
        assert found == [Thinking("hm"), Text("a"), Text("b"), Stop("end_turn")]
    both = stream(chunk({"reasoning": "hm", "content": "a"}), chunk(finish="stop"))
    assert both == [Thinking("hm"), Text("a"), Stop("end_turn")]


def test_content_in_parts() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    assert stream(chunk({"content": parts}), chunk(finish="stop")) == [Thinking("hm"), Text("a"), Stop("end_turn")]


def test_a_refusal_is_text() -> None:
    assert stream(chunk({"refusal": "I cannot"}), chunk(finish="stop"))[0] == Text("I cannot")


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("something_new", "end_turn"),
    ],
)
def test_finish_reasons(finish: str, reason: str) -> None:
    assert stream(chunk({"content": "a"}), chunk(finish=finish))[-1] == Stop(reason)  # type: ignore[arg-type]


def test_stop_after_tool_calls_means_tool_use() -> None:
    found = joined(stream(tool(0, "c", "f", "{}"), chunk(finish="stop")))
    assert found["stop"] == [("tool_use", None)]


def test_the_stop_sequence_where_the_server_names_it() -> None:
    found = stream(chunk(finish="stop", stop_reason="END"), stops=["END"])
    assert found == [Stop("stop_sequence", "END")]
    assert stream(chunk(finish="stop", stop_reason=128001)) == [Stop("end_turn")]


def test_only_the_first_finish_reason_counts() -> None:
    assert stream(chunk(finish="length"), chunk(finish="stop")) == [Stop("max_tokens")]


def test_usage_wherever_it_comes() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    own = stream(chunk({"content": "a"}), chunk(finish="stop"), {"choices": [], "usage": usage})
    last = stream(chunk({"content": "a"}), chunk(finish="stop") | {"usage": usage})
    every = stream(chunk({"content": "a"}) | {"usage": usage}, chunk(finish="stop") | {"usage": usage})
    assert own == last == every == [Text("a"), Stop("end_turn"), Usage(3, 4)]
    assert stream(chunk({"content": "a"}), chunk(finish="stop") | {"usage": None}) == [Text("a"), Stop("end_turn")]
    priced = stream(chunk(finish="stop") | {"usage": usage | {"cost": 0.5}})
    assert priced[-1] == Usage(3, 4, 0.5)


def test_a_tool_call_in_fragments() -> None:
    found = tools(tool(0, "c1", "f", ""), tool(0, arguments='{"a"'), tool(0, arguments=":1}"))
    assert found == [("c1", "f", '{"a":1}')]


def test_a_whole_tool_call_at_once() -> None:
    assert tools(tool(0, "c1", "f", '{"a":1}')) == [("c1", "f", '{"a":1}')]
    assert tools(tool(0, "c1", "f", {"a": 1})) == [("c1", "f", '{"a":1}')]


def test_parallel_tool_calls_side_by_side() -> None:
    starts = [tool(0, "c1", "f", ""), tool(1, "c2", "g", "")]
    pieces = [tool(0, arguments="{}"), tool(1, arguments='{"b":'), tool(1, arguments="2}")]
    found = tools(*starts, *pieces)
    assert found == [("c1", "f", "{}"), ("c2", "g", '{"b":2}')]


def test_tool_calls_without_index() -> None:
    found = tools(tool(None, "c1", "f", '{"a"'), tool(None, arguments=":1}"), tool(None, "c2", "f", "{}"))
    assert found == [("c1", "f", '{"a":1}'), ("c2", "f", "{}")]


def test_tool_calls_that_all_have_index_0() -> None:
    found = tools(tool(0, "c1", "f", "{}"), tool(0, "c2", "g", "{}"))
    assert found == [("c1", "f", "{}"), ("c2", "g", "{}")]


def test_tool_calls_without_id_get_one() -> None:
    first, second = tools(tool(None, None, "f", "{}"), tool(None, None, "g", "{}"))
    assert first[0].startswith("call_")
    assert second[0].startswith("call_")
    assert first[0] != second[0]


def test_repeated_ids_and_names_start_nothing() -> None:
    found = tools(tool(0, "c1", "f", '{"a"'), tool(0, "c1", "f", ":1}"), tool(0, "", "f", " "))
    assert found == [("c1", "f", '{"a":1} ')]


def test_arguments_before_the_name_wait_for_it() -> None:
    found = stream(tool(0, "c1", None, "{"), tool(0, None, "f", "}"), chunk(finish="tool_calls"))
    assert found == [ToolStart(0, "c1", "f"), ToolArguments(0, "{}"), Stop("tool_use")]


def test_the_old_function_call() -> None:
    found = tools(
        chunk({"function_call": {"name": "f", "arguments": "{"}}), chunk({"function_call": {"arguments": "}"}})
    )
    assert [call[1:] for call in found] == [("f", "{}")]


def test_empty_choices_and_unknown_fields_are_passed_over() -> None:
    found = stream(
        {"choices": [], "prompt_filter_results": [1]},
        {"choices": None},
        {},
        chunk({"content": "a"}),
        chunk(finish="stop"),
    )
    assert found == [Text("a"), Stop("end_turn")]


def test_what_follows_the_end_is_not_text() -> None:
    reader = ChatStream([])
    reader.feed(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n')
    assert reader.complete
    assert not reader.done
    assert reader.finish() == []


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        ({"error": {"message": "boom", "code": 503}}, "overloaded_error", "boom"),
        ({"error": {"message": "slow down", "type": "rate_limit_exceeded"}}, "rate_limit_error", "slow down"),
        ({"error": "just words"}, "api_error", "just words"),
        ({"object": "error", "message": "vllm", "code": 400}, "invalid_request_error", "vllm"),
        ({"error": {"message": "late"}, "choices": [{"delta": {}, "finish_reason": "error"}]}, "api_error", "late"),
    ],
)
def test_an_error_in_the_stream(event: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(UpstreamFailed, match=message) as caught:
        stream(chunk({"content": "a"}), event)
    assert caught.value.type == kind


def test_an_end_without_a_reason_is_an_error() -> None:
    with pytest.raises(UpstreamFailed) as caught:
        stream(chunk({"content": "a"}), done=False)
    assert caught.value.code == "UPSTREAM_TRUNCATED"
    with pytest.raises(UpstreamFailed):
        stream(done=False)
    assert stream(chunk({"content": "a"}), done=True) == [Text("a"), Stop("end_turn")]
    assert stream(chunk({"content": "a"}, "stop"), done=False) == [Text("a"), Stop("end_turn")]


@pytest.mark.parametrize("line", [b"data: <html>", b'data: {"choices": [', b'data: {"choices": "no"}', b"data: 3"])
def test_what_cannot_be_read_is_an_error(line: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="no completion chunk"):
        ChatStream([]).feed(line + b"\n\n")


def test_no_key_in_a_message() -> None:
    secret = "s3cret-of-the-operator"
    body = {"error": {"message": f"bad key {secret} and sk-abcdefghijklmnop, {'x' * 1000}"}}
    with pytest.raises(UpstreamFailed) as caught:
        ChatStream([], secret).feed(b"data: " + json.dumps(body).encode() + b"\n\n")
    assert secret not in caught.value.message
    assert "abcdefghijkl" not in caught.value.message
    assert len(caught.value.message) <= 300


def test_a_whole_answer_instead_of_a_stream() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "a", "tool_calls": [call]}
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}
    found = ChatStream([]).whole(json.dumps(body, indent=1).encode())
    assert found == [Text("a"), ToolStart(0, "c1", "f"), ToolArguments(0, "{}"), Stop("tool_use"), Usage(1, 2)]
