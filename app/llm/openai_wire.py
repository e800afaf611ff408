"""The direct path: any OpenAI-compatible upstream over httpx, about a fortieth of the wrapper's cost per token.

1. `stream_options.include_usage` is asked for; an upstream that refuses it with a 400 naming it is asked again
   without, and remembered.
2. Connecting may take 10 s; reading has no limit of its own: silence is the caller's business (its idle limit).
3. The caller closes; closing a response that is not complete closes its socket. A complete one goes back to the pool,
   for which the bytes after ``[DONE]`` are read, 50 ms at most.
4. The HTTP client belongs to the caller, who gives it as many connections as it runs calls.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from urllib.parse import urlsplit

import anyio
import httpx
import msgspec

from app.errors import UpstreamFailed
from app.llm import failures
from app.llm.chat_stream import ChatStream
from app.llm.convert import chat_body, dialect_of
from app.llm.sse import MAX_EVENT_BYTES
from app.llm.types import Call, Delta, Door, Request, Target, Usage

CONNECT_S = 10.0
WRITE_S = 60.0
ERROR_BODY_S = 5.0
ERROR_BODY_BYTES = 65_536
DRAIN_S = 0.05
OPENAI_HOST = "api.openai.com"
_TIMEOUT = httpx.Timeout(connect=CONNECT_S, read=None, write=WRITE_S, pool=CONNECT_S)


Price = Callable[[str, Usage], float | None]
"""US dollars for a model's tokens, None where unknown: `litellm_door.cost_usd` is one."""


def door(http: httpx.AsyncClient, price: Price | None = None) -> Door:
    """Calls over ``http``; what it learns about upstreams (see 1) lives as long as the door.

    ``price`` is asked for OpenAI's own service only: another server's models may share a name, not a price.
    """
    without_usage: set[str] = set()

    def start(target: Target, request: Request) -> Call:
        is_openai = urlsplit(target.api_base).hostname == OPENAI_HOST
        return DirectCall(http, target, request, without_usage, price if is_openai else None)

    return start


class DirectCall:
    """One streamed call; see `app.llm.types.Call`."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        target: Target,
        request: Request,
        without_usage: set[str],
        price: Price | None = None,
    ) -> None:
        self._http = http
        self._target = target
        self._request = request
        self._without_usage = without_usage
        self._price = price
        self._stream = ChatStream(request.stop_sequences, target.api_key)
        self._response: httpx.Response | None = None
        self._reads: AsyncIterator[bytes] | None = None
        self._ended = False

    async def read(self) -> list[Delta] | None:
        if self._reads is None and not self._ended:
            deltas = await self._connect()
            if deltas:
                return deltas
        while not self._ended:
            deltas = await self._next()
            if deltas:
                return deltas if self._price is None else self._priced(deltas, self._price)
        return None

    async def aclose(self) -> None:
        self._ended = True
        response, self._response = self._response, None
        reads, self._reads = self._reads, None
        if response is not None:
            await response.aclose()
        if isinstance(reads, AsyncGenerator):
            await reads.aclose()

    async def _next(self) -> list[Delta]:
        assert self._reads is not None
        if self._stream.done:
            with anyio.move_on_after(DRAIN_S):
                await self._drain()
            self._ended = True
            return self._stream.finish()
        try:
            data = await anext(self._reads)
        except StopAsyncIteration:
            self._ended = True
            return self._stream.finish()
        except httpx.HTTPError as error:
            self._ended = True
            if self._stream.complete:
                return self._stream.finish()
            raise self._broken(error) from error
        return self._stream.feed(data)

    def _priced(self, deltas: list[Delta], price: Price) -> list[Delta]:
        for delta in deltas:
            if isinstance(delta, Usage) and delta.cost_usd is None:
                delta.cost_usd = price(self._target.model, delta)
        return deltas

    async def _drain(self) -> None:
        try:
            async for _ in self._reads or ():  # type: ignore[union-attr]
                pass
        except httpx.HTTPError:
            return

    async def _connect(self) -> list[Delta]:
        upstream = f"{self._target.api_base} {self._target.model}"
        with_usage = upstream not in self._without_usage
        response = await self._send(with_usage)
        if response.status_code == 400 and with_usage:
            body = await self._error_body(response)
            if b"stream_options" not in body:
                raise self._refused(response, body)
            self._without_usage.add(upstream)
            await self._close_response()
            response = await self._send(with_usage=False)
        if response.status_code != 200:
            raise self._refused(response, await self._error_body(response))
        if response.headers.get("content-type", "").startswith("application/json"):
            self._ended = True
            return self._stream.whole(await self._whole_body(response))
        encoded = "content-encoding" in response.headers
        assert isinstance(response.stream, httpx.AsyncByteStream)
        # the stream itself: `aiter_raw` would add a layer to every token
        self._reads = response.aiter_bytes() if encoded else aiter(response.stream)
        return []

    async def _send(self, with_usage: bool) -> httpx.Response:
        body = chat_body(self._target, self._request, dialect_of(self._target))
        body["stream"] = True
        if with_usage:
            body.setdefault("stream_options", {"include_usage": True})
        headers = {"content-type": "application/json", "accept": "text/event-stream", "accept-encoding": "identity"}
        if self._target.api_key:
            headers["authorization"] = f"Bearer {self._target.api_key}"
        headers |= body.pop("extra_headers", {})
        body |= body.pop("extra_body", {})
        url = self._target.api_base.rstrip("/")
        url = url if url.endswith("/chat/completions") else f"{url}/chat/completions"
        content = msgspec.json.encode(body)
        request = self._http.build_request("POST", url, content=content, headers=headers, timeout=_TIMEOUT)
        try:
            self._response = await self._http.send(request, stream=True, follow_redirects=False)
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        return self._response

    async def _close_response(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            await response.aclose()

    async def _error_body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        try:
            with anyio.move_on_after(ERROR_BODY_S):
                async for data in response.aiter_bytes():
                    body += data
                    if len(body) > ERROR_BODY_BYTES:
                        break
        except httpx.HTTPError:
            pass
        return bytes(body)

    async def _whole_body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        try:
            async for data in response.aiter_bytes():
                body += data
                if len(body) > MAX_EVENT_BYTES:
                    raise failures.failed("the upstream sent an answer of more than 8 MB")
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        return bytes(body)

    def _refused(self, response: httpx.Response, body: bytes) -> UpstreamFailed:
        status = response.status_code
        message, _ = failures.message_in(body) if body else ("", 0)
        return failures.failed(
            message or f"the upstream answered {status}",
            status=status,
            retry_after=failures.retry_after(response.headers.get("retry-after")),
            secret=self._target.api_key,
        )

    def _broken(self, error: httpx.HTTPError) -> UpstreamFailed:
        if isinstance(error, httpx.ConnectTimeout):
            return failures.failed("connecting to the upstream took too long", type="timeout_error", retryable=True)
        if isinstance(error, httpx.PoolTimeout):
            return failures.failed("no connection was free", type="overloaded_error", retryable=True)
        if self._reads is not None:
            return failures.truncated()
        message = f"the upstream could not be reached: {type(error).__name__} {error}"
        return failures.failed(message, type="api_error", retryable=True, secret=self._target.api_key)
