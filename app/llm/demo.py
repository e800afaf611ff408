"""The built-in model `demo`: what answers where no language model is configured. It says so, plainly.

Deterministic: the same request gets the same text, at about thirty tokens a second.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import anyio

from app.llm.types import Delta, ImageBlock, Request, Stop, Text, TextBlock, Turn, Usage

TOKENS_PER_SECOND = 30.0
QUOTE_CHARACTERS = 160

_ANSWER = """\
**This is the built-in `demo` model. It is not a language model**: none is configured on this server yet, and \
everybody who asks gets this same text.

What you wrote:

> {quote}

What arrived: {inventory}.

The rest of the server is real. While these words appear you can

- **refresh the page**: the answer goes on without you and picks up where you left it,
- **open it twice**: both windows show the same words,
- **stop it**: nothing is written after that.

For real answers, name a model in a file and start with `reprise run --models models.toml`:

```toml
[models.default]
model = "openai/gpt-4o-mini"
api_key_env = "OPENAI_API_KEY"
```
"""


class DemoModel:
    """A `Model` that needs nothing. ``pace`` is tokens (words) a second, 0 for no waiting."""

    def __init__(self, name: str = "demo", pace: float = TOKENS_PER_SECOND) -> None:
        self.name = name
        self._pace = pace

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[list[Delta]]]:
        deltas = _deltas(request, self._pace)
        try:
            yield deltas
        finally:
            await deltas.aclose()


async def _deltas(request: Request, pace: float) -> AsyncGenerator[list[Delta], None]:
    text, stop = _limited(answer(request), request)
    tokens = re.findall(r"\s*\S+|\s+$", text)
    start = anyio.current_time()
    for i, token in enumerate(tokens):
        if pace and i:
            await anyio.sleep_until(start + i / pace)
        yield [Text(token)]
    asked = sum(len(_text(turn).split()) for turn in request.messages)
    yield [stop, Usage(input_tokens=asked, output_tokens=len(tokens))]


def _limited(text: str, request: Request) -> tuple[str, Stop]:
    stop = Stop("end_turn")
    for sequence in request.stop_sequences:
        at = text.find(sequence) if sequence else -1
        if at >= 0:
            text, stop = text[:at], Stop("stop_sequence", sequence)
    tokens = re.findall(r"\s*\S+|\s+$", text)
    if request.max_tokens is not None and len(tokens) > request.max_tokens:
        return "".join(tokens[: request.max_tokens]), Stop("max_tokens")
    return text, stop


def answer(request: Request) -> str:
    """The whole text the demo gives to this request."""
    asked = next((turn for turn in reversed(request.messages) if turn.role == "user"), None)
    words = " ".join(_text(asked).split()) if asked else ""
    quote = words if len(words) <= QUOTE_CHARACTERS else words[: QUOTE_CHARACTERS - 1] + "…"
    return _ANSWER.format(quote=quote or "(nothing in words)", inventory=_inventory(request, len(words.split())))


def _inventory(request: Request, words: int) -> str:
    images = sum(isinstance(b, ImageBlock) for t in request.messages if isinstance(t.content, list) for b in t.content)
    found = [_count(len(request.messages), "message"), _count(words, "word") + " in the last one of yours"]
    if request.system:
        found.append("a system prompt")
    if images:
        found.append(_count(images, "image"))
    if request.tools:
        found.append(_count(len(request.tools), "tool"))
    return ", ".join(found)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(turn: Turn) -> str:
    if isinstance(turn.content, str):
        return turn.content
    return " ".join(block.text for block in turn.content if isinstance(block, TextBlock))
