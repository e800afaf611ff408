"""HTTP/1.1 by hand, several times cheaper than the server it measures: requests as bytes, answers read in place."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any
from zlib import crc32

PATH = "/v1/messages/async"
_PING = b": ping\n\n"
LAST_CHUNK = b"0\r\n\r\n"
_LONGEST_HEAD = 16_384


def get(target: str, key: str, accept: str = "*/*") -> bytes:
    """A GET request that keeps the connection open."""
    return f"GET {target} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\nAccept: {accept}\r\n\r\n".encode()


def observe(message_id: str, key: str) -> bytes:
    """The request that observes a message from its start."""
    return get(f"{PATH}/{message_id}/stream", key, "text/event-stream")


def post(target: str, key: str, body: Any = None) -> bytes:
    """A POST request with a JSON body, or an empty one."""
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"POST {target} HTTP/1.1\r\nHost: bench\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def initiate(model: str, key: str, text: str = "hello", **fields: Any) -> bytes:
    """The request that starts a message; ``text`` is what the upstream's log knows it by."""
    return post(PATH, key, {"model": model, "messages": [{"role": "user", "content": text}], **fields})


def split_answer(data: bytes | bytearray) -> tuple[int, bytes, int] | None:
    """Status, body and total length of one answer with a Content-Length; None while it is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(data[:end]).lower()
    at = head.find(b"content-length:")
    size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    if len(data) < end + 4 + size:
        return None
    return int(head[9:12]), bytes(data[end + 4 : end + 4 + size]), end + 4 + size


class Caller:
    """One keep-alive connection for single calls, blocking."""

    def __init__(self, address: tuple[str, int], key: str = "", limit_s: float = 30.0) -> None:
        self.key = key
        self.socket = socket.create_connection(address, timeout=limit_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[int, Any]:
        """Status and decoded JSON body (None when empty) of one call."""
        self.socket.sendall(request)
        data = b""
        while (found := split_answer(data)) is None:
            more = self.socket.recv(1_048_576)
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        status, body, _ = found
        return status, json.loads(body) if body else None

    def start(self, model: str, text: str = "hello", **fields: Any) -> str:
        """Starts a message and gives its id."""
        status, body = self.ask(initiate(model, self.key, text, **fields))
        if status != 200:
            raise RuntimeError(f"initiate was answered {status}: {body}")
        return str(body["message_id"])

    def status(self, message_id: str) -> dict[str, Any]:
        status, body = self.ask(get(f"{PATH}/{message_id}/status", self.key))
        if status != 200:
            raise RuntimeError(f"status was answered {status}: {body}")
        return dict(body)

    def cancel(self, message_id: str) -> int:
        """The HTTP status of a cancel: 200, or 409 when the message had ended."""
        return self.ask(post(f"{PATH}/{message_id}/cancel", self.key))[0]

    def wait_status(self, message_id: str, fact: Callable[[dict[str, Any]], bool], limit_s: float) -> dict[str, Any]:
        """The first status of which ``fact`` holds. Raises TimeoutError."""
        end = time.monotonic() + limit_s
        while not fact(found := self.status(message_id)):
            if time.monotonic() > end:
                raise TimeoutError(f"message {message_id} stayed {found['status']}")
            time.sleep(0.01)
        return found

    def close(self) -> None:
        self.socket.close()


class Stream:
    """The answer to one observe request, read as it arrives: length and checksum of its body without pings.

    ``pieces`` keeps the body with the time each part came, where asked for. ``later`` only notes what came until
    `settle`: a client that reads each piece at once takes as much of the machine as the server that wrote it.
    """

    __slots__ = ("_chunked", "_head", "_left", "_line", "_raw", "_skip", "crc", "ended", "first_ns", "last_ns",
                 "length", "pieces", "pings", "status")  # fmt: skip

    def __init__(self, keep: bool = False, later: bool = False) -> None:
        self.status = 0
        self._raw: list[tuple[int, bytes]] | None = [] if later else None
        self.ended = False
        self.length = self.crc = self.pings = 0
        self.first_ns = self.last_ns = 0
        self.pieces: list[tuple[int, bytes]] | None = [] if keep else None
        self._head = b""
        self._line = b""
        self._left = self._skip = 0
        self._chunked = True

    def feed(self, data: bytes, now: int) -> None:
        """Takes what one read of the socket gave."""
        if self._raw is not None and self.status:
            self._raw.append((now, data))
            self.ended = data.endswith(LAST_CHUNK)
            return
        if not self.status:
            data = self._read_head(data)
        if not self._chunked:
            self._body(data, now)
            return
        at, size = 0, len(data)
        while at < size and not self.ended:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._skip = 2
                self._body(piece, now)
            elif self._skip:
                taken = min(self._skip, size - at)
                self._skip -= taken
                at += taken
            else:
                end = data.find(b"\n", at)
                if end < 0:
                    self._line += data[at:]
                    return
                line, self._line = self._line + data[at:end], b""
                at = end + 1
                self._left = int(line, 16)
                self.ended = not self._left

    def settle(self) -> None:
        """Reads what was only noted."""
        raw, self._raw, self.ended = self._raw, None, self.ended and not self._raw
        for now, data in raw or []:
            self.feed(data, now)

    def _read_head(self, data: bytes) -> bytes:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > _LONGEST_HEAD:
                raise ValueError("the head of the answer has no end")
            return b""
        head, rest = self._head[:end].lower(), self._head[end + 4 :]
        self.status = int(head[9:12])
        self._chunked = b"transfer-encoding: chunked" in head
        self._head = b""
        return rest

    def _body(self, piece: bytes, now: int) -> None:
        if piece == _PING:
            self.pings += 1
            return
        if not piece:
            return
        self.length += len(piece)
        self.crc = crc32(piece, self.crc)
        self.first_ns = self.first_ns or now
        self.last_ns = now
        if self.pieces is not None:
            self.pieces.append((now, piece))
