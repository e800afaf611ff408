"""What a generate process does with what it recalls, and with a memory store that fails in any way."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from app.chat.message import Message, from_hash
from app.database import migrate
from app.errors import RecallFailed, Unavailable
from app.llm.types import Request, TextBlock, Turn
from app.memory.search import Search
from app.memory.types import Found, Hit, Owner, StoredTurn
from app.memory.types import Turn as MemoryTurn
from app.settings import Settings
from app.workers import recalling
from app.workers.recalling import Recaller
from tests.memory_rig import at
from tests.rig import until

ASKED = Request(messages=[Turn("user", "What do I drink?")])


def message() -> Message:
    return from_hash("acc/m", {b"me": b"y8", b"us": b"ada"})


def hit() -> Hit:
    turn = MemoryTurn(key="k", role="user", text="I drink tea.", said_at=at(0))
    return Hit(kind="turn", turn=StoredTurn(id=7, turn=turn, new=False), text=turn.text, score=1.0)


def recaller(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Recaller:
    """A recaller whose store answers so."""
    made = Recaller(Settings())
    made._loading = False

    async def hits(*_: Any) -> list[Hit]:
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await anyio.sleep_forever()
        return list(answer)

    monkeypatch.setattr(made, "_hits", hits)
    return made


async def test_what_is_recalled_is_quoted_behind_the_requests_own_system_prompt(monkeypatch: pytest.MonkeyPatch):
    made = recaller(monkeypatch, [hit()])
    plain, value = await made.recall(message(), ASKED)
    assert msgspec.json.decode(value) == {"memories": [{"id": "turn_7", "memory": "I drink tea."}]}
    assert isinstance(plain.system, str) and "I drink tea." in plain.system
    own, _ = await made.recall(message(), msgspec.structs.replace(ASKED, system="Be brief."))
    assert own.system == f"Be brief.\n\n{plain.system}"
    blocks, _ = await made.recall(message(), msgspec.structs.replace(ASKED, system=[TextBlock("Be brief.")]))
    assert blocks.system == [TextBlock("Be brief."), TextBlock(plain.system)]
    assert plain.messages == own.messages == ASKED.messages


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "recalling took longer than 50 ms"),
        (RecallFailed("no index"), "no index"),
        (ValueError("a bug"), "recalling failed: ValueError"),
        ([], None),
    ],
)
async def test_whatever_fails_the_request_goes_on_as_it_was(monkeypatch: pytest.MonkeyPatch, answer: Any, said: str):
    """PROTOCOL M7."""
    request, value = await recaller(monkeypatch, answer).recall(message(), ASKED)
    assert request is ASKED
    assert msgspec.json.decode(value) == {"memories": []} | ({"error": said} if said else {})


async def test_while_vectors_are_loading_it_says_that_words_alone_were_searched(monkeypatch: pytest.MonkeyPatch):
    """PROTOCOL M7."""
    made = recaller(monkeypatch, [hit()])
    made._loading = True
    plain, value = await made.recall(message(), ASKED)
    said = {"memories": [{"id": "turn_7", "memory": "I drink tea."}], "error": recalling.LOADING}
    assert msgspec.json.decode(value) == said
    assert isinstance(plain.system, str) and "I drink tea." in plain.system


async def test_before_the_store_is_open_it_says_so(monkeypatch: pytest.MonkeyPatch):
    request, value = await Recaller(Settings()).recall(message(), ASKED)
    assert (request, msgspec.json.decode(value)["error"]) == (ASKED, "the memory store is not open yet")
    assert recalling.RECALL_S <= 0.05


async def test_a_search_for_nobody_comes_before_the_first_message_and_again_whatever_happens(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    await migrate(settings)
    monkeypatch.setattr(recalling, "WARM_S", 0.01)
    monkeypatch.setattr(recalling, "QUIET_S", 0.0)
    made, search, searched = Recaller(settings), Search.search, 0

    async def counted(self: Search, owner: Owner, query: str, **more: Any) -> Found:
        nonlocal searched
        assert owner == recalling.NOBODY
        searched += 1
        if searched == 2:
            raise Unavailable("restarting")
        if searched == 3:
            raise ValueError("a bug")
        return await search(self, owner, query, **more)

    monkeypatch.setattr(Search, "search", counted)
    async with anyio.create_task_group() as tg:
        tg.start_soon(made.run, lambda: False)
        await until(lambda: searched >= 5)
        tg.cancel_scope.cancel()
    _, value = await made.recall(message(), ASKED)
    assert b"not open yet" not in value


async def test_words_are_searched_until_a_quiet_moment_brings_vectors(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
):
    opened = anyio.Event()
    searched: list[bool] = []

    async def embedder(_: Any, __: Any) -> str:
        opened.set()
        return "an embedder"

    class Noting:
        def __init__(self, _: Any, given: str | None) -> None:
            searched.append(given is not None)

        async def search(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(recalling, "open_matching", embedder)
    monkeypatch.setattr(recalling, "Search", Noting)
    monkeypatch.setattr(recalling, "QUIET_S", 0.2)
    looks = 0

    def busy() -> bool:
        nonlocal looks
        looks += 1
        return looks < 8

    async with anyio.create_task_group() as tg:
        tg.start_soon(Recaller(settings).run, busy)
        with anyio.fail_after(5):
            await opened.wait()
            await until(lambda: len(searched) == 2)
        tg.cancel_scope.cancel()
    assert searched == [False, True]
    assert looks >= 10
