"""What tests read from the wire: Server-Sent Events, strict and resuming like a browser, and the error shape."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import anyio
import httpx

TERMINAL = {"message_stop", "message_cancelled", "error"}


class Event(NamedTuple):
    """One frame. ``id`` is None for frames without one."""

    id: str | None
    type: str
    data: Any
    raw: bytes


def parse(frame: bytes) -> Event | None:
    """A frame without its blank line; None for comments and ``retry:`` alone."""
    fields: dict[str, str] = {}
    for line in frame.decode().split("\n"):
        name, _, value = line.partition(":")
        if name in ("id", "event", "data"):
            assert name not in fields, frame
            fields[name] = value.removeprefix(" ")
    if "data" not in fields:
        return None
    return Event(fields.get("id"), fields.get("event", "message"), json.loads(fields["data"]), frame + b"\n\n")


async def frames(response: httpx.Response) -> AsyncIterator[Event]:
    """The frames of an open response, as they come."""
    rest = b""
    async for chunk in response.aiter_raw():
        rest += chunk
        while b"\n\n" in rest:
            frame, rest = rest.split(b"\n\n", 1)
            if event := parse(frame):
                yield event
    assert rest == b"", f"the stream broke off within a frame: {rest!r}"


async def read_events(client: httpx.AsyncClient, url: str, after: int = 0, seconds: float = 60) -> list[Event]:
    """All events after a cursor up to the terminal one; reconnects with the cursor when the connection goes."""
    seen: list[Event] = []
    cursor = after
    with anyio.fail_after(seconds):
        while True:
            headers = {"Last-Event-ID": str(cursor)} if cursor else {}
            try:
                async with client.stream("GET", url, headers=headers) as response:
                    if response.status_code == 204:
                        return seen
                    assert response.status_code == 200, (await response.aread()).decode()
                    async for event in frames(response):
                        seen.append(event)
                        if event.id is not None:
                            cursor = int(event.id)
                        if event.type in TERMINAL:
                            return seen
            except httpx.TransportError:
                pass
            await anyio.sleep(0.05)


def text_of(events: list[Event]) -> str:
    """The text deltas of the last attempt."""
    parts: list[str] = []
    for event in events:
        if event.type == "message_restart":
            parts.clear()
        elif event.type == "content_block_delta" and event.data["delta"]["type"] == "text_delta":
            parts.append(event.data["delta"]["text"])
    return "".join(parts)


def assert_dense(events: list[Event], first: int = 1) -> None:
    """Numbers rise by one within an attempt, a restart begins the next million; one terminal event, the last."""
    expected = first
    for event in events:
        if event.type == "message_restart":
            expected = (expected // 1_000_000 + 1) * 1_000_000 + 1
        assert event.data["seq"] == int(event.id or -1) == expected, (event, expected)
        expected += 1
    assert [e.type for e in events if e.type in TERMINAL] == [events[-1].type]


def error_of(answer: httpx.Response, status: int, code: str) -> dict:
    """The one error shape, checked."""
    body = answer.json()
    assert answer.status_code == status, body
    assert body["code"] == body["error"]["code"] == code
    assert body["detail"] == body["error"]["message"]
    assert body["status"] == "error"
    assert body["timestamp"].endswith("Z")
    assert answer.headers["content-type"] == "application/json"
    return body
