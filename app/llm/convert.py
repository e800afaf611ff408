"""A request in Anthropic's shapes as a chat-completions body. Pure; both paths use it, litellm takes OpenAI's shapes.

1. Tool results become messages of role ``tool`` and come first in their turn, in their order: OpenAI wants them right
   after the calls they answer, and Anthropic's own rule is the same. The rest of the turn follows as one message.
2. Where a tool's result cannot hold an image it is shown in the user message that follows, named by its call.
3. A thinking block goes back only where the provider takes it: with its signature to Anthropic's models through
   litellm, as ``reasoning_content`` where the alias' params say ``send_reasoning = true``, else it is dropped.
4. What the operator wrote in the alias' ``params`` is merged last and wins.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from app.llm.types import (
    Block,
    ImageBlock,
    Request,
    Target,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
)


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """What an upstream takes beyond the common ground."""

    top_k: bool = True
    max_tokens_field: str = "max_tokens"
    anthropic: bool = False
    """litellm to an Anthropic model: signed thinking, cache marks, images in tool results, ``thinking`` as it is."""
    reasoning: bool = False
    """Takes ``reasoning_content`` of earlier turns."""


def dialect_of(target: Target) -> Dialect:
    reasoning = bool(target.params.get("send_reasoning"))
    if target.path == "litellm":
        return Dialect(anthropic="claude" in target.model or target.model.startswith("anthropic/"), reasoning=reasoning)
    if urlsplit(target.api_base).hostname == "api.openai.com":
        return Dialect(top_k=False, max_tokens_field="max_completion_tokens", reasoning=reasoning)
    return Dialect(reasoning=reasoning)


def chat_body(target: Target, request: Request, dialect: Dialect) -> dict[str, Any]:
    """The body of the call, without ``stream``; for litellm its keyword arguments."""
    body: dict[str, Any] = {"model": target.model, "messages": _messages(request, dialect)}
    for field in ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "response_format"):
        value = getattr(request, field)
        if value is not None:
            body[field] = value
    if request.max_tokens is not None:
        body[dialect.max_tokens_field] = request.max_tokens
    if request.top_k is not None and dialect.top_k:
        body["top_k"] = request.top_k
    if request.stop_sequences:
        body["stop"] = request.stop_sequences
    if request.tools:
        body["tools"] = [_tool(tool, dialect) for tool in request.tools]
        body |= _tool_choice(request.tool_choice)
    if request.thinking:
        body |= _thinking(request.thinking, dialect)
    return body | {k: v for k, v in target.params.items() if k != "send_reasoning"}


def _messages(request: Request, dialect: Dialect) -> list[dict[str, Any]]:
    messages = []
    if request.system:
        messages.append({"role": "system", "content": _system(request.system, dialect)})
    for turn in request.messages:
        messages += _turn(turn, dialect)
    return messages


def _system(system: str | list[TextBlock], dialect: Dialect) -> str | list[dict[str, Any]]:
    if isinstance(system, str):
        return system
    if dialect.anthropic and any(block.cache_control for block in system):
        return [_part(block, dialect) for block in system]
    return "\n\n".join(block.text for block in system)


def _turn(turn: Turn, dialect: Dialect) -> list[dict[str, Any]]:
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    if turn.role == "assistant":
        return [_assistant(turn.content, dialect)]
    messages, parts = [], []
    for block in turn.content:
        if isinstance(block, ToolResultBlock):
            message, shown = _tool_result(block, dialect)
            messages.append(message)
            parts += shown
    parts += [_part(block, dialect) for block in turn.content if isinstance(block, (TextBlock, ImageBlock))]
    if parts or not messages:
        messages.append({"role": turn.role, "content": _content(parts)})
    return messages


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """One plain text as a string, which every upstream takes; otherwise the parts."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and set(parts[0]) == {"type", "text"} else parts


def _part(block: Block, dialect: Dialect) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        part: dict[str, Any] = {"type": "text", "text": block.text}
        if block.cache_control and dialect.anthropic:
            part["cache_control"] = block.cache_control
        return part
    assert isinstance(block, ImageBlock)
    return {"type": "image_url", "image_url": {"url": _image_url(block.source)}}


def _image_url(source: dict[str, Any]) -> str:
    if source.get("type") == "url":
        return str(source.get("url", ""))
    return f"data:{source.get('media_type', 'image/png')};base64,{source.get('data', '')}"


def _tool_result(block: ToolResultBlock, dialect: Dialect) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The tool message, and the parts that must be shown in a user message instead."""
    blocks = [TextBlock(block.content)] if isinstance(block.content, str) else block.content
    text = "\n".join(b.text for b in blocks if isinstance(b, TextBlock))
    text = f"Error: {text}" if block.is_error else text
    images = [_part(b, dialect) for b in blocks if isinstance(b, ImageBlock)]
    content: Any = text
    if images and dialect.anthropic:
        content, images = [*([{"type": "text", "text": text}] if text else []), *images], []
    elif images:
        content = text or "(shown below)"
        images = [{"type": "text", "text": f"Images returned by tool call {block.tool_use_id}:"}, *images]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}, images


def _assistant(blocks: list[Block], dialect: Dialect) -> dict[str, Any]:
    text = "".join(b.text if isinstance(b, TextBlock) else "[image]" for b in blocks if _is_shown(b))
    calls = [_call(b) for b in blocks if isinstance(b, ToolUseBlock)]
    thoughts = [b for b in blocks if isinstance(b, ThinkingBlock)]
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if calls:
        message["tool_calls"] = calls
    signed = [b for b in thoughts if b.signature]
    if dialect.anthropic and signed:
        message["thinking_blocks"] = [
            {"type": "thinking", "thinking": b.thinking, "signature": b.signature} for b in signed
        ]
    elif dialect.reasoning and thoughts:
        message["reasoning_content"] = "".join(b.thinking for b in thoughts)
    return message


def _is_shown(block: Block) -> bool:
    return isinstance(block, (TextBlock, ImageBlock))


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.input).decode()
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _tool(tool: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """Anthropic's form and OpenAI's flat one into OpenAI's nested one; a provider's own tools pass as they are."""
    schema = tool.get("input_schema", tool.get("parameters"))
    if "function" in tool or not isinstance(schema, dict):
        return tool
    function = {"name": tool.get("name"), "parameters": schema}
    function |= {key: tool[key] for key in ("description", "strict") if key in tool}
    made: dict[str, Any] = {"type": "function", "function": function}
    if dialect.anthropic and "cache_control" in tool:
        made["cache_control"] = tool["cache_control"]
    return made


def _tool_choice(choice: dict[str, Any] | str | None) -> dict[str, Any]:
    if choice is None:
        return {}
    kind = choice if isinstance(choice, str) else choice.get("type")
    if kind == "any":
        chosen: Any = "required"
    elif isinstance(choice, dict) and kind == "tool":
        chosen = {"type": "function", "function": {"name": choice.get("name")}}
    elif kind in ("auto", "none", "required"):
        chosen = kind
    else:
        chosen = choice
    body = {"tool_choice": chosen}
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use"):
        body["parallel_tool_calls"] = False
    return body


def _thinking(thinking: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """``{enabled|type, budget_tokens}``: as it is for Anthropic's models, else as an effort."""
    kind = thinking.get("type")
    enabled = thinking.get("enabled", kind in ("enabled", "adaptive") if kind else True)
    if not enabled:
        return {}
    budget = thinking.get("budget_tokens")
    if dialect.anthropic:
        asked = {"type": kind or "enabled"} | ({} if kind == "adaptive" else {"budget_tokens": budget or 4096})
        return {"thinking": asked}
    if not isinstance(budget, int):
        return {"reasoning_effort": "medium"}
    return {"reasoning_effort": "low" if budget < 2048 else "medium" if budget < 12_000 else "high"}
