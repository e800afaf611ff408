"""Client processes that time calls: messages started and observed to their first token, statuses at a given rate."""

from __future__ import annotations

import json
import multiprocessing
import re
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from tests.bench.wire import LAST_CHUNK, get, initiate, observe, split_answer

_LIMIT_S = 30.0
_APART_S = 0.023
"""Between the starts of the first messages of a steady load: no two start together but by chance."""
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
    clients = _Clients(address, key, model, remembered)
    for number in range(rounds):
        clients.start(*(f"first {number} {i}" for i in range(at_once)))
        limit = time.monotonic() + _LIMIT_S
        while len(found) < at_once * (number + 1):
            found += clients.poll(1.0)
            if time.monotonic() > limit:
                raise TimeoutError(f"{at_once * (number + 1) - len(found)} messages did not end")
    clients.close()
    return found


def steady_first_tokens(
    address: tuple[str, int], key: str, model: str, under_way: int, rounds: int, remembered: bool = False
) -> list[First]:
    """``under_way`` messages at any moment, each followed by the next as soon as it has ended, ``rounds`` times.

    They begin a little apart, so that no two start together but by chance.
    """
    lanes = [deque(f"steady {number} {i}" for i in range(rounds)) for number in range(under_way)]
    clients = _Clients(address, key, model, remembered)
    began = time.monotonic()
    found: list[First] = []
    waiting = [(began + number * _APART_S, lane) for number, lane in enumerate(lanes)]
    running: dict[str, deque[str]] = {}
    while waiting or running:
        while waiting and waiting[0][0] <= time.monotonic():
            lane = waiting.pop(0)[1]
            running[lane[0]] = lane
            clients.start(lane.popleft())
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 1.0
        for first in clients.poll(pause):
            found.append(first)
            if lane := running.pop(first.text):
                running[lane[0]] = lane
                clients.start(lane.popleft())
        if time.monotonic() - began > _LIMIT_S + 10 * rounds:
            raise TimeoutError(f"{len(running)} messages did not end")
    clients.close()
    return found


class _Clients:
    """Messages under way: a connection to start each, another to observe it, all read in one loop."""

    def __init__(self, address: tuple[str, int], key: str, model: str, remembered: bool) -> None:
        self._address = address
        self._key = key
        self._model = model
        self._memory = {"store": remembered}
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Client] = {}

    def start(self, *texts: str) -> None:
        """Posts a message for each text, on connections that are open by then."""
        clients = [_Client(First(text, 0, 0, 0, 0), _connect(self._address), _connect(self._address)) for text in texts]
        requests = [initiate(self._model, self._key, text, memory=self._memory) for text in texts]
        for client in clients:
            for sock in (client.starting, client.observing):
                self._by_fd[sock.fileno()] = client
                self._epoll.register(sock.fileno(), select.EPOLLIN)
        for client, request in zip(clients, requests, strict=True):
            client.first.posted_ns = time.monotonic_ns()
            client.starting.sendall(request)

    def poll(self, seconds: float) -> list[First]:
        """Reads what has come; those whose stream has ended."""
        ended = []
        for fd, _ in self._epoll.poll(seconds):
            client = self._by_fd[fd]
            if fd == client.starting.fileno():
                client.answered(self._key)
            elif client.observed():
                self._forget(client)
                ended.append(client.first)
        return ended

    def close(self) -> None:
        self._epoll.close()

    def _forget(self, client: _Client) -> None:
        for sock in (client.starting, client.observing):
            self._epoll.unregister(sock.fileno())
            del self._by_fd[sock.fileno()]
            sock.close()


class _Client:
    """One message. Once it has its first token only the stream's end is looked for."""

    def __init__(self, first: First, starting: socket.socket, observing: socket.socket) -> None:
        self.first = first
        self.starting = starting
        self.observing = observing
        self._answer = b""
        self._stream = b""

    def answered(self, key: str) -> None:
        self._answer += self.starting.recv(65_536)
        found = split_answer(self._answer)
        if found is None:
            return
        status, body, _ = found
        if status != 200:
            raise RuntimeError(f"initiate was answered {status}: {body[:300]!r}")
        self.first.answered_ns = time.monotonic_ns()
        self.observing.sendall(observe(json.loads(body)["message_id"], key))

    def observed(self) -> bool:
        """Whether the stream has ended."""
        data = self.observing.recv(65_536)
        if not data:
            raise ConnectionError("a stream was cut")
        if self.first.first_ns:
            self._stream = (self._stream + data)[-len(LAST_CHUNK) :]
        else:
            now = time.monotonic_ns()
            self._stream += data
            found = _STAMP.search(self._stream)
            if found is not None:
                self.first.first_ns, self.first.stamp_ns = now, int(found[1])
        return self._stream.endswith(LAST_CHUNK)


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
