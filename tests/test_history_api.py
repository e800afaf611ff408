"""`/api/chat-history` over real HTTP: brought, searched, injected, listed, deleted; bounds and users."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from app.database import Database, open_pool
from app.history import tokens, uploads
from app.memory.embedding import open_embedder
from app.memory.index import embed_missing
from app.memory.settling import settle_all
from app.web import history_bodies as bodies
from app.workers.ingest import Ingest
from app.workers.upkeep import Signal
from tests.live import Live
from tests.memory_client import fields, key_for, listed, memory_web
from tests.rig import until
from tests.sse import error_of

API = "/api/chat-history"
INGEST = f"{API}/ingest/custom-online"
SCOPES = ("history:read", "history:write")


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("thistory", redis_url, database_url, tmp_path_factory) as running:
        yield running


@pytest.fixture
async def client(web: Live) -> AsyncIterator[httpx.AsyncClient]:
    async with web.client(await key_for(web, f"u{secrets.token_hex(4)}", *SCOPES)) as made:
        yield made


@pytest.fixture
async def stored(web: Live) -> AsyncIterator[Database]:
    async with open_pool(web.settings) as database:
        yield database


async def store(database: Database) -> None:
    """What a background process does."""
    worker = Ingest(database, stored=Signal(), embeds=True)
    while (upload := await uploads.claim(database)) is not None:
        await worker.store(upload)


def conversation(name: str = "conv-abc-123", *contents: str, **more: Any) -> dict[str, Any]:
    said = contents or ("How should we structure the API?", "A RESTful one with versions in the path.")
    messages = [
        {
            "id": f"msg-{n}",
            "role": "human" if n % 2 else "assistant",
            "content": content,
            "createdAt": f"2026-04-27T10:{n:02}:00Z",
        }
        for n, content in enumerate(said, 1)
    ]
    times = {"createdAt": "2026-04-27T10:00:00Z", "updatedAt": "2026-04-27T11:30:00Z"}
    return {"id": name, "title": "Discussion about architecture", **times, "messages": messages, **more}


async def bring(client: httpx.AsyncClient, one: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await client.post(INGEST, json={"conversation": one, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def ask(client: httpx.AsyncClient, query: str, **more: Any) -> dict[str, Any]:
    answer = await client.post(f"{API}/search", json={"query": query, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_conversation_is_queued_at_once_and_then_found(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL H1, H5."""
    body = {"platform": "my-slack-bot", "platformDisplayName": "My Slack Bot"}
    queued = await bring(client, conversation(), **body)
    shown = queued.pop("conversation")
    assert queued == {
        "queued": True,
        "importId": queued["importId"],
        "conversationId": shown["id"],
        "platform": "my-slack-bot",
    }
    assert queued["importId"].startswith("imp_")
    assert shown == {
        "id": shown["id"],
        "platformConversationId": "conv-abc-123",
        "title": "Discussion about architecture",
        "updatedAt": "2026-04-27T11:30:00.000Z",
        "messageCount": 2,
        "status": "queued",
    }
    where = {"conversationId": shown["id"]}
    assert (await client.get(f"{API}/conversation", params=where)).json()["status"] == "queued"
    await store(stored)
    whole = (await client.get(f"{API}/conversation", params=where)).json()
    assert (whole["status"], whole["messageCount"], whole["platformDisplayName"]) == ("processing", 2, "My Slack Bot")
    assert [(one["messageId"], one["sender"]) for one in whole["messages"]] == [
        ("msg-1", "human"),
        ("msg-2", "assistant"),
    ]
    found = await ask(client, "RESTful versions", contextChunks=2)
    assert found["totalResults"] == len(found["results"]) >= 1
    assert (found["query"], found["provider"]) == ("RESTful versions", None)
    assert found["processingTime"] > 0
    first = found["results"][0]
    assert first["score"] > 0
    assert first == {
        "conversationId": shown["id"],
        "messageId": "msg-2",
        "title": "Discussion about architecture",
        "provider": "my-slack-bot",
        "text": "A RESTful one with versions in the path.",
        "score": first["score"],
        "timestamp": "2026-04-27T10:02:00.000Z",
        "sender": "assistant",
        "context": [
            {
                "messageId": "msg-1",
                "text": "How should we structure the API?",
                "sender": "human",
                "timestamp": "2026-04-27T10:01:00.000Z",
            }
        ],
    }
    assert (await ask(client, "RESTful", provider="other"))["results"] == []
    assert (await ask(client, "RESTful", provider="my-slack-bot"))["results"][0]["messageId"] == "msg-2"


async def test_memories_are_drawn_where_the_user_wants_them(web: Live, stored: Database) -> None:
    """PROTOCOL H10."""
    scopes = (*SCOPES, "memories:read", "profile:write")
    async with web.client(await key_for(web, f"u{secrets.token_hex(4)}", *scopes)) as client:

        async def say(name: str, text: str, **params: str) -> set[str]:
            """The memories there are when this was brought."""
            said = {"id": "m", "role": "human", "content": text}
            body = {"conversation": {"id": name, "messages": [said]}}
            assert (await client.post(INGEST, json=body, params=params)).status_code == 200
            await store(stored)
            return set(await listed(client))

        assert await say("a", "I live in Lyon.") == set()
        assert await say("b", "I own a boat.", memories="true") == {"I own a boat."}
        await client.patch("/v1/users/profile/privacy", json={"memories_from_history": True})
        assert await say("c", "I like tea.") == {"I own a boat.", "I like tea."}
        assert await say("d", "I like coffee.", memories="false") == {"I own a boat.", "I like tea."}
        wrong = await client.post(INGEST, json={"conversation": conversation()}, params={"memories": "some"})
        assert fields(wrong) == ["memories"]


async def test_a_conversation_is_indexed_with_the_last_of_its_vectors(
    web: Live, client: httpx.AsyncClient, stored: Database
) -> None:
    """PROTOCOL H2."""
    queued = await bring(client, conversation())
    await store(stored)
    embedder = await open_embedder(web.settings)
    assert embedder is not None

    async def status() -> str:
        params = {"conversationId": queued["conversationId"]}
        return str((await client.get(f"{API}/conversation", params=params)).json()["status"])

    assert await status() == "processing"
    await settle_all(stored)
    assert await status() == "processing"
    while await embed_missing(stored, embedder, 4):
        pass
    assert await status() == "indexed"
    assert "vector" in (await ask(client, "versions"))["legs"]


async def test_sent_again_with_more_with_an_edit_and_older(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL H3."""
    first = conversation("c", "What is the plan?", "Ship on Friday.")
    more = conversation("c", "What is the plan?", "Ship on Friday.", "Who tests?", updatedAt="2026-04-27T12:00:00Z")
    edited = conversation("c", "What is the plan?", "Ship on Monday.", updatedAt="2026-04-27T13:00:00Z")
    older = conversation("c", "Nothing.", "Nothing at all.", title="Old", updatedAt="2026-04-27T09:00:00Z")
    expected = [
        (2, {"plan": ["msg-1"], "Friday": ["msg-2"], "Monday": [], "tests": []}),
        (3, {"Friday": ["msg-2"], "tests": ["msg-3"]}),
        (3, {"Friday": [], "Monday": ["msg-2"], "tests": ["msg-3"]}),
        (3, {"Nothing": [], "Monday": ["msg-2"], "plan": ["msg-1"]}),
    ]
    for snapshot, (count, words) in zip((first, more, edited, older), expected, strict=True):
        queued = await bring(client, snapshot)
        await store(stored)
        whole = (await client.get(f"{API}/conversation", params={"conversationId": queued["conversationId"]})).json()
        assert (whole["messageCount"], whole["title"]) == (count, "Discussion about architecture")
        for word, messages in words.items():
            found = [one["messageId"] for one in (await ask(client, word))["results"][:1]]
            assert found == messages, (word, found)
    units = await stored.fetchval(
        "SELECT count(*) FROM units u JOIN turns t ON t.id = u.turn WHERE t.conversation = $1", queued["conversationId"]
    )
    assert units == 3


async def test_too_many_tokens_are_rejected_with_the_reason(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL H4."""
    queued = await bring(client, conversation("long", " hello" * 100_001))
    await store(stored)
    listed = (await client.get(f"{API}/chats")).json()["chats"]
    assert [(one["id"], one["status"]) for one in listed] == [(queued["conversationId"], "rejected")]
    assert "100,000 tokens" in listed[0]["reason"]
    assert (await ask(client, "hello"))["results"] == []


async def test_a_body_beyond_the_limit_is_refused_and_one_below_is_taken(client: httpx.AsyncClient) -> None:
    """PROTOCOL H4."""
    sent = 0

    def too_much() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(60):
            sent += 1
            yield b" " * 1_000_000

    async def stream() -> AsyncIterator[bytes]:
        for piece in too_much():
            yield piece

    answer = await client.post(INGEST, content=stream(), headers={"Content-Type": "application/json"})
    assert error_of(answer, 413, "PAYLOAD_TOO_LARGE")["error"]["details"] == {"max_bytes": 52_428_800}
    content = "x" * 49_000_000
    body = json.dumps({"conversation": conversation("big", content)}).encode()
    answer = await client.post(INGEST, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["conversation"]),
        ({"conversation": {"id": "c"}}, ["conversation.messages"]),
        ({"conversation": {"id": "", "messages": []}}, ["conversation.id"]),
        ({"conversation": [1]}, ["conversation"]),
        ({"conversation": conversation(), "platform": "a b"}, ["platform"]),
        ({"conversation": conversation(), "platform": "x" * 101}, ["platform"]),
        ({"conversation": conversation(), "platformDisplayName": "x" * 201}, ["platformDisplayName"]),
        ({"conversation": conversation(updatedAt="soon")}, ["conversation.updatedAt"]),
        (
            {
                "conversation": {
                    "id": "c",
                    "messages": [
                        {"id": "1", "role": "human", "content": "a"},
                        {"id": "2", "role": "robot", "content": 7},
                        {"id": "1", "role": "human", "content": "b"},
                        {"role": "human"},
                    ],
                }
            },
            [
                "conversation.messages[1].role",
                "conversation.messages[1].content",
                "conversation.messages[2].id",
                "conversation.messages[3].id",
                "conversation.messages[3].content",
            ],
        ),
    ],
)
async def test_what_is_wrong_with_a_conversation_is_named(
    client: httpx.AsyncClient, body: dict[str, Any], wrong: list[str]
) -> None:
    """PROTOCOL C5."""
    assert fields(await client.post(INGEST, json=body)) == wrong
    assert (await client.get(f"{API}/count")).json() == {"count": 0, "byPlatform": {}}


async def test_what_is_no_json_is_refused(client: httpx.AsyncClient) -> None:
    for content in (b"", b"{", b'{"conversation": {"id": "c", "messages": [}}', b"\xff\xfe"):
        answer = await client.post(INGEST, content=content, headers={"Content-Type": "application/json"})
        error_of(answer, 400, "BAD_REQUEST")
    answer = await client.post(INGEST, content=b"<x/>", headers={"Content-Type": "text/xml"})
    error_of(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


async def test_an_injection_fits_its_budget_and_cites_its_sources(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL H6."""
    await bring(client, conversation("c", *(f"The river walk number {n} was lovely." for n in range(20))))
    await store(stored)
    for most in (1, 40, 200):
        answer = await client.post(f"{API}/inject", json={"queries": ["river", "walk"], "maxTokens": most})
        made = answer.json()
        assert answer.status_code == 200, answer.text
        assert made["tokenCount"] == tokens.count(made["content"]) <= most
        assert all(f"[{n}]" in made["content"] for n in range(1, len(made["sources"]) + 1))
    assert len(made["sources"]) > 3
    assert set(made["sources"][0]) == {"conversationId", "conversationTitle", "messageId", "date", "relevanceScore"}
    history = [{"role": "user", "content": "Tell me of the river walk."}]
    answer = await client.post(f"{API}/inject", json={"conversationHistory": history})
    assert answer.json()["sources"]
    assert fields(await client.post(f"{API}/inject", json={})) == ["query"]
    assert fields(await client.post(f"{API}/inject", json={"query": "x", "maxTokens": 2_001})) == ["maxTokens"]


async def test_conversations_are_listed_in_pages_narrowed_counted_and_deleted(
    client: httpx.AsyncClient, stored: Database
) -> None:
    """PROTOCOL H7, H8."""
    names = [f"c{n}" for n in range(5)]
    for n, name in enumerate(names):
        made = conversation(name, "Porto is nice", title=f"Title 10%_{n}", updatedAt=f"2026-04-2{n}T00:00:00Z")
        queued = await bring(client, made, platform="even" if n % 2 == 0 else "odd")
    await store(stored)

    async def listed(**params: Any) -> list[str]:
        answer = await client.get(f"{API}/chats", params=params)
        assert answer.status_code == 200, answer.text
        return [one["platformConversationId"] for one in answer.json()["chats"]]

    assert await listed() == names[::-1]
    assert await listed(page=2, pageSize=2) == ["c2", "c1"]
    assert await listed(provider="odd") == ["c3", "c1"]
    assert await listed(title="10%_3") == ["c3"]
    assert await listed(dateFrom="2026-04-21T00:00:00Z", dateTo="2026-04-22T00:00:00Z") == ["c2", "c1"]
    assert await listed(importId=queued["importId"]) == ["c4", "c2", "c0"]
    assert await listed(importId="imp_none") == []
    page = (await client.get(f"{API}/chats", params={"pageSize": 2})).json()
    assert {key: page[key] for key in page if key != "chats"} == {"page": 1, "pageSize": 2, "total": 5, "totalPages": 3}
    wrong = {"pageSize": 0, "dateFrom": "soon"}
    assert fields(await client.get(f"{API}/chats", params=wrong)) == list(wrong)
    assert (await client.get(f"{API}/count")).json() == {"count": 5, "byPlatform": {"even": 3, "odd": 2}}
    gone = {"ids": [queued["conversationId"], "conv_none"]}
    answer = await client.request("DELETE", f"{API}/chats", json=gone)
    assert answer.json() == {"deleted": 1, "ids": [queued["conversationId"]], "notFound": ["conv_none"]}
    params = {"conversationId": queued["conversationId"]}
    error_of(await client.get(f"{API}/conversation", params=params), 404, "CONVERSATION_NOT_FOUND")
    assert "c4" not in await listed()
    assert all(one["conversationId"] != queued["conversationId"] for one in (await ask(client, "Porto"))["results"])


async def test_nobody_reaches_what_another_user_brought(web: Live, stored: Database) -> None:
    """PROTOCOL C2, H9."""
    ada, bob = f"a{secrets.token_hex(3)}", f"b{secrets.token_hex(3)}"
    async with (
        web.client(await key_for(web, ada, *SCOPES)) as hers,
        web.client(await key_for(web, bob, *SCOPES)) as his,
        web.client(await key_for(web, ada, "history:read")) as reader,
        web.client(await key_for(web, None, *SCOPES)) as unbound,
    ):
        queued = await bring(hers, conversation("same", "My secret is the river."))
        await bring(his, conversation("same", "Mine is the hill."))
        await store(stored)
        assert [one["text"] for one in (await ask(his, "secret river"))["results"]] == []
        params = {"conversationId": queued["conversationId"]}
        error_of(await his.get(f"{API}/conversation", params=params), 404, "CONVERSATION_NOT_FOUND")
        answer = await his.request("DELETE", f"{API}/chats", json={"ids": [queued["conversationId"]]})
        assert answer.json()["deleted"] == 0
        error_of(await his.get(f"{API}/count", params={"user_id": ada}), 403, "FORBIDDEN")
        error_of(await reader.post(INGEST, json={"conversation": conversation()}), 403, "FORBIDDEN")
        found = await ask(unbound, "secret river", user_id=ada)
        assert found["results"][0]["text"] == "My secret is the river."
        assert (await ask(unbound, "secret river"))["results"] == []  # the user `default`


async def test_a_worker_hears_of_what_was_brought(web: Live, client: httpx.AsyncClient, stored: Database) -> None:
    worker = Ingest(stored, stored=Signal(), embeds=False)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.run)
        queued = await bring(client, conversation())
        worker.arrived.set()

        async def done() -> bool:
            params = {"conversationId": queued["conversationId"]}
            return bool((await client.get(f"{API}/conversation", params=params)).json()["status"] == "indexed")

        await until(done)
        group.cancel_scope.cancel()


async def test_answers_are_what_the_document_says(client: httpx.AsyncClient, stored: Database) -> None:
    sent = await client.post(INGEST, json={"conversation": conversation()})
    await store(stored)
    name = sent.json()["conversationId"]
    cases: list[tuple[Any, httpx.Response]] = [
        (bodies.QueuedAnswer, sent),
        (bodies.FoundHistory, await client.post(f"{API}/search", json={"query": "API"})),
        (bodies.Injected, await client.post(f"{API}/inject", json={"query": "API"})),
        (bodies.ChatPage, await client.get(f"{API}/chats")),
        (bodies.WholeChat, await client.get(f"{API}/conversation", params={"conversationId": name})),
        (bodies.Count, await client.get(f"{API}/count")),
        (bodies.DeletedChats, await client.request("DELETE", f"{API}/chats", json={"ids": [name]})),
    ]
    for shape, answer in cases:
        assert msgspec.to_builtins(msgspec.convert(answer.json(), shape)) == answer.json()  # no field more, none less
    paths = (await client.get("/openapi.json")).json()["paths"]
    documented = {
        operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for path, methods in paths.items()
        if path.startswith(API)
        for operation in methods.values()
    }
    assert documented == {shape.__name__ for shape, _ in cases}
