"""Every other provider, through litellm. The only module here that imports it (2.5 s, 166 MB): generate workers do.

1. Retries are ours (`retry.py`), so litellm's and the clients' it makes are off. Its telemetry, callbacks and log
   lines are off too: they can hold what people wrote.
2. litellm makes up a finish reason for a stream that was cut, and counts tokens itself where the provider did not.
   Both are taken only where the provider really sent them, so that the two paths agree.
3. litellm ends an answer when a hundred chunks in a row are equal. Tables, progress bars and padding do that rightly,
   and runaway output is stopped by the caps on output: the limit is lifted.
4. Closing goes through litellm's ``aclose``, in `retry.py`'s shielded, bounded scope; the transport is httpx
   throughout (litellm's own choice is aiohttp), so that it closes at once whatever the provider.
5. Lines of a stream are split by httpx's line iterator for most providers, which also splits at U+2028, U+2029 and
   U+0085: an answer with one of these in it lost text or broke off. `line_stream.py` escapes them on the way in.
   A provider that never ends a line, or an error's text, is cut off after 8 MB: the libraries would take it all.
6. Tools are the caller's: litellm's gateway for tool servers is skipped (it also needs a package that litellm does
   not install, so that every call with tools failed).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from typing import Any

import httpx

# litellm reads this while it is imported; without it the import fetches a table of prices from the network.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # noqa: TID251 - see above

import litellm
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler
from litellm.llms.openai.common_utils import BaseOpenAILLM

from app.errors import Unavailable, UpstreamFailed
from app.llm import failures
from app.llm.chat_stream import STOP_REASONS, ToolCalls
from app.llm.convert import chat_body, dialect_of
from app.llm.line_stream import bound_responses, keep_lines_whole
from app.llm.types import (
    Call,
    Delta,
    Door,
    Request,
    Signature,
    Stop,
    Target,
    Text,
    Thinking,
    Usage,
)

CONNECT_S = 10.0
READ_S = 86_400.0
"""The caller's idle limit is the real one; litellm replaces "none" by ten minutes."""
EMBED_S = 20.0
_TIMEOUT = httpx.Timeout(connect=CONNECT_S, read=READ_S, write=60.0, pool=CONNECT_S)
_PREFIXES = re.compile(r"^(?:(?:litellm\.)?\w*(?:Error|Exception|Timeout)\s*(?::|-)\s*)+")
_HALVES = re.compile("[\ud800-\udfff]")
_ADVICE = re.compile(r"\.? Handle with `litellm\.\w+`\.?")

_NO_PROVIDER = "LLM Provider NOT provided"
"""How litellm begins its advice on a provider that it does not know."""


def door() -> Door:
    """The door to litellm, which it sets up for this process."""
    _set_up()
    without_usage: set[str] = set()

    def start(target: Target, request: Request) -> Call:
        return LitellmCall(target, request, without_usage)

    return start


def _set_up() -> None:
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.disable_streaming_logging = True
    litellm.disable_aiohttp_transport = True
    litellm.callbacks = []
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # At lower levels these log request bodies, and addresses that hold a key with some providers.
    for name in ("openai", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    keep_lines_whole(AsyncHTTPHandler)
    bound_responses(AsyncHTTPHandler, "create_client")
    bound_responses(BaseOpenAILLM, "_get_async_http_client")


async def warm() -> None:
    """Make litellm load what it puts off until its first call (0.7 s), so that no message waits for it."""
    _set_up()
    asked = [{"role": "user", "content": "x"}]
    with warnings.catch_warnings():
        # litellm's own types make pydantic warn, once, when they are built: nothing a reader could act on.
        warnings.filterwarnings("ignore", message="Items? .* using the `ReadOnly` qualifier", category=UserWarning)
        stream = await litellm.acompletion(
            model="openai/none", messages=asked, stream=True, mock_response="x", api_key="none"
        )
        async for _ in stream:
            pass


async def close() -> None:
    """Close the HTTP clients litellm keeps. Once, when the process ends."""
    await GLOBAL_LOGGING_WORKER.stop()
    await litellm.close_litellm_async_clients()


async def embed(model: str, texts: list[str], *, api_base: str = "", api_key: str = "") -> list[list[float]]:
    """One vector for each text, by an embedding model. Raises Unavailable: what it was asked for can wait."""
    _set_up()
    where = {k: v for k, v in {"api_base": api_base, "api_key": api_key}.items() if v}
    try:
        answer = await litellm.aembedding(
            model=model, input=texts, timeout=EMBED_S, max_retries=0, encoding_format="float", **where
        )
        rows = sorted(answer.data, key=lambda row: int(row["index"]))
        vectors = [[float(value) for value in row["embedding"]] for row in rows]
    except Exception as error:  # litellm's errors share no base class
        raise Unavailable(f"the embedding model {model} does not answer: {type(error).__name__}") from error
    if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) != 1:
        raise Unavailable(f"the embedding model {model} gave {len(vectors)} vectors for {len(texts)} texts")
    return vectors


def cost_usd(model: str, usage: Usage) -> float | None:
    """What the tokens cost by litellm's table of prices; None for a model that is not in it."""
    try:
        prompt, completion = litellm.cost_per_token(
            model=model, prompt_tokens=usage.input_tokens, completion_tokens=usage.output_tokens
        )
    except Exception:  # noqa: BLE001 - litellm raises a bare Exception for models it has no price for
        return None
    return (prompt + completion) or None


class LitellmCall:
    """One streamed call; see `app.llm.types.Call`."""

    def __init__(self, target: Target, request: Request, without_usage: set[str]) -> None:
        self._target = target
        self._request = request
        self._without_usage = without_usage
        self._stream: Any = None
        self._tools = ToolCalls()
        self._stop: str | None = None
        self._ended = False

    async def read(self) -> list[Delta] | None:
        try:
            if self._stream is None and not self._ended:
                self._stream = await self._connect()
            while not self._ended:
                deltas = self._deltas(await anext(self._stream)) if self._stream else []
                if deltas:
                    return deltas
        except StopAsyncIteration:
            self._ended = True
            return self._finish()
        except UpstreamFailed:
            raise
        except Exception as error:  # litellm's errors share no base class
            self._ended = True
            raise self._translated(error) from error
        return None

    async def aclose(self) -> None:
        self._ended = True
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _connect(self) -> Any:
        """As on the direct path, an upstream that refuses to be asked for usage is asked again without."""
        upstream = f"{self._target.api_base} {self._target.model}"
        if upstream not in self._without_usage:
            try:
                return await litellm.acompletion(**self._arguments(), stream_options={"include_usage": True})
            except litellm.BadRequestError as error:
                if "stream_options" not in str(error):
                    raise
                self._without_usage.add(upstream)
        return await litellm.acompletion(**self._arguments())

    def _arguments(self) -> dict[str, Any]:
        body = chat_body(self._target, self._request, dialect_of(self._target))
        fixed: dict[str, Any] = {
            "stream": True,
            "drop_params": True,
            "num_retries": 0,
            "max_retries": 0,
            "_skip_mcp_handler": True,
            "timeout": _TIMEOUT,
        }
        if "thinking" in body:
            # its table of models is older than some models: what was asked for by name is not dropped
            fixed["allowed_openai_params"] = ["thinking"]
        where = {"api_base": self._target.api_base, "api_key": self._target.api_key}
        return fixed | {k: v for k, v in where.items() if v} | body

    def _deltas(self, chunk: Any) -> list[Delta]:
        out: list[Delta] = []
        for choice in chunk.choices[:1]:
            self._delta(choice.delta, out)
            if choice.finish_reason:
                self._stop = choice.finish_reason
        return out

    def _delta(self, delta: Any, out: list[Delta]) -> None:
        thought = getattr(delta, "reasoning_content", None)
        if thought:
            out.append(Thinking(_sound(thought)))
        blocks = getattr(delta, "thinking_blocks", None) or ()
        out.extend(Signature(block["signature"]) for block in blocks if block.get("signature"))
        if delta.content:
            out.append(Text(_sound(delta.content)))
        for call in delta.tool_calls or ():
            self._tools.add(
                call.index,
                call.id,
                call.function.name,
                call.function.arguments and _sound(call.function.arguments),
                out,
            )

    def _finish(self) -> list[Delta]:
        if self._stream.received_finish_reason is None or self._stop is None:
            raise failures.truncated()
        reason = STOP_REASONS.get(self._stop, "end_turn")
        if reason == "end_turn" and self._tools:
            reason = "tool_use"
        usage = self._usage()
        return [Stop(reason), *([usage] if usage else [])]

    def _usage(self) -> Usage | None:
        """The provider's own count: litellm keeps it on the chunk it came with, and estimates only on a later one."""
        for chunk in reversed(self._stream.chunks):
            given = getattr(chunk, "usage", None)
            if given is not None:
                usage = Usage(given.prompt_tokens or 0, given.completion_tokens or 0)
                usage.cost_usd = cost_usd(self._target.model, usage)
                return usage
        return None

    def _translated(self, error: Exception) -> UpstreamFailed:
        error = getattr(error, "original_exception", None) or error
        broken = _is_broken(error)
        if broken and self._stream is not None:
            return failures.truncated()
        text = str(getattr(error, "message", "") or error)
        if _NO_PROVIDER in text:
            return failures.unknown_provider(self._target.model.partition("/")[0])
        status = getattr(error, "status_code", None)
        headers = getattr(getattr(error, "response", None), "headers", None)
        return failures.failed(
            _message(text),
            status=status if isinstance(status, int) else 500,
            type="timeout_error" if isinstance(error, litellm.Timeout) else "",
            retryable=True if broken else None,
            retry_after=failures.retry_after(headers.get("retry-after")) if headers is not None else None,
            secret=self._target.api_key,
        )


def _sound(text: str) -> str:
    """The text with U+FFFD for lone halves of surrogate pairs, which some providers send and UTF-8 cannot hold."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def _is_broken(error: BaseException | None) -> bool:
    """Whether a connection that failed is behind this error."""
    while error is not None:
        if isinstance(error, httpx.TransportError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _message(text: str) -> str:
    """The provider's own words out of litellm's: it adds its class names, and often the whole JSON body."""
    text = _ADVICE.sub("", _PREFIXES.sub("", text))
    start, end = text.find("{"), text.rfind("}")
    return failures.message_in(text[start : end + 1].encode())[0] if 0 <= start < end else text
