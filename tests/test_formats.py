"""The formats of a stream: golden files hold the exact bytes, HTTP shows resuming, aborting and ending.

After a change that is meant, write the golden files anew with ``python -m tests.test_formats`` and read the difference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from app.chat.events import Draft, Entry, frame, gap_frame
from app.chat.message import Message, from_hash
from app.chat.observer import Gap
from app.settings import Settings
from app.web.formats import OpenAI, PlainText
from tests.rig import until
from tests.stage import Author, Stage, body, finished, stage

GOLDEN = Path(__file__).parent / "golden"

_TOOL = b'{"type":"tool_use","id":"toolu_1","name":"look_up","input":{}}'
_TEXT = b'{"type":"text","text":""}'
_START = b'{"message":{"id":"msg_golden","type":"message","role":"assistant","model":"gpt-x","content":[]}}'
_ERROR = (
    b'{"error":{"type":"overloaded_error","message":"busy","detail":{"code":"OVERLOADED","explanation":"The model is'
    b' busy."}},"request_id":"req-1"}'
)


def end(reason: bytes) -> list[Draft]:
    return [
        (
            b"d",
            b'{"delta":{"stop_reason":"%b","stop_sequence":null},"usage":{"input_tokens":7,"output_tokens":5}}'
            % reason,
        ),
        (b"z", b""),
    ]


def numbered(drafts: list[Draft], start: int = 0) -> list[Entry]:
    return [Entry(start + n, field, value) for n, (field, value) in enumerate(drafts, 1)]


SCRIPTS: dict[str, list[Entry]] = {
    "text": numbered(
        [
            (b"s", _START),
            (b"b0", _TEXT),
            (b"t0", b"Hello"),
            (b"t0", ' "wörld"\n'.encode()),
            (b"e0", b""),
            *end(b"end_turn"),
        ]
    ),
    "tools": numbered(
        [
            (b"y", b'{"memories":[{"id":"mem_1","memory":"likes tea"}]}'),
            (b"s", _START),
            (b"b0", b'{"type":"thinking","thinking":"","signature":""}'),
            (b"h0", b"Let me see."),
            (b"g0", b"c2ln"),
            (b"e0", b""),
            (b"b1", _TEXT),
            (b"t1", b"One moment."),
            (b"e1", b""),
            (b"b2", _TOOL),
            (b"b3", _TOOL.replace(b"toolu_1", b"toolu_2")),
            (b"j2", b'{"q":'),
            (b"j3", b"{}"),
            (b"j2", b'"tea"}'),
            (b"e2", b""),
            (b"e3", b""),
            *end(b"tool_use"),
        ]
    ),
    "restart": [
        *numbered([(b"s", _START), (b"b0", _TEXT), (b"t0", b"Hel")]),
        *numbered(
            [
                (b"r", b'{"attempt":2,"reason":"worker_lost"}'),
                (b"s", _START),
                (b"b0", _TEXT),
                (b"t0", b"Hello"),
                (b"e0", b""),
                *end(b"max_tokens"),
            ],
            1_000_000,
        ),
    ],
    "cancelled": numbered([(b"s", _START), (b"b0", _TEXT), (b"t0", b"Hel"), (b"c", b'{"reason":"user"}')]),
    "error": numbered([(b"s", _START), (b"x", _ERROR)]),
}


def message() -> Message:
    fields = {b"s": b"completed", b"c": b"1700000000123", b"mo": b"default"}
    return from_hash("acc/msg_golden", fields)


def rendered(name: str, form: str) -> bytes:
    if form == "anthropic":
        return gap_frame(99, 1, 5) + b"".join(frame(entry) for entry in SCRIPTS[name])
    translator = OpenAI(message())
    return translator.gap(Gap(99, 1, 5)) + b"".join(translator.event(entry) for entry in SCRIPTS[name])


@pytest.mark.parametrize("form", ["anthropic", "openai"])
@pytest.mark.parametrize("name", list(SCRIPTS))
def test_golden(name: str, form: str) -> None:
    """PROTOCOL F3, F4."""
    assert rendered(name, form) == (GOLDEN / f"{name}.{form}.sse").read_bytes()


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_openai_ids_stand_on_the_last_frame_of_their_event(name: str) -> None:
    """PROTOCOL F2."""
    translator = OpenAI(message())
    for entry in SCRIPTS[name]:
        frames = translator.event(entry).split(b"\n\n")[:-1]
        ids = [part for part in frames if part.startswith(b"id: ")]
        assert ids == ([frames[-1]] if frames else [])
        assert not ids or ids[0].startswith(b"id: %d\n" % entry.seq)


def test_plain_text_cannot_say_restart_gap_error_or_cancel() -> None:
    """PROTOCOL F5."""
    text = PlainText(0)
    said = [text.event(entry) for entry in SCRIPTS["text"]]
    assert b"".join(part or b"" for part in said) == 'Hello "wörld"\n'.encode()
    assert None not in said
    for name in ("restart", "cancelled", "error"):
        assert None in [text.event(entry) for entry in SCRIPTS[name]]
    assert PlainText(1_000_000).event(SCRIPTS["restart"][3]) == b""
    assert PlainText(0).gap(Gap(1, 1, 1)) is None


@pytest.fixture
async def web(settings: Settings) -> AsyncIterator[Stage]:
    async with stage(settings) as running:
        yield running


async def written(web: Stage, name: str) -> Author:
    """A message with a script's events in its log, ended as the script ends."""
    author = await Author.create(web.lifecycle)
    await author.claim()
    entries = SCRIPTS[name]
    first = [(entry.field, entry.value) for entry in entries if entry.seq < 1_000_000]
    rest = [(entry.field, entry.value) for entry in entries if entry.seq > 1_000_001]
    if rest:
        await author.append(first)
        await author.lose_worker()
        await author.claim()
    ending = rest or first
    if name == "cancelled":
        await author.append(ending[:-1])
        await web.lifecycle.cancel("acc", author.id)
        author.seq += 1
    else:
        await author.append(ending[:-1])
        await author.finish(ending[-1:], "error" if name == "error" else "completed")
    return author


@pytest.mark.parametrize("name", list(SCRIPTS))
async def test_openai_resumes_exactly_at_every_id(web: Stage, name: str) -> None:
    """PROTOCOL F2."""
    author = await written(web, name)
    path = f"{author.path}?format=openai"
    whole = body(await web.get(path))
    assert whole.endswith(b"data: [DONE]\n\n")
    seen = b""
    frames = [part + b"\n\n" for part in whole.split(b"\n\n")[:-1]]
    for part in frames[:-1]:
        seen += part
        if part.startswith(b"id: "):
            cursor = part.split(b"\n")[0].removeprefix(b"id: ").decode()
            assert seen + body(await web.get(path, last_event_id=cursor)) == whole
    last = frames[-1].split(b"\n")[0].removeprefix(b"id: ").decode()
    assert (await web.get(path, last_event_id=last)).status_code == 204


async def test_openai_gap_then_the_whole_log(web: Stage) -> None:
    author = await written(web, "tools")
    path = f"{author.path}?format=openai"
    whole = body(await web.get(path))
    assert body(await web.get(f"{path}&after=700")) == gap_frame(700, 1, author.seq) + whole


@pytest.mark.parametrize("cursor", [5, 900])
async def test_openai_message_that_ends_at_or_below_the_cursor(web: Stage, cursor: int) -> None:
    author = await Author.create(web.lifecycle)
    await author.start()
    got: list[bytes] = []

    async def follow() -> None:
        got.append(body(await web.get(f"{author.path}?format=openai&after={cursor}")))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await until(lambda: web.observers == 1)
        await author.finish([(b"b0", _TEXT), (b"t0", b"x"), *end(b"end_turn")])
    assert author.seq == 5
    assert got[0] == gap_frame(cursor, 1, 5) + body(await web.get(f"{author.path}?format=openai"))


async def test_openai_live_equals_replayed(web: Stage) -> None:
    author = await Author.create(web.lifecycle)
    got: list[bytes] = []

    async def follow() -> None:
        got.append(body(await web.get(f"{author.path}?format=openai")))

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await until(lambda: web.observers == 1)
        await author.start()
        for word in ["a", "b", "c", "d"]:
            await author.say(word)
        await author.finish()
    assert got[0] == body(await web.get(f"{author.path}?format=openai"))
    chunks = [msgspec.json.decode(part.split(b"data: ", 1)[1]) for part in got[0].split(b"\n\n")[:-2]]
    assert {chunk["id"] for chunk in chunks} == {author.id}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "abcd"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == chunks[-1]["usage"]["prompt_tokens"] + 4


async def test_text_is_the_text(web: Stage) -> None:
    """PROTOCOL F5."""
    author = await finished(web.lifecycle, 700)
    response = await web.get(f"{author.path}?format=text")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "".join(f"word{n} " for n in range(700))
    assert (await web.get(f"{author.path}?format=text&after=4")).text.startswith("word2 ")


async def test_text_of_a_restarted_message_is_its_last_attempt(web: Stage) -> None:
    """PROTOCOL F5."""
    author = await written(web, "restart")
    assert (await web.get(f"{author.path}?format=text")).text == "Hello"


@pytest.mark.parametrize("name", ["cancelled", "error"])
async def test_text_that_cannot_be_completed_is_cut(web: Stage, name: str) -> None:
    """PROTOCOL F5."""
    author = await written(web, name)
    with pytest.raises(httpx.RemoteProtocolError):
        await web.get(f"{author.path}?format=text")
    assert web.observers == 0


async def test_text_is_cut_by_gap_and_by_live_restart_and_drain(web: Stage) -> None:
    """PROTOCOL F5."""
    author = await finished(web.lifecycle)
    with pytest.raises(httpx.RemoteProtocolError):
        await web.get(f"{author.path}?format=text&after=999")
    author = await Author.create(web.lifecycle)
    await author.start()
    cut: list[str] = []

    async def follow() -> None:
        try:
            await web.get(f"{author.path}?format=text")
        except httpx.RemoteProtocolError:
            cut.append("cut")

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await until(lambda: web.observers == 1)
        await author.lose_worker()
        await until(lambda: len(cut) == 1)
        group.start_soon(follow)
        await until(lambda: web.observers == 1)
        web.drain()
    assert len(cut) == 2


if __name__ == "__main__":
    for name in SCRIPTS:
        for form in ("anthropic", "openai"):
            (GOLDEN / f"{name}.{form}.sse").write_bytes(rendered(name, form))
