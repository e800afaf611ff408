"""What a generation is asked for and what a model gives back: the vocabulary both model paths share.

Requests are in Anthropic's shapes, as PROTOCOL.md, Messages takes them. A model's answer is a sequence of *deltas*,
far smaller than any provider's chunks: the worker turns them into content-block events in one place
(`chat/events.py`), so that the direct path and litellm cannot differ in anything but the deltas they produce.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

import msgspec


class TextBlock(msgspec.Struct, tag="text", omit_defaults=True):
    text: str
    cache_control: dict[str, Any] | None = None


class ImageBlock(msgspec.Struct, tag="image"):
    """``source`` is ``{type: base64, media_type, data}`` or ``{type: url, url}``."""

    source: dict[str, Any]


class ToolUseBlock(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(msgspec.Struct, tag="tool_result", omit_defaults=True):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock] = ""
    is_error: bool = False


class ThinkingBlock(msgspec.Struct, tag="thinking", omit_defaults=True):
    thinking: str
    signature: str = ""


Block = TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock


class Turn(msgspec.Struct):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the model is asked. ``model`` is an alias or a ``provider/model`` name; the rest as in PROTOCOL.md."""

    model: str = "default"
    messages: list[Turn]
    system: str | list[TextBlock] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] = []
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: dict[str, Any] | str | None = None
    thinking: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class Text(msgspec.Struct, tag=True, gc=False):
    text: str


class Thinking(msgspec.Struct, tag=True, gc=False):
    text: str


class Signature(msgspec.Struct, tag=True, gc=False):
    """The provider's proof of the thinking block before it; sent back with it in a later turn."""

    signature: str


class ToolStart(msgspec.Struct, tag=True, gc=False):
    """A tool call begins. ``slot`` tells parallel calls apart within one answer."""

    slot: int
    id: str
    name: str


class ToolArguments(msgspec.Struct, tag=True, gc=False):
    """A fragment of the JSON text of the arguments of the call in ``slot``."""

    slot: int
    json: str


class Usage(msgspec.Struct, tag=True, gc=False, omit_defaults=True):
    """Tokens counted by the provider; a later one replaces an earlier one. ``cost_usd`` where it is known."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None = None


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]


class Stop(msgspec.Struct, tag=True, gc=False):
    """Why the model stopped. Usage may still follow."""

    reason: StopReason
    sequence: str | None = None


Delta = Text | Thinking | Signature | ToolStart | ToolArguments | Usage | Stop


class Model(Protocol):
    """One configured model, ready to be asked.

    ``stream`` opens the upstream call on entering and closes it, shielded and bounded, on leaving: whether the
    answer ended, the caller broke off, or the task was cancelled. Each item is the list of deltas that one read of
    the network brought. Raises `app.errors.UpstreamFailed`; retrying before the first delta is done inside.
    """

    name: str

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[list[Delta]]]: ...


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model name leads, resolved: what a door needs to make one call. The key never appears in its repr."""

    name: str
    """The name the caller used."""
    model: str
    """The upstream's own name; with its provider prefix for litellm, without it on the direct path."""
    path: Literal["direct", "litellm", "demo"]
    api_base: str = ""
    api_key: str = ""
    params: dict[str, Any] = {}
    """Merged into the upstream body last: what the operator wrote wins."""

    def __repr__(self) -> str:
        return f"Target({self.name!r} -> {self.model!r}, {self.path}, {self.api_base or 'default address'})"


class Call(Protocol):
    """One attempt at one upstream call. Errors are `app.errors.UpstreamFailed`, ``retryable`` if worth another try."""

    async def read(self) -> list[Delta] | None:
        """What the next read of the network brought (never an empty list); None when the answer is complete.

        The first read makes the call. An answer that ends without the provider having said why is an error.
        """

    async def aclose(self) -> None:
        """Close the upstream connection at once. Safe at any time and twice; the caller shields and bounds it."""


Door = Callable[[Target, Request], Call]
"""One of the two ways out: `openai_wire.door(http)` or `litellm_door.door()`. Makes a call, opens nothing yet."""
