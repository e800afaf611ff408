"""Client processes that time calls: messages started and observed to their first token, statuses at a given rate."""

from __future__ import annotations

import json
import multiprocessing
import re
import select
import socket
import threading
import time
from array import array
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from tests.bench.wire import Stream, get, initiate, observe, split_answer

_LIMIT_S = 30.0
_STAMP = re.compile(rb'"text":"(\d+) ')


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns, run in a process of its own. Raises RuntimeError with what it raised."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        well, value = ours.recv()
    except EOFError:
        raise RuntimeError("the client's process ended") from None
    process.join()
    if not well:
        raise RuntimeError(f"client: {value}")
    return value


def _run(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((True, function(*arguments)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
        raise


class First(msgspec.Struct):
    """One message from its POST to its first token at the observer, in monotonic nanoseconds."""

    text: str
    posted_ns: int
    answered_ns: int
    stamp_ns: int
    """When the upstream wrote it."""
    first_ns: int


def first_tokens(
    address: tuple[str, int], key: str, model: str, at_once: int, rounds: int, remembered: bool = False
) -> list[First]:
    """``rounds`` times ``at_once`` messages started together on open connections, each observed as soon as answered.

    Each round is followed to its end before the next begins.
    """
    found: list[First] = []
    for number in range(rounds):
        texts = [f"first {number} {i}" for i in range(at_once)]
        found += _Round(address, key, model, texts, remembered).run()
    return found


def steady_first_tokens(
    address: tuple[str, int], key: str, model: str, under_way: int, rounds: int, remembered: bool = False
) -> list[First]:
    """``under_way`` messages at any moment, each followed by the next as soon as it has ended, ``rounds`` times.

    They begin a little apart, so that no two start together but by chance.
    """
    found: list[First] = []
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            time.sleep(number * 0.023)
            for i in range(rounds):
                found.extend(_Round(address, key, model, [f"steady {number} {i}"], remembered).run())
        except (OSError, RuntimeError) as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(under_way)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


class _Round:
    """Messages of one round: a connection to start each, another to observe it."""

    def __init__(self, address: tuple[str, int], key: str, model: str, texts: list[str], remembered: bool) -> None:
        self.key = key
        self.firsts = [First(text, 0, 0, 0, 0) for text in texts]
        self.requests = [initiate(model, key, text, memory={"store": remembered}) for text in texts]
        self.starting = [_connect(address) for _ in texts]
        self.observing = [_connect(address) for _ in texts]
        self.streams = [Stream(keep=True) for _ in texts]
        self.epoll = select.epoll()
        self.by_fd: dict[int, tuple[int, bool]] = {}
        for i in range(len(texts)):
            for sock, observes in ((self.starting[i], False), (self.observing[i], True)):
                self.by_fd[sock.fileno()] = (i, observes)
                self.epoll.register(sock.fileno(), select.EPOLLIN)

    def run(self) -> list[First]:
        answers = [bytearray() for _ in self.firsts]
        for first, sock, request in zip(self.firsts, self.starting, self.requests, strict=True):
            first.posted_ns = time.monotonic_ns()
            sock.sendall(request)
        limit = time.monotonic() + _LIMIT_S
        open_ = len(self.firsts)
        while open_ and time.monotonic() < limit:
            for fd, _ in self.epoll.poll(1.0):
                i, observes = self.by_fd[fd]
                if not observes:
                    self._answered(i, answers[i])
                elif self._observed(i):
                    self.epoll.unregister(fd)
                    open_ -= 1
        for sock in (*self.starting, *self.observing):
            sock.close()
        self.epoll.close()
        if open_:
            raise TimeoutError(f"{open_} messages did not end")
        return self.firsts

    def _answered(self, i: int, answer: bytearray) -> None:
        answer += self.starting[i].recv(65_536)
        found = split_answer(answer)
        if found is None:
            return
        status, body, _ = found
        if status != 200:
            raise RuntimeError(f"initiate was answered {status}: {body[:300]!r}")
        self.firsts[i].answered_ns = time.monotonic_ns()
        self.observing[i].sendall(observe(json.loads(body)["message_id"], self.key))

    def _observed(self, i: int) -> bool:
        """Whether the stream has ended."""
        stream, first = self.streams[i], self.firsts[i]
        data = self.observing[i].recv(65_536)
        now = time.monotonic_ns()
        stream.feed(data, now)
        if not first.first_ns:
            found = _STAMP.search(b"".join(piece for _, piece in stream.pieces or []))
            if found is not None:
                first.first_ns, first.stamp_ns = now, int(found[1])
        if not data and not stream.ended:
            raise ConnectionError("a stream was cut")
        return stream.ended


def _connect(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address, timeout=_LIMIT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Served(msgspec.Struct):
    """Calls answered: how many, in how many seconds, each one's latency."""

    count: int
    seconds: float
    delays_ns: Any
    client_cpu_s: float
    wrong: int


def statuses(
    address: tuple[str, int], key: str, message_id: str, connections: int, seconds: float, rate: float = 0.0
) -> Served:
    """Status requests on keep-alive connections for ``seconds``: as fast as answered, or ``rate`` a second.

    At a given rate a request's latency counts from the time it was due, so that a server that holds up the client
    is not flattered.
    """
    request = get(f"/v1/messages/async/{message_id}/status", key)
    socks = {sock.fileno(): sock for sock in (_connect(address) for _ in range(connections))}
    epoll = select.epoll()
    for fd in socks:
        epoll.register(fd, select.EPOLLIN)
    idle, since, partial = list(socks), dict.fromkeys(socks, 0), dict.fromkeys(socks, b"")
    delays, wrong, sent = array("q"), 0, 0
    began = time.monotonic_ns()
    end = began + int(seconds * 1e9)
    step = int(1e9 / rate) if rate else 0
    cpu = time.process_time()
    while (now := time.monotonic_ns()) < end:
        while idle and (not step or began + sent * step <= now):
            fd = idle.pop()
            since[fd] = began + sent * step if step else time.monotonic_ns()
            socks[fd].send(request)
            sent += 1
        wait = max(0.0, (began + sent * step - time.monotonic_ns()) / 1e9) if step and idle else 0.05
        for fd, _ in epoll.poll(wait):
            data = partial[fd] + socks[fd].recv(65_536)
            found = split_answer(data)
            if found is None:
                partial[fd] = data
                continue
            partial[fd] = b""
            wrong += found[0] != 200
            delays.append(time.monotonic_ns() - since[fd])
            idle.append(fd)
    took = (time.monotonic_ns() - began) / 1e9
    for sock in socks.values():
        sock.close()
    return Served(len(delays), took, delays, time.process_time() - cpu, wrong)
