"""The outermost layer: request ids, HEAD, OPTIONS, CORS, what is logged, and what happens when a handler breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

from app.settings import Settings
from app.telemetry import Metrics, configure_logging
from app.web.shell import Shell

Sent = list[Any]


def shell(app: Any, metrics: Metrics | None = None, **settings: Any) -> Shell:
    def methods_of(path: str) -> frozenset[str]:
        return {"/a": frozenset({"GET", "POST"}), "/h": frozenset({"GET", "HEAD"})}.get(path, frozenset())

    return Shell(app, Settings(**settings), metrics or Metrics(), methods_of)


def answering(body: bytes = b"hello", *, length: bool = True) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path_template"] = "/a"
        headers = [(b"content-length", str(len(body)).encode())] if length else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return app


async def ask(app: Shell, method: str = "GET", path: str = "/a", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: Sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Any = {"type": "http", "method": method, "path": path, "headers": listed, "query_string": b"token=secret"}
    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert sent[-1].get("more_body", False) is False
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("given", ["abc", "0198c5e2-77aa-7000-8000-0123456789ab", "a" * 128])
async def test_a_request_id_is_echoed(given: str) -> None:
    """PROTOCOL C8."""
    _, headers, _ = await ask(shell(answering()), x_request_id=given)
    assert headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "a\tb", '"quoted"'])
async def test_a_request_id_that_is_none_is_replaced(given: str) -> None:
    _, headers, _ = await ask(shell(answering()), x_request_id=given)
    assert headers["x-request-id"].startswith("req_")


async def test_head_is_get_without_its_body() -> None:
    status, headers, body = await ask(shell(answering()), "HEAD")
    assert (status, headers["content-length"], body) == (200, "5", b"")


async def test_head_on_a_stream_opens_none() -> None:
    """PROTOCOL C8."""
    opened = False

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        nonlocal opened
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.sleep(0)
        opened = True

    with anyio.fail_after(2):
        status, _, body = await ask(shell(stream), "HEAD")
    assert (status, body, opened) == (200, b"", False)


async def test_head_goes_to_the_handler_that_takes_it() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["method"])
        await answering(b"")(scope, receive, send)

    await ask(shell(app), "HEAD", "/h")
    assert seen == ["HEAD"]


async def test_options_names_the_methods() -> None:
    status, headers, _ = await ask(shell(answering()), "OPTIONS")
    assert (status, headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert "access-control-allow-origin" not in headers


async def test_preflight_is_answered_for_every_address() -> None:
    app = shell(answering(), cors_origins=["https://a.example"])
    for path in ("/a", "/nowhere"):
        status, headers, _ = await ask(
            app,
            "OPTIONS",
            path,
            origin="https://a.example",
            access_control_request_method="POST",
            access_control_request_headers="x-api-key",
        )
        assert status == 204
        assert headers["access-control-allow-origin"] == "https://a.example"
        assert headers["access-control-allow-headers"] == "x-api-key"
        assert "DELETE" in headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ([], "https://a.example", None),
        (["https://a.example"], "https://a.example", "https://a.example"),
        (["https://a.example"], "https://b.example", None),
        (["*"], "https://b.example", "*"),
    ],
)
async def test_origins_are_allowed_by_configuration(origins: list[str], origin: str, allowed: str | None) -> None:
    _, headers, _ = await ask(shell(answering(), cors_origins=origins), origin=origin)
    assert headers.get("access-control-allow-origin") == allowed


async def test_a_log_line_carries_no_query() -> None:
    with capture_logs() as lines:
        await ask(shell(answering()), path="/a", x_api_key="rp_live_secret")
    (line,) = lines
    assert (line["method"], line["path"], line["status"], line["event"]) == ("GET", "/a", 200, "request")
    assert "secret" not in repr(lines)


@pytest.mark.parametrize("ours", [True, False])
async def test_a_websocket_is_logged_with_its_close_code(ours: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if ours:
            await send({"type": "websocket.close", "code": 4404, "reason": ""})

    async def receive() -> Any:
        return {"type": "websocket.connect"} if ours else {"type": "websocket.disconnect", "code": 1005}

    async def send(_: Any) -> None:
        return

    with capture_logs() as lines:
        scope: Any = {"type": "websocket", "path": "/a", "headers": [], "query_string": b"token=secret"}
        await shell(app)(scope, receive, send)
    (line,) = lines
    assert (line["event"], line["code"]) == ("websocket.closed", 4404 if ours else 1005)


@pytest.mark.parametrize(
    ("path", "level"), [("/page/app.js", "debug"), ("/client.js", "debug"), ("/health/ready", "debug"), ("/", "info")]
)
async def test_what_machines_and_the_page_ask_for_is_logged_quietly(path: str, level: str) -> None:
    configure_logging(Settings(log_level="debug"))  # whatever an earlier test's server has set
    with capture_logs() as lines:
        await ask(shell(answering()), path=path)
    assert [line["log_level"] for line in lines] == [level]


async def test_metrics_are_by_route_and_unknown_addresses_make_none() -> None:
    metrics = Metrics()
    await ask(shell(answering(), metrics), path="/a")

    async def nowhere(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    for path in ("/x1", "/x2"):
        await ask(shell(nowhere, metrics), path=path)
    text = metrics.exposition().decode()
    assert 'reprise_http_requests_total{method="GET",route="/a",status="200"} 1.0' in text
    assert 'route="(none)",status="404"} 2.0' in text
    assert "/x1" not in text


async def test_a_broken_handler_is_answered_and_logged_with_its_request_id() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("internals")

    with capture_logs() as lines:
        status, headers, body = await ask(shell(broken), x_request_id="r-1")
    assert (status, headers["x-request-id"]) == (500, "r-1")
    assert msgspec.json.decode(body)["code"] == "INTERNAL_ERROR"
    assert b"internals" not in body
    failed = next(line for line in lines if line["event"] == "request.failed")
    assert failed["request_id"] == "r-1"
    assert isinstance(failed["exc_info"], ValueError)


async def test_an_answer_that_breaks_off_is_not_answered_twice() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("internals")

    with pytest.raises(ValueError, match="internals"):
        await ask(shell(broken))


async def test_it_knows_when_nothing_is_being_answered() -> None:
    release = anyio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await answering()(scope, receive, send)

    app = shell(slow)
    order: list[str] = []
    call: Callable[[], Any] = lambda: ask(app)  # noqa: E731

    async def wait() -> None:
        await app.until_idle()
        order.append("idle")

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert (app.open, order) == (1, [])
        release.set()
    assert (app.open, order) == (0, ["idle"])
