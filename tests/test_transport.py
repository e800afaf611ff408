"""The direct path's own transport: reuse, ends noticed, closing at once, errors by their names, TLS, proxies."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from app.llm.transport import DirectTransport
from app.resources import http_client
from tests.upstream import Connection, Upstream, upstream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with upstream() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=DirectTransport(), timeout=5) as client:
        yield client


@asynccontextmanager
async def peer(handler: Handler) -> AsyncIterator[str]:
    """The address of a server that reads one request's head and then does as ``handler`` says, each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def ask(name: str, content: str = "hi") -> dict[str, object]:
    return {"model": name, "stream": True, "messages": [{"role": "user", "content": content}]}


async def whole(http: httpx.AsyncClient, url: str, name: str) -> bytes:
    response = await http.post(f"{url}/chat/completions", json=ask(name))
    assert response.status_code == 200
    return response.content


async def test_connections_are_used_again(up: Upstream, http: httpx.AsyncClient) -> None:
    bodies = {await whole(http, up.base_url, "t30") for _ in range(4)}
    assert len(bodies) == 1
    assert bodies.pop().endswith(b"data: [DONE]\n\n")
    assert len(up.connections) == 1


async def test_a_burst(up: Upstream) -> None:
    async with httpx.AsyncClient(transport=DirectTransport(kept=20)) as http:
        expected = await whole(http, up.base_url, "t40-p400")
        for _ in range(2):
            found: list[bytes] = []

            async def one(found: list[bytes] = found) -> None:
                found.append(await whole(http, up.base_url, "t40-p400"))

            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(one)
            assert found == [expected] * 50
            await up.wait(lambda: len(up.connections) == 20)
    await up.wait(lambda: not up.connections)


async def test_an_idle_connection_that_the_server_closes_is_replaced(up: Upstream, http: httpx.AsyncClient) -> None:
    for _ in range(3):
        await whole(http, up.base_url, "t3")
        (connection,) = up.connections
        connection.transport.close()
        await up.wait(lambda: not up.connections)  # the next request may come before our loop has seen the end
    assert len(up.requests) == 3


async def test_idle_connections_expire(up: Upstream) -> None:
    async with httpx.AsyncClient(transport=DirectTransport(kept_s=0.0)) as http:
        for _ in range(3):
            await whole(http, up.base_url, "t3")
        await up.wait(lambda: not up.connections)


async def test_origins_keep_their_own_connections(up: Upstream, http: httpx.AsyncClient) -> None:
    async with upstream() as other:
        for _ in range(3):
            await whole(http, up.base_url, "t3")
            await whole(http, other.base_url, "t3")
        assert (len(up.connections), len(other.connections)) == (1, 1)
        assert (len(up.requests), len(other.requests)) == (3, 3)


@pytest.mark.parametrize("name", ["t5-slowstart60", "t20-stall5", "t300000"])
async def test_cancelling_closes_the_socket(up: Upstream, http: httpx.AsyncClient, name: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(whole, http, up.base_url, name)
        await up.wait_request()
        if "slow" not in name:
            await up.wait(lambda: any(c.sent >= 5 for c in up.connections))
        group.cancel_scope.cancel()
    await up.wait_close()
    await up.wait(lambda: not up.connections)
    assert await whole(http, up.base_url, "t3")


async def test_an_upload_that_nobody_reads(http: httpx.AsyncClient) -> None:
    accepted, given_up = anyio.Event(), anyio.Event()
    ends: list[int] = []

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = len(await reader.readuntil(b"\r\n\r\n"))
        accepted.set()
        await given_up.wait()
        try:
            while data := await reader.read(1_000_000):
                size += len(data)
        finally:
            ends.append(size)

    async with peer(stall) as url:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: http.post(url, content=bytes(50_000_000), timeout=None))
            await accepted.wait()
            group.cancel_scope.cancel()
        with pytest.raises(httpx.WriteTimeout):
            await http.post(url, content=bytes(50_000_000), timeout=httpx.Timeout(5, write=0.05))
        given_up.set()
        with anyio.fail_after(5):
            while len(ends) < 2:
                await anyio.sleep(0.001)
    assert max(ends) < 50_000_000


async def test_a_large_upload_arrives(up: Upstream, http: httpx.AsyncClient) -> None:
    content = "x" * 3_000_000
    await http.post(f"{up.base_url}/chat/completions", json=ask("t1", content))
    body = up.requests[0].body
    assert body is not None
    assert body["messages"][0]["content"] == content


async def test_a_request_without_a_body(up: Upstream, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{up.base_url}/models")
    assert answer.json()["object"] == "list"


async def test_a_slow_reader_holds_the_server_up(up: Upstream, http: httpx.AsyncClient) -> None:
    expected = await whole(http, up.base_url, "t30000")
    async with http.stream("POST", f"{up.base_url}/chat/completions", json=ask("t30000")) as response:
        await up.wait(lambda: any(c._paused for c in up.connections))
        assert len(up.finished) == 1
        assert await response.aread() == expected


@pytest.mark.parametrize("cut", [1, 2, 7])
async def test_reads_may_end_anywhere(http: httpx.AsyncClient, cut: int) -> None:
    pieces = ["data: ä\n\n".encode(), b"x" * 300, b"\r\n0\r\n\r\n", b"end"]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"transfer-encoding: chunked\r\n\r\n" + framed

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for i in range(0, len(data), cut):
            writer.write(data[i : i + cut])
            await asyncio.sleep(0)
        await writer.drain()

    async with peer(drip) as url:
        assert (await http.get(url)).content == b"".join(pieces)


@pytest.mark.parametrize("framing", [b"connection: close\r\n", b"content-length: 3\r\nconnection: close\r\n"])
async def test_an_answer_that_ends_with_its_connection(http: httpx.AsyncClient, framing: bytes) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + framing + b"\r\nabc")

    async with peer(close) as url:
        for _ in range(2):
            assert (await http.get(url)).content == b"abc"


@pytest.mark.parametrize(
    ("sent", "reset", "error"),
    [
        (b"", False, httpx.RemoteProtocolError),
        (b"", True, httpx.ReadError),
        (HEAD + b"content-length: 9\r\n\r\nabc", False, httpx.RemoteProtocolError),
        (HEAD + b"content-length: 9\r\n\r\nabc", True, httpx.ReadError),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", False, httpx.RemoteProtocolError),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", False, httpx.RemoteProtocolError),
        (b"SSH-2.0-server\r\n\r\n", False, httpx.RemoteProtocolError),
    ],
)
async def test_what_breaks_an_answer(
    http: httpx.AsyncClient, sent: bytes, reset: bool, error: type[httpx.HTTPError]
) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()
        if reset:
            await reader.readuntil(b"got it")
            linger = b"\x01\0\0\0\0\0\0\0"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def body() -> AsyncIterator[bytes]:
        yield b"got it"

    async with peer(break_off) as url:
        with pytest.raises(error) as caught:
            await http.post(url, content=body())
    assert type(caught.value) is error
    assert str(caught.value.request.url) == url


async def test_an_early_refusal_of_a_large_upload_is_read(http: httpx.AsyncClient) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
        await writer.drain()
        writer.write_eof()
        while await reader.read(65_536):
            pass

    async with peer(refuse) as url:
        answer = await http.post(url, content=bytes(20_000_000))
    assert (answer.status_code, answer.content) == (413, b"big")


async def test_timeouts_have_their_names(up: Upstream, http: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await http.post(f"{up.base_url}/chat/completions", json=ask("t5-slowstart60"), timeout=0.05)
    await up.wait(lambda: not up.connections)
    with socket.socket() as silent:  # the kernel takes the connection, nobody answers the TLS handshake
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(httpx.ConnectTimeout):
            await http.get(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout=httpx.Timeout(5, connect=0.05))


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://{port}.invalid/", "http://a..b/"])
async def test_a_server_that_is_not_there(http: httpx.AsyncClient, url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(httpx.ConnectError):
            await http.get(url.format(port=free.getsockname()[1]))


async def test_other_schemes_are_refused(http: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await http.get("ftp://127.0.0.1/")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    place = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command.split(), *names, "-keyout", place, "-out", place.with_suffix(".crt")], check=True, capture_output=True
    )
    place.write_bytes(place.read_bytes() + place.with_suffix(".crt").read_bytes())
    return place


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[Upstream]:
    """The scripted upstream behind TLS, its address under the certificate's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    up = Upstream()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(up), "127.0.0.1", 0, ssl=context)
    up.base_url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield up
        for connection in list(up.connections):
            connection.transport.abort()
        await up.wait(lambda: not up.connections)


async def test_tls(certificate: Path, secure: Upstream) -> None:
    trusted = ssl.create_default_context(cafile=certificate)
    async with httpx.AsyncClient(transport=DirectTransport(trusted), timeout=5) as http:
        bodies = {await whole(http, secure.base_url, "t20000") for _ in range(3)}
        assert len(bodies) == 1
        assert bodies.pop().endswith(b"data: [DONE]\n\n")
        assert len(secure.connections) == 1
        async with anyio.create_task_group() as group:
            group.start_soon(whole, http, secure.base_url, "t50-stall5")
            await secure.wait_request(4)
            await secure.wait(lambda: any(c.sent == 5 for c in secure.connections))
            group.cancel_scope.cancel()
        await secure.wait_close()
        await whole(http, secure.base_url, "t5")
        (connection,) = secure.connections
        connection.transport.close()
        await secure.wait(lambda: not secure.connections)
        await whole(http, secure.base_url, "t5")


async def test_a_certificate_that_nobody_vouches_for(secure: Upstream) -> None:
    async with http_client() as http:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(f"{secure.base_url}/models")


async def test_a_certificate_of_another_name(certificate: Path, secure: Upstream) -> None:
    trusted = ssl.create_default_context(cafile=certificate)
    async with httpx.AsyncClient(transport=DirectTransport(trusted)) as http:
        with pytest.raises(httpx.ConnectError, match="not valid for '127"):
            await http.get(f"{secure.base_url.replace('localhost', '127.0.0.1')}/models")


async def test_tls_to_a_server_without_it(up: Upstream, http: httpx.AsyncClient) -> None:
    with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
        await http.get(up.base_url.replace("http:", "https:"), timeout=0.5)
    await up.wait(lambda: not up.connections)


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
async def test_a_proxy_that_the_environment_names(up: Upstream, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, up.root_url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with http_client() as http:
        assert await whole(http, "http://upstream.invalid/v1", "t3")
    assert up.requests[0].headers["host"] == "upstream.invalid"
