"""What the tests of the model paths share: asking a model, and comparing answers whatever their fragments were."""

from __future__ import annotations

from typing import Any

from app.llm.types import Delta, Model, Request, Stop, Text, Thinking, ToolArguments, ToolStart, Turn, Usage


def request(content: Any = "hi", **fields: Any) -> Request:
    return Request(messages=[Turn("user", content)], **fields)


async def answer(model: Model, asked: Request | None = None) -> list[Delta]:
    """Every delta of the answer."""
    found: list[Delta] = []
    async with model.stream(asked or request()) as batches:
        async for batch in batches:
            assert batch, "an empty batch"
            found += batch
    return found


def text_of(deltas: list[Delta]) -> str:
    return "".join(d.text for d in deltas if isinstance(d, Text))


def joined(deltas: list[Delta]) -> dict[str, Any]:
    """The answer without its fragments: neighbouring texts merged, each tool call whole."""
    found: dict[str, Any] = {"content": [], "tools": {}, "stop": [], "usage": None}
    for delta in deltas:
        match delta:
            case Text(piece) | Thinking(piece):
                kind = type(delta).__name__
                if found["content"] and found["content"][-1][0] == kind:
                    found["content"][-1][1] += piece
                else:
                    found["content"].append([kind, piece])
            case ToolStart(slot, call_id, name):
                assert slot not in found["tools"], "a call began twice"
                found["tools"][slot] = {"id": call_id, "name": name, "json": ""}
            case ToolArguments(slot, piece):
                found["tools"][slot]["json"] += piece
            case Stop(reason, sequence):
                found["stop"].append((reason, sequence))
            case Usage(given, made):
                found["usage"] = (given, made)
            case _:
                found["content"].append([type(delta).__name__, delta])
    return found
