"""A process with many observers on plain sockets and one epoll: what each received, whether it was whole, and when.

Every observer's body is checked by length and CRC-32 against one that is kept whole and read strictly (`check`), so
that a thousand cost little more than their bytes. The client so takes about 5 µs a read.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import re
import select
import socket
import time
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from tests.bench.harness import allow_many_files
from tests.bench.wire import Stream

_READ = 262_144
_SOURCES = 8
_DELTA = re.compile(rb'"(?:text|content)":"([\d ]+)"')
_TERMINAL = ("message_stop", "message_cancelled", "error")


class Plan(msgspec.Struct, kw_only=True):
    """What a crowd does. One connection for each request, or for each of ``repeat`` copies of a single one."""

    address: tuple[str, int]
    requests: list[bytes]
    repeat: int = 1
    keep: bool = False
    """Keep every body whole, with times; otherwise the first one's only."""
    stamps: bool = False
    """Measure the delay of each stamped token."""
    mark: str = ""
    """A regular expression: when the part of a stream came that completes its first match. Of bodies kept whole."""
    end: bytes = b""
    """Ends an observer whose server does not: it is done when this was received."""
    pending: int = 0
    """Most requests under way whose answer has not begun; 0: all are sent at once."""
    hold: bool = False
    """Connect, then wait for "go" before the requests are sent."""
    limit_s: float = 120.0


class Seen(msgspec.Struct):
    """What one observer saw."""

    status: int
    length: int
    crc: int
    pings: int
    ended: bool
    first_ns: int
    last_ns: int
    mark_ns: int = 0
    body: bytes = b""


class Report(msgspec.Struct):
    seen: list[Seen]
    delays_ns: Any
    """array of the delays of all stamped tokens, at all observers."""
    began_ns: int
    cpu_s: float

    @property
    def body(self) -> bytes:
        """The body that was kept as the measure for all."""
        return self.seen[0].body

    @property
    def same(self) -> int:
        """Observers that received exactly what the first one did, to the end."""
        first = self.seen[0]
        return sum(1 for s in self.seen if s.ended and (s.length, s.crc) == (first.length, first.crc))

    @property
    def first_ns(self) -> int:
        return min(s.first_ns for s in self.seen if s.first_ns)

    @property
    def last_ns(self) -> int:
        return max(s.last_ns for s in self.seen)


class Crowd:
    """The process, as seen from the benchmark: `opened` when all are connected, `attached` when all were answered."""

    def __init__(self, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, plan), daemon=True)
        self._process.start()
        theirs.close()

    def _next(self, kind: str) -> Any:
        try:
            found, value = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the observers' process ended") from None
        if found != kind:
            raise RuntimeError(f"observers: {value}")
        return value

    def opened(self) -> None:
        self._next("opened")

    def go(self) -> None:
        self._pipe.send("go")

    def attached(self) -> int:
        """Waits until every observer has the head of its answer; how many were answered 200."""
        return int(self._next("attached"))

    def report(self) -> Report:
        """Waits for the end of all streams."""
        report: Report = self._next("report")
        self._process.join()
        return report

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def observe_all(plan: Plan) -> Crowd:
    """A crowd that is connected and whose every observer has been answered."""
    crowd = Crowd(plan)
    crowd.opened()
    crowd.attached()
    return crowd


def _main(pipe: Connection, plan: Plan) -> None:
    gc.disable()  # a measuring client does not stop to tidy up
    try:
        allow_many_files()
        _Crowd(pipe, plan).run()
    except BrokenPipeError:
        return  # the measure has ended without us
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        raise


class _Crowd:
    def __init__(self, pipe: Connection, plan: Plan) -> None:
        self.pipe = pipe
        self.plan = plan
        requests = [request for request in plan.requests for _ in range(plan.repeat)]
        keep_all = plan.keep or plan.stamps
        self.requests = requests
        self.streams = [Stream(keep_all or i == 0, plan.stamps) for i in range(len(requests))]
        self.sockets: list[socket.socket] = []
        self.epoll = select.epoll()
        self.by_fd: dict[int, int] = {}
        self.unsent: Iterator[tuple[socket.socket, bytes]] = iter(())

    def run(self) -> None:
        self._connect()
        self.pipe.send(("opened", None))
        if self.plan.hold:
            self.pipe.recv()
        began = time.monotonic_ns()
        self.unsent = iter(zip(self.sockets, self.requests, strict=True))
        self._send(self.plan.pending or len(self.requests))
        self._read_until_end()
        self.pipe.send(("report", self._report(began)))

    def _connect(self) -> None:
        for i in range(len(self.requests)):
            # several source addresses: one alone has too few ports for the largest crowds
            source = (f"127.0.0.{2 + i % _SOURCES}", 0)
            sock = socket.create_connection(self.plan.address, timeout=20, source_address=source)
            self.sockets.append(sock)
            self.by_fd[sock.fileno()] = i
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def _send(self, count: int) -> None:
        for sock, request in islice(self.unsent, count):
            sock.sendall(request)

    def _read_until_end(self) -> None:
        streams, sockets, by_fd = self.streams, self.sockets, self.by_fd
        # read into one buffer, then copied: as `recv` gives it each piece is a mapping of its own, and costs as much
        buffer = memoryview(bytearray(_READ))
        clock, limit = time.monotonic_ns, time.monotonic() + self.plan.limit_s
        end = self.plan.end
        heads = open_ = len(streams)
        while open_:
            if time.monotonic() > limit:
                return
            for fd, _ in self.epoll.poll(1.0, 1024):
                i = by_fd[fd]
                stream = streams[i]
                try:
                    data = bytes(buffer[: sockets[i].recv_into(buffer)])
                except ConnectionResetError:
                    data = b""
                if data:
                    waiting = not stream.status
                    stream.feed(data, clock())
                    if waiting and stream.status:
                        heads -= 1
                        self._send(1)
                        if not heads:
                            self.pipe.send(("attached", sum(1 for s in streams if s.status == 200)))
                    if end and end in data[-400:]:
                        stream.ended = True
                if not data or stream.ended:
                    self.epoll.unregister(fd)
                    open_ -= 1

    def _report(self, began: int) -> Report:
        mark = re.compile(self.plan.mark.encode()) if self.plan.mark else None
        delays = array("q")
        seen = []
        for i, stream in enumerate(self.streams):
            stream.settle()
            one = Seen(
                stream.status, stream.length, stream.crc, stream.pings, stream.ended, stream.first_ns, stream.last_ns
            )
            pieces = stream.pieces or []
            if i == 0 or self.plan.keep:
                one.body = b"".join(piece for _, piece in pieces)
            if mark is not None:
                one.mark_ns = time_of(mark, pieces)
            if self.plan.stamps:
                delays.extend(delays_of(pieces))
            seen.append(one)
        return Report(seen, delays, began, time.process_time())


def time_of(mark: re.Pattern[bytes], pieces: Sequence[tuple[int, bytes]]) -> int:
    """When the piece came that completes the first match; 0 without one."""
    found = mark.search(b"".join(piece for _, piece in pieces))
    if found is None:
        return 0
    length = 0
    for now, piece in pieces:
        length += len(piece)
        if length >= found.end():
            return now
    return 0


def delays_of(pieces: Sequence[tuple[int, bytes]]) -> list[int]:
    """Nanoseconds from each token's stamp to the piece that completed its frame."""
    delays = []
    rest = b""
    for now, piece in pieces:
        data = rest + piece
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            rest = data
            continue
        rest = data[cut:]
        for match in _DELTA.finditer(data, 0, cut):
            delays += [now - int(stamp) for stamp in match[1].split()]
    return delays


class Body(msgspec.Struct):
    """A whole body, read strictly."""

    events: int
    text: str
    wrong: str
    """What is wrong with it; empty when nothing is."""


def check(body: bytes) -> Body:
    """Reads a native stream: ``seq`` dense from 1 (a restart begins its own), ids equal, one terminal event, last."""
    wrong: list[str] = []
    texts: list[str] = []
    expected, count, kind = 1, 0, ""
    for block in body.split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and line[:1] != b":")
        if b"data" not in fields:
            continue
        data = json.loads(fields[b"data"])
        if kind in _TERMINAL:
            wrong.append(f"{data['type']} after {kind}")
        kind = data["type"]
        if kind == "gap":
            wrong.append("gap")
            continue
        if kind == "message_restart":
            expected = data["seq"]
            texts.clear()
        if data["seq"] != expected or int(fields[b"id"]) != expected:
            wrong.append(f"seq {data['seq']} where {expected} belongs")
        expected = data["seq"] + 1
        count += 1
        if kind == "content_block_delta":
            texts.append(data["delta"].get("text", ""))
    if kind not in _TERMINAL:
        wrong.append(f"ends with {kind or 'nothing'}")
    return Body(count, "".join(texts), "; ".join(wrong[:3]))
