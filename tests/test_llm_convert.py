"""Requests in Anthropic's shapes into chat-completions bodies, block by block, for each kind of upstream."""

from __future__ import annotations

from typing import Any

import pytest

from app.llm.convert import chat_body, dialect_of
from app.llm.types import (
    ImageBlock,
    Request,
    Target,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)

VLLM = Target(name="x", model="m", path="direct", api_base="http://127.0.0.1:1/v1")
OPENAI = Target(name="x", model="m", path="direct", api_base="https://api.openai.com/v1")
CLAUDE = Target(name="x", model="anthropic/claude", path="litellm")
GEMINI = Target(name="x", model="gemini/pro", path="litellm")
PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PNG_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def body(target: Target = VLLM, *turns: Turn, **fields: Any) -> dict[str, Any]:
    request = Request(messages=list(turns) or [Turn("user", "hi")], **fields)
    return chat_body(target, request, dialect_of(target))


def messages(target: Target, *turns: Turn, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body(target, *turns, **fields)["messages"]
    return found


def test_plain_turns() -> None:
    turns = [Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b"), Turn("user", [TextBlock("c")])]
    assert messages(VLLM, *turns, system="first") == [
        {"role": "system", "content": "first"},
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_system_blocks() -> None:
    cached = {"type": "ephemeral"}
    system = [TextBlock("a"), TextBlock("b", cached)]
    assert messages(VLLM, system=system)[0]["content"] == "a\n\nb"
    assert messages(CLAUDE, system=system)[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", "cache_control": cached},
    ]


def test_text_and_images_keep_their_order() -> None:
    url = ImageBlock({"type": "url", "url": "https://h/i.png"})
    turn = Turn("user", [TextBlock("before"), ImageBlock(PNG), TextBlock("between"), url])
    assert messages(VLLM, turn)[0]["content"] == [
        {"type": "text", "text": "before"},
        PNG_PART,
        {"type": "text", "text": "between"},
        {"type": "image_url", "image_url": {"url": "https://h/i.png"}},
    ]


def test_tool_calls_and_their_results() -> None:
    calls = [TextBlock("let me see"), ToolUseBlock("c1", "f", {"ä": 1}), ToolUseBlock("c2", "g", {})]
    results = [
        TextBlock("and now?"),
        ToolResultBlock("c1", "sunny"),
        ToolResultBlock("c2", [TextBlock("no"), TextBlock("luck")], is_error=True),
    ]
    assert messages(VLLM, Turn("assistant", calls), Turn("user", results)) == [
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"ä":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: no\nluck"},
        {"role": "user", "content": "and now?"},
    ]


def test_a_call_without_text_has_no_content() -> None:
    assert messages(VLLM, Turn("assistant", [ToolUseBlock("c", "f", {})]))[0]["content"] is None
    assert messages(VLLM, Turn("assistant", [ThinkingBlock("hm")]))[0]["content"] == ""


def test_an_image_in_a_result() -> None:
    turn = Turn("user", [ToolResultBlock("c1", [TextBlock("seen"), ImageBlock(PNG)]), ToolResultBlock("c2", "x")])
    assert messages(VLLM, turn) == [
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "tool", "tool_call_id": "c2", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "Images returned by tool call c1:"}, PNG_PART]},
    ]
    assert messages(CLAUDE, turn)[0]["content"] == [{"type": "text", "text": "seen"}, PNG_PART]
    assert len(messages(CLAUDE, turn)) == 2


def test_thinking_goes_back_where_it_is_taken() -> None:
    turn = Turn("assistant", [ThinkingBlock("hm", "proof"), ThinkingBlock("unsigned"), TextBlock("a")])
    assert messages(VLLM, turn) == [{"role": "assistant", "content": "a"}]
    assert messages(GEMINI, turn) == [{"role": "assistant", "content": "a"}]
    signed = {"type": "thinking", "thinking": "hm", "signature": "proof"}
    assert messages(CLAUDE, turn) == [{"role": "assistant", "content": "a", "thinking_blocks": [signed]}]
    takes_it = Target(name="x", model="m", path="direct", api_base="http://h/v1", params={"send_reasoning": True})
    assert messages(takes_it, turn)[0]["reasoning_content"] == "hmunsigned"
    assert "send_reasoning" not in body(takes_it, turn)


def test_tools_in_every_form() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    nested = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}
    ours = {"name": "f", "description": "d", "input_schema": schema}
    flat = {"type": "function", "name": "f", "description": "d", "parameters": schema}
    own = {"type": "web_search_20250305", "name": "web_search"}
    assert body(VLLM, tools=[ours, nested, flat, own])["tools"] == [nested, nested, nested, own]
    cached = ours | {"cache_control": {"type": "ephemeral"}}
    assert body(CLAUDE, tools=[cached])["tools"] == [nested | {"cache_control": {"type": "ephemeral"}}]
    assert body(VLLM, tools=[cached])["tools"] == [nested]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        ("auto", "auto"),
        ("any", "required"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice(given: Any, made: Any) -> None:
    assert body(VLLM, tools=[{"name": "f", "input_schema": {}}], tool_choice=given)["tool_choice"] == made


def test_no_tool_choice_without_tools_and_one_call_at_a_time() -> None:
    assert "tool_choice" not in body(VLLM, tool_choice="auto")
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert body(VLLM, tools=[{"name": "f", "input_schema": {}}], tool_choice=choice)["parallel_tool_calls"] is False


def test_sampling_and_limits() -> None:
    fields: dict[str, Any] = {
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 0,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "response_format": {"type": "json_object"},
    }
    found = body(VLLM, **fields, top_k=5, max_tokens=9, stop_sequences=["END"])
    assert found == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        **fields,
        "top_k": 5,
        "max_tokens": 9,
        "stop": ["END"],
    }
    assert set(body(VLLM)) == {"model", "messages"}


def test_openai_s_own_service() -> None:
    found = body(OPENAI, top_k=5, max_tokens=9)
    assert "top_k" not in found
    assert "max_tokens" not in found
    assert found["max_completion_tokens"] == 9


def test_the_operator_s_params_win() -> None:
    target = Target(name="x", model="m", path="direct", api_base="http://h/v1", params={"temperature": 1.0, "extra": 1})
    found = body(target, temperature=0.0)
    assert (found["temperature"], found["extra"]) == (1.0, 1)


@pytest.mark.parametrize(
    ("thinking", "claude", "others"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, {"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"enabled": True, "budget_tokens": 20_000}, {"type": "enabled", "budget_tokens": 20_000}, "high"),
        ({"budget_tokens": 5_000}, {"type": "enabled", "budget_tokens": 5_000}, "medium"),
        ({"enabled": True}, {"type": "enabled", "budget_tokens": 4096}, "medium"),
        ({"type": "adaptive"}, {"type": "adaptive"}, "medium"),
        ({"type": "disabled"}, None, None),
        ({"enabled": False, "budget_tokens": 5_000}, None, None),
    ],
)
def test_thinking(thinking: dict[str, Any], claude: dict[str, Any] | None, others: str | None) -> None:
    assert body(CLAUDE, thinking=thinking).get("thinking") == claude
    assert body(VLLM, thinking=thinking).get("reasoning_effort") == others
