"""Asking a model for a text of bounded length: what extraction and bios read."""

from __future__ import annotations

from app.llm.types import Model, Request, Stop, Text


async def ask(model: Model, request: Request, most: int) -> tuple[str, str] | None:
    """The answer's text and why it stopped; None for one of more than ``most`` characters. Raises UpstreamFailed."""
    parts, size, stop = [], 0, ""
    async with model.stream(request) as batches:
        async for batch in batches:
            for delta in batch:
                if isinstance(delta, Text):
                    parts.append(delta.text)
                    size += len(delta.text)
                elif isinstance(delta, Stop):
                    stop = delta.reason
            if size > most:
                return None
    return "".join(parts), stop
