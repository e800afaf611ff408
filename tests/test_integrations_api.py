"""`/integrations` over real HTTP: begun in every way, received in bounded memory, read, cancelled, retried, deleted."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from app.database import Database, open_pool
from app.errors import ClaimLost
from app.integrations import job
from app.integrations.integration import StatusBody
from app.web import integration_bodies as bodies
from tests.integration_rig import conversation, worker
from tests.live import Live
from tests.memory_client import fields, key_for, memory_web
from tests.rig import until
from tests.sse import error_of
from tests.system import system
from tests.test_memories_export import kill_postgres

API = "/v1/integrations"
SCOPES = ("integrations:read", "integrations:write", "history:read", "memories:read")
CHAT = {"chat_data": [conversation("a", "I live in Lyon.", "Nice."), conversation("b", "I am allergic to peanuts.")]}


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with memory_web("tintegrations", redis_url, database_url, tmp_path_factory) as running:
        yield running


@pytest.fixture
def user() -> str:
    return f"u{secrets.token_hex(4)}"


@pytest.fixture
async def client(web: Live, user: str) -> AsyncIterator[httpx.AsyncClient]:
    async with web.client(await key_for(web, user, *SCOPES)) as made:
        yield made


@pytest.fixture
async def stored(web: Live) -> AsyncIterator[Database]:
    async with open_pool(web.settings) as database:
        yield database
        await database.execute("DELETE FROM integrations")


async def begin(client: httpx.AsyncClient, kind: str = "chat", **sent: Any) -> dict[str, Any]:
    answer = await client.post(f"{API}/{kind}", **(sent or {"json": CHAT}))
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def row(stored: Database, integration_id: str) -> dict[str, Any]:
    """An integration as stored."""
    found = await stored.fetchrow("SELECT * FROM integrations WHERE id = $1", integration_id)
    return dict(found) | {
        "request": json.loads(found["request"]),
        "secret": found["secret"] and json.loads(found["secret"]),
    }


async def received(stored: Database, integration_id: str) -> list[tuple[str, bytes]]:
    """The files of an integration that no worker has read: names and contents."""
    rows = await stored.fetch(
        """SELECT f.file, f.name, p.data FROM integration_files f
        LEFT JOIN integration_parts p USING (integration, file) WHERE integration = $1 ORDER BY file, part""",
        integration_id,
    )
    files: dict[int, tuple[str, bytes]] = {}
    for one in rows:
        name, data = files.get(one["file"], (one["name"], b""))
        files[one["file"]] = name, data + (one["data"] or b"")
    return list(files.values())


async def count(stored: Database) -> int:
    return int(await stored.fetchval("SELECT count(*) FROM integrations"))


async def status(client: httpx.AsyncClient, integration_id: str, **params: Any) -> dict[str, Any]:
    answer = await client.get(f"{API}/{integration_id}/status", params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


BEGINNINGS: list[tuple[str, dict[str, Any], str, str, dict[str, Any], list[tuple[str, bytes]]]] = [
    (
        "chat",
        {"json": {"chat_data": [{"role": "user", "content": "x"}], "me": "Ada", "zone": "Europe/Lisbon"}},
        "chat",
        "custom",
        {"memories": True, "form": "chat_data", "me": "Ada", "zone": "Europe/Lisbon"},
        [("chat_data.json", b'[{"role":"user","content":"x"}]')],
    ),
    (
        "chat",
        {"json": {"export": {"a": [1]}, "platform": "telegram", "memories": False}},
        "chat",
        "telegram",
        {"memories": False, "form": "export", "me": None, "zone": None},
        [("export.json", b'{"a":[1]}')],
    ),
    (
        "chat",
        {"files": {"file": ("x.zip", b"PK.")}, "data": {"me": "Ada", "memories": "false"}},
        "chat",
        "auto",
        {"memories": False, "form": "file", "me": "Ada", "zone": None},
        [("x.zip", b"PK.")],
    ),
    (
        "files",
        {"files": [("file", ("a.PDF", b"%PDF")), ("files", ("b.pdf", b""))], "data": {"chunk_size": "500"}},
        "file",
        "pdf",
        {"memories": True, "chunk_size": 500, "overlap": 200, "category": None, "extract_mode": "verbatim"},
        [("a.PDF", b"%PDF"), ("b.pdf", b"")],
    ),
    (
        "files",
        {
            "files": [("files", ("a.md", b"a")), ("files", ("b.htm", b"b"))],
            "data": {"overlap": "0", "category": "career", "extract_mode": "facts"},
        },
        "file",
        "files",
        {"memories": True, "chunk_size": 1000, "overlap": 0, "category": "career", "extract_mode": "facts"},
        [("a.md", b"a"), ("b.htm", b"b")],
    ),
    (
        "social",
        {"files": {"file": ("x.zip", b"PK")}, "data": {"platform": "x"}},
        "social",
        "twitter",
        {"memories": True, "by": "archive"},
        [("x.zip", b"PK")],
    ),
    (
        "social",
        {"json": {"platform": "reddit", "auth_token": "hush"}},
        "social",
        "reddit",
        {"memories": True, "by": "token"},
        [],
    ),
    (
        "api",
        {"json": {"url": "https://example.org/a", "headers": {"X-Key": "hush"}, "mapping": {"text": "body"}}},
        "api",
        "api",
        {
            "memories": True,
            "url": "https://example.org/a",
            "mapping": {"text": "body", "id": None, "timestamp": None, "title": None, "category": None, "metadata": {}},
            "format": "auto",
            "records_path": None,
            "category": None,
            "infer": False,
        },
        [],
    ),
    (
        "api",
        {"json": {"records": [{"text": "x"}], "platform": "crm", "infer": True}},
        "api",
        "crm",
        {
            "memories": True,
            "url": None,
            "mapping": None,
            "format": "auto",
            "records_path": None,
            "category": None,
            "infer": True,
        },
        [("records.json", b'[{"text":"x"}]')],
    ),
]


@pytest.mark.parametrize(("path", "sent", "kind", "platform", "request_", "files"), BEGINNINGS)
@pytest.mark.parametrize("prefix", ["/v1/integrations", "/integrations"])
async def test_each_is_received_and_answered_at_once(
    client: httpx.AsyncClient,
    stored: Database,
    prefix: str,
    path: str,
    sent: dict[str, Any],
    kind: str,
    platform: str,
    request_: dict[str, Any],
    files: list[tuple[str, bytes]],
) -> None:
    """PROTOCOL J1, J2."""
    answer = await client.post(f"{prefix}/{path}", **sent)
    assert answer.status_code == 202, answer.text
    begun = answer.json()
    assert begun == {
        "integration_id": begun["integration_id"],
        "type": kind,
        "platform": platform,
        "status": "pending",
        "created_at": begun["created_at"],
        "events_url": f"/v1/integrations/{begun['integration_id']}/events",
    }
    found = await row(stored, begun["integration_id"])
    assert (found["status"], found["request"]) == ("pending", request_)
    assert await received(stored, begun["integration_id"]) == files
    shown = (await client.get(f"{prefix}/{begun['integration_id']}")).text
    assert "hush" not in shown
    assert (found["secret"] is not None) == ("hush" in json.dumps(sent, default=str))


async def test_the_body_of_the_status_is_that_of_its_source(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J4."""
    begun = await begin(client, json={"chat_data": [conversation("a", "I live in Lyon."), {"messages": 7}]})
    await worker(stored).until_idle()
    body = await status(client, begun["integration_id"])
    assert set(body) == {
        *("integration_id", "type", "platform", "status", "progress", "stats", "last_activity", "created_at"),
        *("completed_at", "errors"),
    }
    assert set(body["progress"]) == {"percentage", "current_step", "total_steps", "estimated_completion"}
    assert set(body["stats"]) == {
        *("items_processed", "items_total", "memories_created", "errors_count", "processing_time"),
    }
    assert (body["status"], body["progress"]["percentage"], body["progress"]["total_steps"]) == ("completed", 100, 4)
    assert (body["stats"]["items_total"], body["stats"]["errors_count"]) == (2, 1)
    (error,) = body["errors"]
    assert set(error) == {"error_id", "message", "code", "timestamp", "item_id"}
    logs = (await status(client, begun["integration_id"], include_logs="true", include_errors="false"))["logs"]
    assert logs
    assert set(logs[0]) == {"timestamp", "level", "message", "step"}
    plain = await status(client, begun["integration_id"], include_errors="false")
    assert "errors" not in plain
    assert "logs" not in plain


async def test_what_was_made_is_shown_with_it(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J3."""
    begun = await begin(client, json=CHAT | {"name": "Two walks"})
    whole = (await client.get(f"{API}/{begun['integration_id']}")).json()
    assert (whole["name"], whole["memories"], whole["request"]["form"]) == ("Two walks", [], "chat_data")
    await worker(stored).until_idle()
    whole = (await client.get(f"{API}/{begun['integration_id']}")).json()
    assert whole["stats"]["memories_created"] == len(whole["memories"]) >= 2
    assert "Lyon" in " ".join(one["memory"] for one in whole["memories"])
    known = (await client.get("/v1/memories")).json()["data"]
    assert {one["id"] for one in whole["memories"]} == {one["id"] for one in known}


async def test_the_list_is_paged_and_narrowed(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J3."""
    made = [(await begin(client))["integration_id"] for _ in range(3)]
    made.append((await begin(client, "api", json={"records": [{"text": "x"}], "platform": "crm"}))["integration_id"])
    pages: list[list[str]] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = (await client.get(API, params=params)).json()
        pages.append([one["integration_id"] for one in page["integrations"]])
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert [len(page) for page in pages] == [2, 2]
    assert [one for page in pages for one in page] == sorted(made, reverse=True)

    async def ids(**wanted: str) -> list[str]:
        found = (await client.get(API, params=wanted)).json()["integrations"]
        return [one["integration_id"] for one in found]

    assert await ids(type="api") == await ids(platform="crm") == made[3:]
    await client.post(f"{API}/{made[0]}/cancel")
    assert await ids(status="cancelled") == made[:1]
    assert await ids(status="failed") == []
    error_of(await client.get(API, params={"cursor": "x"}), 400, "BAD_REQUEST")
    assert fields(await client.get(API, params={"limit": "0", "status": "odd", "type": "x"})) == [
        *("limit", "status", "type"),
    ]


async def test_cancelling_again_is_the_same_and_too_late_is_a_conflict(
    client: httpx.AsyncClient, stored: Database
) -> None:
    """PROTOCOL J5."""
    begun = await begin(client)
    expected = {
        "message": "Integration cancelled successfully",
        "integration_id": begun["integration_id"],
        "status": "cancelled",
    }
    for _ in range(2):
        answer = await client.post(f"{API}/{begun['integration_id']}/cancel")
        assert (answer.status_code, answer.json()) == (200, expected)
    await worker(stored).until_idle()
    assert (await status(client, begun["integration_id"]))["stats"]["items_processed"] == 0
    done = await begin(client)
    await worker(stored).until_idle()
    body = error_of(await client.post(f"{API}/{done['integration_id']}/cancel"), 409, "CONFLICT")
    assert (body["error"]["details"], body["integration_id"]) == ({"status": "completed"}, done["integration_id"])


async def test_retrying_takes_what_failed(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J6."""
    begun = await begin(client)
    error_of(await client.post(f"{API}/{begun['integration_id']}/retry"), 409, "CONFLICT")
    claimed = await job.claim(stored, lambda _: None)
    assert claimed is not None
    await claimed.begin(0)
    await claimed.fail("ODD", "It went wrong.")
    failed = await status(client, begun["integration_id"])
    assert (failed["status"], [one["code"] for one in failed["errors"]]) == ("failed", ["ODD"])
    answer = await client.post(f"{API}/{begun['integration_id']}/retry")
    assert (answer.status_code, answer.json()) == (202, begun)
    await worker(stored).until_idle()
    done = await status(client, begun["integration_id"])
    assert (done["status"], done["stats"]["errors_count"], done["errors"]) == ("completed", 0, [])


async def test_a_token_is_needed_again_where_its_source_is(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J6."""
    begun = await begin(client, "social", json={"platform": "reddit", "auth_token": "one"})
    claimed = await job.claim(stored, lambda _: None)
    assert claimed is not None
    assert claimed.secret == {"auth_token": "one"}
    await claimed.begin(0)
    await claimed.fail("UNAUTHORIZED", "The token was refused.")
    path = f"{API}/{begun['integration_id']}/retry"
    assert fields(await client.post(path)) == ["auth_token"]
    assert fields(await client.post(path, json={"auth_token": "t w o"})) == ["auth_token"]
    assert fields(await client.post(path, json={"auth_token": "two", "headers": {"a": "b"}})) == ["headers"]
    assert (await client.post(path, json={"auth_token": "two"})).status_code == 202
    assert (await row(stored, begun["integration_id"]))["secret"] == {"auth_token": "two"}
    chat = await begin(client)
    assert fields(await client.post(f"{API}/{chat['integration_id']}/retry", json={"auth_token": "x"})) == [
        "auth_token"
    ]


async def test_deleting_leaves_or_takes_what_was_brought(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J7."""

    async def there() -> tuple[int, int]:
        chats = (await client.get("/api/chat-history/count")).json()["count"]
        return chats, len((await client.get("/v1/memories")).json()["data"])

    begun = [await begin(client), await begin(client, json={"chat_data": [conversation("c", "I like tea.")]})]
    await worker(stored).until_idle()
    chats, memories = await there()
    assert (chats, memories >= 3) == (3, True)
    first, second = (f"{API}/{one['integration_id']}" for one in begun)
    assert (await client.delete(second)).status_code == 204
    assert await there() == (chats, memories)
    assert (await client.delete(first, params={"memories": "true"})).status_code == 204
    left = await there()
    assert (left[0], left[1] < memories) == (1, True)
    for gone in (first, second):
        body = error_of(await client.get(gone), 404, "INTEGRATION_NOT_FOUND")
        assert body["integration_id"] == gone.rpartition("/")[2]
        error_of(await client.delete(gone), 404, "INTEGRATION_NOT_FOUND")


async def test_deleting_ends_one_that_is_active(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J7."""
    begun = await begin(client)
    claimed = await job.claim(stored, lambda _: None)
    assert claimed is not None
    await claimed.begin(0)
    assert (await client.delete(f"{API}/{begun['integration_id']}")).status_code == 204
    with pytest.raises(ClaimLost):
        await claimed.begin(1)
    assert await count(stored) == 0


async def test_nobody_sees_or_touches_anothers(
    web: Live, client: httpx.AsyncClient, stored: Database, user: str
) -> None:
    """PROTOCOL J8."""
    begun = await begin(client)
    path = f"{API}/{begun['integration_id']}"
    async with (
        web.client(await key_for(web, f"b{secrets.token_hex(3)}", *SCOPES)) as other,
        web.client(await key_for(web, None, *SCOPES)) as unbound,
        web.client(await key_for(web, user, "integrations:read")) as reader,
    ):
        for asked in (other, unbound):
            for method, rest in (
                *(("GET", ""), ("GET", "/status"), ("GET", "/events")),
                *(("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")),
            ):
                error_of(await asked.request(method, path + rest), 404, "INTEGRATION_NOT_FOUND")
            assert (await asked.get(API)).json() == {"integrations": [], "next_cursor": None}
        assert (await unbound.get(path, params={"user_id": user})).json()["integration_id"] == begun["integration_id"]
        assert len((await unbound.get(API, params={"user_id": user})).json()["integrations"]) == 1
        error_of(await other.get(path, params={"user_id": user}), 403, "FORBIDDEN")
        error_of(await reader.post(f"{API}/chat", json=CHAT), 403, "FORBIDDEN")
        error_of(await reader.post(f"{path}/cancel"), 403, "FORBIDDEN")
        assert (await reader.get(path)).status_code == 200


async def test_whose_it_is_may_be_said_anywhere(
    web: Live, client: httpx.AsyncClient, stored: Database, user: str
) -> None:
    """PROTOCOL J8."""
    late = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n'
        b'--b\r\nContent-Disposition: form-data; name="user_id"\r\n\r\n%b\r\n--b--\r\n'
    )
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    async with web.client(await key_for(web, None, *SCOPES)) as unbound:
        begun = [
            await begin(unbound, json=CHAT | {"user_id": user}),
            await begin(unbound, json=CHAT, params={"user_id": user}),
            await begin(unbound, "files", content=late % user.encode(), headers=form),
        ]
        for one in begun:
            assert one["events_url"].endswith(f"/events?user_id={user}")
            assert (await unbound.get(one["events_url"].replace("events", "status"))).status_code == 200
        mixed = await unbound.post(f"{API}/chat", json=CHAT | {"user_id": user}, params={"user_id": "else"})
        assert fields(mixed) == ["user_id"]
    listed = (await client.get(API)).json()["integrations"]
    assert {one["integration_id"] for one in listed} == {one["integration_id"] for one in begun}
    refused = await client.post(f"{API}/files", content=late % b"else", headers=form)
    error_of(refused, 403, "FORBIDDEN")
    assert await count(stored) == 3


@pytest.mark.parametrize(
    ("path", "sent", "wrong"),
    [
        ("chat", {"json": {}}, ["export"]),
        ("chat", {"json": {"chat_data": []}}, ["chat_data"]),
        ("chat", {"json": {"chat_data": {}}}, ["chat_data"]),
        ("chat", {"json": {"chat_data": [1], "export": {}}}, ["export"]),
        ("chat", {"json": {"export": "text"}}, ["export"]),
        ("chat", {"json": {"export": {}, "platform": "myspace"}}, ["platform"]),
        (
            "chat",
            {"json": {"chat_data": [1], "platform": "a b", "memories": "no", "me": 1}},
            ["memories", "platform", "me"],
        ),
        ("chat", {"json": {"chat_data": [1], "zone": "Moon/Sea"}}, ["zone"]),
        ("chat", {"files": {"file": ("", b"")}}, ["file"]),
        ("chat", {"files": {"x": ("a", b"a")}, "data": {"me": "a"}}, ["x"]),
        ("chat", {"files": [("file", ("a", b"a")), ("file", ("b", b"b"))]}, ["file"]),
        (
            "chat",
            {"files": {"file": ("a", b"a")}, "data": {"platform": "x", "memories": "maybe"}},
            ["memories", "platform"],
        ),
        ("files", {"files": {"me": (None, b"a")}}, ["file"]),
        (
            "files",
            {"files": {"file": ("a", b"a")}, "data": {"chunk_size": "199", "overlap": "x"}},
            ["chunk_size", "overlap"],
        ),
        ("files", {"files": {"file": ("a", b"a")}, "data": {"chunk_size": "300", "overlap": "300"}}, ["overlap"]),
        (
            "files",
            {"files": {"file": ("a", b"a")}, "data": {"category": "x", "extract_mode": "y"}},
            ["category", "extract_mode"],
        ),
        ("files", {"files": [("files", ("a", b"a"))] * 101}, ["files"]),
        ("social", {"files": {"file": ("a", b"a")}}, ["platform"]),
        ("social", {"json": {"platform": "myspace"}}, ["platform", "auth_token"]),
        ("social", {"json": {"platform": "x", "auth_token": "a\nb"}}, ["auth_token"]),
        ("api", {"json": {}}, ["url"]),
        ("api", {"json": {"url": "http://x", "records": [1]}}, ["url"]),
        ("api", {"json": {"url": "ftp://x"}}, ["url"]),
        ("api", {"json": {"url": "http://ada:pw@x"}}, ["url"]),
        ("api", {"json": {"url": "http://"}}, ["url"]),
        ("api", {"json": {"records": []}}, ["records"]),
        ("api", {"json": {"records": [1], "headers": {"a": "b"}}}, ["headers"]),
        ("api", {"json": {"url": "http://x", "headers": {"Host": "a", "b": "c\nd"}}}, ["headers.Host", "headers.b"]),
        (
            "api",
            {"json": {"url": "http://x", "mapping": {"text": 1, "odd": 1}, "format": "xml"}},
            ["mapping.text", "format"],
        ),
    ],
)
async def test_every_wrong_field_is_named_and_nothing_begun(
    client: httpx.AsyncClient, stored: Database, path: str, sent: dict[str, Any], wrong: list[str]
) -> None:
    """PROTOCOL J9."""
    assert fields(await client.post(f"{API}/{path}", **sent)) == wrong
    assert await count(stored) == 0


async def test_unknown_fields_are_named_in_a_warning(client: httpx.AsyncClient, stored: Database) -> None:
    for sent in ({"json": CHAT | {"colour": 1}}, {"files": {"file": ("a", b"a")}, "data": {"colour": "1"}}):
        answer = await client.post(f"{API}/chat", **sent)
        assert (answer.status_code, answer.headers["warning"]) == (202, '299 - "ignored unknown fields: colour"')


@pytest.mark.parametrize(
    ("path", "kind", "raw", "code"),
    [
        ("chat", "text/plain", b"x", 415),
        ("files", "application/json", b"{}", 415),
        ("api", "multipart/form-data; boundary=b", b"", 415),
        ("chat", "application/json", b"", 400),
        ("chat", "application/json", b"{", 400),
        ("chat", "application/json", b"[]", 422),
        ("chat", "multipart/form-data", b"", 400),
        ("files", "multipart/form-data; boundary=b", b"", 400),
        ("files", "multipart/form-data; boundary=b", b"--b\r\nnonsense", 400),
        ("files", "multipart/form-data; boundary=b", b"--b--\r\n", 422),
    ],
)
async def test_what_cannot_be_read_is_refused(
    client: httpx.AsyncClient, stored: Database, path: str, kind: str, raw: bytes, code: int
) -> None:
    """PROTOCOL J9."""
    answer = await client.post(f"{API}/{path}", content=raw, headers={"Content-Type": kind})
    error_of(answer, code, {400: "BAD_REQUEST", 415: "UNSUPPORTED_MEDIA_TYPE", 422: "VALIDATION_ERROR"}[code])
    assert await count(stored) == 0


async def test_a_form_broken_off_leaves_nothing(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J9."""
    raw = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + b"x" * 3_000_000
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    error_of(await client.post(f"{API}/files", content=raw, headers=headers), 400, "BAD_REQUEST")
    assert await count(stored) == 0


async def test_a_client_that_goes_away_leaves_nothing(web: Live, client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J9."""
    head = (
        f"POST {API}/files HTTP/1.1\r\nHost: x\r\nX-API-Key: {client.headers['x-api-key']}\r\n"
        "Content-Length: 9000000\r\n"
        'Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; '
        'filename="a.txt"\r\n\r\n'
    )
    url = httpx.URL(web.url)
    async with await anyio.connect_tcp(url.host, url.port or 0) as connection:
        await connection.send(head.encode() + b"x" * 3_000_000)

        async def coming() -> bool:
            return bool(await stored.fetchval("SELECT count(*) FROM integration_parts"))

        await until(coming)
        assert (await client.get(API)).json()["integrations"] == []  # not there before all of it is

    async def gone() -> bool:
        return await count(stored) == 0

    await until(gone)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
async def test_more_than_the_limit_is_refused_while_it_comes(
    client: httpx.AsyncClient, stored: Database, declared: bool, kind: str
) -> None:
    """PROTOCOL J9."""
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' if "multipart" in kind else b"["

    async def pieces() -> AsyncIterator[bytes]:
        yield start
        for _ in range(53):
            yield b" " * 1_000_000

    headers = {"Content-Type": kind} | ({"Content-Length": str(len(start) + 53_000_000)} if declared else {})
    answer = await client.post(f"{API}/chat", content=pieces(), headers=headers)
    assert error_of(answer, 413, "PAYLOAD_TOO_LARGE")["error"]["details"] == {"max_bytes": 52_428_800}
    assert await count(stored) == 0


async def test_a_file_up_to_the_limit_is_received_whole(client: httpx.AsyncClient, stored: Database) -> None:
    """PROTOCOL J2."""
    data = secrets.token_bytes(1_000_003) * 40
    begun = await begin(client, "files", files={"file": ("big.bin", data)})
    ((name, got),) = await received(stored, begun["integration_id"])
    assert (name, got == data) == ("big.bin", True)
    largest = await stored.fetchval("SELECT max(length(data)) FROM integration_parts")
    assert largest < 2_000_000


@pytest.mark.parametrize("kind", ["form", "json"])
async def test_the_same_key_gives_the_first_answer_whatever_the_boundary(
    client: httpx.AsyncClient, stored: Database, kind: str
) -> None:
    """PROTOCOL C7."""

    def sent(word: bytes) -> dict[str, Any]:
        if kind == "json":
            return {"json": {"chat_data": [{"role": "user", "content": word.decode()}]}}
        return {"files": {"file": ("a.txt", word)}, "data": {"me": "Ada"}}  # httpx makes a new boundary each time

    once = {"Idempotency-Key": secrets.token_hex(8)}
    begun = await begin(client, **sent(b"one"), headers=once)
    assert await begin(client, **sent(b"one"), headers=once) == begun
    twins: list[dict[str, Any]] = []
    twin_key = {"Idempotency-Key": secrets.token_hex(8)}

    async def one() -> None:
        twins.append(await begin(client, **sent(b"two"), headers=twin_key))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)
    assert twins[0] == twins[1] == twins[2]
    error_of(await client.post(f"{API}/chat", **sent(b"other"), headers=once), 409, "CONFLICT")
    assert await count(stored) == 2
    await stored.execute("UPDATE integrations SET created_at = now() - interval '25 hours'")
    again = await begin(client, **sent(b"other"), headers=once)
    assert again["integration_id"] != begun["integration_id"]
    error_of(await client.post(f"{API}/chat", **sent(b"x"), headers={"Idempotency-Key": "x" * 256}), 400, "BAD_REQUEST")


async def test_ids_that_lead_nowhere(client: httpx.AsyncClient, stored: Database) -> None:
    await begin(client)
    error_of(await client.get(f"{API}/int%00/status"), 400, "BAD_REQUEST")
    error_of(await client.get(f"{API}/int_nope/status"), 404, "INTEGRATION_NOT_FOUND")


async def test_answers_are_what_the_document_says(client: httpx.AsyncClient, stored: Database) -> None:
    answer = await client.post(f"{API}/chat", json=CHAT)
    await worker(stored).until_idle()
    path = f"{API}/{answer.json()['integration_id']}"
    cases: list[tuple[Any, httpx.Response]] = [
        (bodies.Begun, answer),
        (bodies.Page, await client.get(API)),
        (bodies.Shown, await client.get(path)),
        (StatusBody, await client.get(f"{path}/status", params={"include_logs": "true"})),
    ]
    for shape, one in cases:
        assert msgspec.to_builtins(msgspec.convert(one.json(), shape)) == one.json()  # no field more, none less
    paths = (await client.get("/openapi.json")).json()["paths"]
    ours = {path for path in paths if path.startswith(API)}
    assert len(ours) == 10
    for path in ours:
        assert paths[path.removeprefix("/v1")] == {"$ref": f"#/paths/{path.replace('/', '~1')}"}
    form = paths[f"{API}/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert form["properties"]["chunk_size"]["maximum"] == 8_000


async def test_while_postgresql_is_away_every_route_says_so(short_tmp: Path) -> None:
    """PROTOCOL J9, J13."""
    async with system(short_tmp, workers=0) as deployment, deployment.client() as client:
        begun = await begin(client)
        path = f"{API}/{begun['integration_id']}"
        kill_postgres(deployment)
        for answer in (
            await client.post(f"{API}/chat", json=CHAT),
            await client.post(f"{API}/files", files={"file": ("a.txt", b"x" * 3_000_000)}),
            await client.get(API),
            await client.get(path),
            await client.get(f"{path}/status"),
            await client.post(f"{path}/cancel"),
            await client.post(f"{path}/retry"),
            await client.delete(path),
        ):
            error_of(answer, 503, "UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1
        away = await client.get(f"{path}/events")
        assert (away.status_code, away.content[:13]) == (200, b"retry: 3000\n\n")
