"""Every way an error leaves the server has the one shape, the right code, and nothing that is nobody's business."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import msgspec
import pytest

from app import errors
from app.settings import Settings
from app.telemetry import Metrics
from app.web.problem import problem, send_problem
from tests.live import Live, live


@pytest.fixture(scope="module")
async def web(redis_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    settings = Settings(
        redis_url=redis_url,
        database_url=database_url,
        data_dir=str(tmp_path_factory.mktemp("data")),
        redis_prefix="terrors",
        database_schema="terrors",
        max_body_bytes=100_000,
    )
    async with live(settings) as running:
        yield running


def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    return check_body(answer.json(), code)


def check_body(body: dict[str, Any], code: str) -> dict[str, Any]:
    assert set(body["error"]) == {"code", "message", "details"}
    assert (body["error"]["code"], body["code"], body["status"]) == (code, code, "error")
    assert body["detail"] == body["error"]["message"]
    assert body["detail"]
    assert body["timestamp"].endswith("Z")
    datetime.fromisoformat(body["timestamp"])
    return body


@pytest.mark.parametrize("path", ["/nope", "/v1/nope", "/v1/messages/async/a/b/c", "/v1/api-keys/a/b"])
async def test_an_address_that_leads_nowhere(web: Live, path: str) -> None:
    async with web.client() as client:
        check(await client.get(path), 404, "NOT_FOUND")


async def test_a_method_that_is_not_taken(web: Live) -> None:
    async with web.client() as client:
        answer = await client.put("/v1/api-keys")
    check(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert answer.json()["detail"].endswith(": it takes GET, POST")
    async with web.client() as client:
        assert (await client.put("/v1/messages/async/x/cancel")).headers["allow"] == "OPTIONS, POST"
        head = await client.head("/v1/messages/async/x/cancel")
    assert (head.status_code, head.headers["allow"]) == (405, "OPTIONS, POST")


@pytest.mark.parametrize(
    "headers", [{}, {b"x-api-key": b"wrong"}, {b"authorization": b"Basic x"}, {b"x-api-key": b"\xc3\xa9"}]
)
async def test_nobody_we_know(web: Live, headers: dict[bytes, bytes]) -> None:
    async with web.client("") as client:
        check(await client.get("/v1/api-keys", headers=headers), 401, "UNAUTHORIZED")


async def test_a_missing_scope(web: Live) -> None:
    async with web.client() as client:
        made = await client.post("/v1/api-keys", json={"name": "r", "scopes": ["messages:read"]})
    async with web.client(made.json()["data"]["key"]) as client:
        body = check(await client.get("/v1/api-keys"), 403, "FORBIDDEN")
    assert body["error"]["details"] == {"scope": "keys:write"}


async def test_an_unknown_id_stands_beside_the_error(web: Live) -> None:
    async with web.client() as client:
        body = check(await client.get("/v1/messages/async/msg_nope/status"), 404, "MESSAGE_NOT_FOUND")
        assert body["message_id"] == "msg_nope"
        body = check(await client.delete("/v1/api-keys/key_nope"), 404, "API_KEY_NOT_FOUND")
        assert body["key_id"] == "key_nope"
        for prefix in ("/v1", ""):
            body = check(await client.get(f"{prefix}/integrations/int_nope/status"), 404, "INTEGRATION_NOT_FOUND")
            assert body["integration_id"] == "int_nope"


@pytest.mark.parametrize(("raw", "code"), [(b"{", 400), (b"", 400), (b"\xff\xfe", 400), (b"[1]", 422), (b"{}", 422)])
async def test_a_body_that_is_wrong(web: Live, raw: bytes, code: int) -> None:
    async with web.client() as client:
        for path in ("/v1/api-keys", "/v1/messages/async"):
            answer = await client.post(path, content=raw)
            check(answer, code, "BAD_REQUEST" if code == 400 else "VALIDATION_ERROR")


async def test_validation_spells_out_the_first_field_and_lists_all(web: Live) -> None:
    async with web.client() as client:
        answer = await client.post("/v1/api-keys", json={"name": "", "scopes": ["messages:read", 5], "expires_in": 0})
    details = check(answer, 422, "VALIDATION_ERROR")["error"]["details"]
    assert [error["field"] for error in details["errors"]] == ["name", "scopes[1]", "expires_in"]
    assert details["field"] == "name"
    assert details["reason"] == details["errors"][0]["reason"]


async def test_wrong_query_parameters(web: Live) -> None:
    async with web.client() as client:
        answer = await client.get("/v1/api-keys?page=0&page_size=1000&status=odd")
    details = check(answer, 422, "VALIDATION_ERROR")["error"]["details"]
    assert [error["field"] for error in details["errors"]] == ["status", "page", "page_size"]


async def test_a_body_of_another_type(web: Live) -> None:
    async with web.client() as client:
        answer = await client.post("/v1/api-keys", content=b"a=1", headers={"content-type": "text/plain"})
    check(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    async with web.client() as client:
        answer = await client.post("/v1/integrations/files", content=b"{}")
    check(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large(web: Live, declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 5_000

    content: Any = b"x" * 200_000 if declared else chunks()
    async with web.client() as client:
        check(await client.post("/v1/messages/async", content=content), 413, "PAYLOAD_TOO_LARGE")


async def test_a_key_used_with_another_body(web: Live) -> None:
    async with web.client() as client:
        headers = {"Idempotency-Key": "shape"}
        body = {"name": "a", "scopes": ["messages:read"]}
        assert (await client.post("/v1/api-keys", json=body, headers=headers)).status_code == 201
        check(await client.post("/v1/api-keys", json=body | {"name": "b"}, headers=headers), 409, "CONFLICT")


async def test_a_character_no_database_holds(web: Live) -> None:
    async with web.client() as client:
        check(await client.delete("/v1/api-keys/key%00"), 400, "BAD_REQUEST")
        answer = await client.get("/v1/api-keys?user_id=a%00b")
        assert check(answer, 422, "VALIDATION_ERROR")["error"]["details"]["field"] == "user_id"
        body = {"name": "k", "scopes": ["messages:read"], "user_id": "a\x00"}
        check(await client.post("/v1/api-keys", json=body), 422, "VALIDATION_ERROR")


async def test_a_bad_cursor(web: Live) -> None:
    async with web.client() as client:
        check(await client.get("/v1/messages/async/msg_x/stream?after=-1"), 400, "BAD_REQUEST")


async def test_what_the_server_itself_refuses_to_read_still_ends(web: Live) -> None:
    host, port = httpx.URL(web.url).host, httpx.URL(web.url).port or 0
    with socket.create_connection((host, port), timeout=5) as plain:
        plain.sendall(b"NONSENSE\r\n\r\n")
        assert plain.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (errors.BadRequest("m"), 400, "BAD_REQUEST", {}),
        (errors.Gone("m"), 410, "GONE", {}),
        (errors.NotFound("conversation", "m"), 404, "CONVERSATION_NOT_FOUND", {}),
        (errors.RateLimited("m", retry_after=7), 429, "RATE_LIMIT_EXCEEDED", {"Retry-After": "7"}),
        (errors.Unavailable("m", retry_after=3), 503, "UNAVAILABLE", {"Retry-After": "3"}),
        (errors.UpstreamFailed("m", code="MODEL_DOWN"), 502, "MODEL_DOWN", {}),
        (errors.ClaimLost("m"), 500, "INTERNAL_ERROR", {}),
        (ValueError("secret internals"), 500, "INTERNAL_ERROR", {}),
        (KeyError("secret internals"), 500, "INTERNAL_ERROR", {}),
    ],
)
def test_each_of_our_errors(error: Exception, status: int, code: str, headers: dict[str, str]) -> None:
    answer = problem(error)
    assert (answer.status, answer.headers) == (status, headers)
    check_body(msgspec.json.decode(answer.body), code)
    assert b"secret" not in answer.body


async def test_a_bare_handler_answers_the_same() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    metrics = Metrics()
    error = errors.Unavailable("PostgreSQL does not answer", retry_after=2, details={"engine": "postgresql"})
    await send_problem(error, {"type": "http", "state": {}}, send, metrics)  # type: ignore[typeddict-item]
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after", b"2") in start["headers"]
    assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]
    check_body(msgspec.json.decode(body["body"]), "UNAVAILABLE")
    assert b'reprise_engine_errors_total{engine="postgresql"} 1.0' in metrics.exposition()
