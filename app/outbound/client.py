"""Requests bounded in bytes and time, and the checks of what they are made of."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.lowlevel
import httpcore
import httpx
import msgspec

from app.errors import OutboundFailed
from app.outbound.network import CONNECT_S, CheckedBackend, Names, Resolver
from app.outbound.unpack import PIECE, Damaged, Packed
from app.version import version

CLOSE_S = 1.0
KEPT_CONNECTIONS = 20
KEPT_S = 5.0
LONGEST_URL = 4_096
MOST_REDIRECTS = 5

_PLAIN = frozenset({"accept", "accept-language", "user-agent"})
_OURS = frozenset({"accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "te", "trailer"})
_OURS |= {"proxy-authorization", "proxy-connection", "transfer-encoding", "upgrade"}
_HOST = re.compile(rb"[0-9A-Za-z._:-]{1,255}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]{0,8192}")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. ``seconds`` is the time from asking to its last byte; ``cut``: the body had more."""

    status: int
    headers: httpx.Headers
    body: bytes
    seconds: float
    cut: bool = False


@asynccontextmanager
async def open_outbound(
    *,
    allow_private: bool,
    connect_s: float = CONNECT_S,
    ssl_context: ssl.SSLContext | None = None,
    resolve: Resolver | None = None,
    network: httpcore.AsyncNetworkBackend | None = None,
) -> AsyncIterator[Outbound]:
    """A client for as long as the block. ``resolve`` gives a name's addresses, ``network`` connects to one of them."""
    backend = CheckedBackend(allow_private, resolve or Names().resolve, network or httpcore.AnyIOBackend())
    async with httpcore.AsyncConnectionPool(
        ssl_context=ssl_context or httpx.create_ssl_context(),
        max_connections=None,
        max_keepalive_connections=KEPT_CONNECTIONS,
        keepalive_expiry=KEPT_S,
        network_backend=backend,
    ) as pool:
        yield Outbound(pool, connect_s)


def checked_url(url: str) -> httpx.URL:
    """What can be told of an address without resolving its name. Raises OutboundFailed ADDRESS_REFUSED."""
    try:
        parsed = httpx.URL(url) if len(url) <= LONGEST_URL else None
    except (httpx.InvalidURL, UnicodeError, ValueError):
        parsed = None
    if parsed is not None and parsed.scheme not in ("http", "https"):
        raise OutboundFailed("ADDRESS_REFUSED", "The address begins with neither http:// nor https://.")
    if parsed is None or not _HOST.fullmatch(parsed.raw_host) or not 0 < (parsed.port or 80) < 65_536:
        raise OutboundFailed("ADDRESS_REFUSED", "The address is not a URL.")
    if parsed.userinfo:
        raise OutboundFailed("ADDRESS_REFUSED", "The address holds a user or password. Send them as a header.")
    return parsed


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """A caller's headers, their names in lower case. Raises OutboundFailed HEADER_REFUSED."""
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise OutboundFailed("HEADER_REFUSED", "A header has a name or a value that no header may have.")
        if name.lower() in _OURS:
            raise OutboundFailed("HEADER_REFUSED", f"The header {name} cannot be set.")
        checked[name.lower()] = value.strip()
    return checked


class Outbound:
    """Requests bounded in bytes and time. Raises OutboundFailed."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, connect_s: float) -> None:
        self._pool = pool
        self._user_agent = f"reprise/{version()}"
        self._connect_s = connect_s

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        most_bytes: int,
        seconds: float,
        redirects: int = MOST_REDIRECTS,
    ) -> AsyncIterator[Answer]:
        """An answer of any status, its body still to be read. Only GET and HEAD are redirected."""
        deadline = anyio.current_time() + seconds
        at = checked_url(url)
        given = checked_headers(headers or {})
        followed, most = 0, redirects if method in ("GET", "HEAD") else 0
        while True:
            response = await self._send(method, at, given, content, deadline)
            try:
                onward = _onward(at, response) if most else None
                if onward is None:
                    yield Answer(at, response, deadline, most_bytes)
                    return
            finally:
                with anyio.move_on_after(CLOSE_S, shield=True):
                    await response.aclose()
            if followed == most:
                raise OutboundFailed(
                    "HTTP_STATUS", f"{_origin(at)} redirects more than {most} times.", http_status=response.status
                )
            followed += 1
            if _place(onward) != _place(at):
                given = {name: value for name, value in given.items() if name in _PLAIN}
            at = onward

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        most_bytes: int,
        seconds: float,
        redirects: int = MOST_REDIRECTS,
        cut: bool = False,
    ) -> Fetched:
        """A whole answer of any status. With ``cut`` a body beyond ``most_bytes`` ends there, else it is TOO_LARGE."""
        began = time.monotonic()
        pieces: list[bytes] = []
        was_cut = False
        async with self.open(
            method,
            url,
            headers=headers,
            content=content,
            most_bytes=most_bytes,
            seconds=seconds,
            redirects=redirects,
        ) as answer:
            try:
                async for piece in answer:
                    pieces.append(piece)  # noqa: PERF401 - what was read before a failure is kept
            except OutboundFailed as failure:
                if not cut or failure.code != "TOO_LARGE":
                    raise
                was_cut = True
        return Fetched(
            status=answer.status,
            headers=answer.headers,
            body=b"".join(pieces),
            seconds=time.monotonic() - began,
            cut=was_cut,
        )

    async def _send(
        self, method: str, at: httpx.URL, given: dict[str, str], content: bytes, deadline: float
    ) -> httpcore.Response:
        headers = {
            "host": at.netloc.decode("ascii"),
            "user-agent": self._user_agent,
            "accept": "*/*",
            "accept-encoding": "gzip",
        } | given
        if content or method not in ("GET", "HEAD"):
            headers["content-length"] = str(len(content))
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=at.raw_scheme, host=at.raw_host, port=at.port, target=at.raw_path),
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()],
            content=content,
            extensions={"timeout": {"connect": self._connect_s}},
        )
        with _bounded(at, deadline):
            return await self._pool.handle_async_request(request)


class Answer:
    """Status, headers and the unpacked body, piece by piece. ``url`` is where it came from, redirects followed."""

    def __init__(self, at: httpx.URL, response: httpcore.Response, deadline: float, most_bytes: int) -> None:
        self.url = str(at)
        self.status: int = response.status
        self.headers = httpx.Headers(response.headers)
        self._at = at
        self._response = response
        self._deadline = deadline
        self._most_bytes = most_bytes

    def expect_ok(self) -> None:
        """Raises OutboundFailed HTTP_STATUS for a status that is no success."""
        if not 200 <= self.status < 300:
            raise OutboundFailed(
                "HTTP_STATUS",
                f"{_origin(self._at)} answered with status {self.status}.",
                http_status=self.status,
                retryable=self.status in _LATER,
            )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._pieces(Packed(self.headers.get("content-encoding", ""))):
                yield piece
        except Damaged as error:
            raise _unreachable(self._at, str(error)) from error

    async def _pieces(self, packed: Packed) -> AsyncIterator[bytes]:
        received = given = 0
        stream = aiter(self._response.aiter_stream())
        while True:
            with _bounded(self._at, self._deadline):
                raw = await anext(stream, None)
            if raw is None:
                break
            received += len(raw)
            for piece in packed.unpacked(raw):
                left = self._most_bytes - given
                if len(piece) > left:
                    yield piece[:left]
                    raise self._too_large()
                given += len(piece)
                yield piece
                with _bounded(self._at, self._deadline):
                    await anyio.lowlevel.checkpoint()
            if received > self._most_bytes + PIECE:  # packed bytes that unpack to nothing
                raise self._too_large()
        packed.end()

    def _too_large(self) -> OutboundFailed:
        return OutboundFailed(
            "TOO_LARGE", f"What {_origin(self._at)} answered is larger than {self._most_bytes:,} bytes."
        )


def _onward(at: httpx.URL, response: httpcore.Response) -> httpx.URL | None:
    """Where a redirect leads; None for an answer that is none."""
    location = httpx.Headers(response.headers).get("location")
    if response.status not in _REDIRECTS or location is None:
        return None
    try:
        onward = str(at.join(location))
    except (httpx.InvalidURL, UnicodeError, ValueError):
        onward = ""
    return checked_url(onward)


def _place(at: httpx.URL) -> tuple[str, str, int]:
    return at.scheme, at.host, at.port or (443 if at.scheme == "https" else 80)


def _origin(at: httpx.URL) -> str:
    return f"{at.scheme}://{at.netloc.decode('ascii')}"


def _unreachable(at: httpx.URL, reason: str) -> OutboundFailed:
    return OutboundFailed("UNREACHABLE", f"{_origin(at)} cannot be asked: {reason[:200]}.", retryable=True)


@contextmanager
def _bounded(at: httpx.URL, deadline: float) -> Iterator[None]:
    """One await within the time that is left, its errors as ours."""
    try:
        with anyio.fail_after(max(0.0, deadline - anyio.current_time())):
            yield
    except TimeoutError as error:
        raise OutboundFailed("TOO_SLOW", f"{_origin(at)} took too long to answer.", retryable=True) from error
    except httpcore.TimeoutException as error:
        raise _unreachable(at, str(error) or "it did not take the connection in time") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise _unreachable(at, str(error) or "the connection broke") from error
