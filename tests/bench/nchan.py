"""The fan-out of P1 by nginx's nchan module, for comparison in the same run; None where it is not installed.

One nginx worker, every message kept for those that fall behind, one publisher on one keep-alive connection, the same
observers. Debian has it as ``libnginx-mod-nchan``.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.bench.callers import in_process
from tests.bench.crowd import Plan, observe_all
from tests.bench.harness import cpu_seconds, free_port, temporary_directory, wait_until
from tests.bench.wire import Caller, get, split_answer

_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/libexec/nginx", "/usr/lib/nginx")
_END = b"the end of it"
_CONFIG = """\
load_module {module};
worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    nchan_shared_memory_size 256M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        keepalive_requests 1000000;
        location = /live {{ return 204; }}
        location = /publish {{
            nchan_publisher; nchan_channel_id bench;
            nchan_message_buffer_length 20000; nchan_message_timeout 10m;
        }}
        location = /observe {{ nchan_subscriber eventsource; nchan_channel_id bench; }}
    }}
}}
"""


class Fanned(msgspec.Struct):
    """One fan-out: deliveries a second, CPU microseconds of the server's process a delivery, what went wrong."""

    rate: float
    cpu_us: float
    events: int
    wrong: str = ""


def nchan_module() -> Path | None:
    """Where the module is, if nginx and it are installed."""
    if shutil.which("nginx") is None:
        return None
    found = (Path(place) / "ngx_nchan_module.so" for place in _MODULES)
    return next((path for path in found if path.exists()), None)


def measure_nchan(observers: int, events: int, rate: float, payload: bytes) -> Fanned | None:
    """``events`` messages of ``payload`` published at ``rate`` a second to ``observers``; None without nchan."""
    module = nchan_module()
    if module is None:
        return None
    with _nginx(module) as (address, worker):
        request = get("/observe", "", "text/event-stream")
        crowd = observe_all(Plan(address=address, requests=[request], repeat=observers, end=_END, mark="data: "))
        before = cpu_seconds(worker)
        in_process(publish, address, events, rate, payload)
        report = crowd.report()
        cpu = cpu_seconds(worker) - before
    count = report.body.count(b"data: ")
    deliveries = count * report.same
    wrong = "" if report.same == observers and count == events else f"{report.same} whole, {count} events"
    seconds = (report.last_ns - report.seen[0].mark_ns) / 1e9
    return Fanned(deliveries / seconds, cpu * 1e6 / max(1, deliveries), count, wrong)


@contextmanager
def _nginx(module: Path) -> Iterator[tuple[tuple[str, int], int]]:
    """A running nginx: its address and the process id of its one worker."""
    with temporary_directory() as directory:
        port = free_port()
        config = directory / "nginx.conf"
        config.write_text(_CONFIG.format(module=module, directory=directory, port=port))
        command = ["nginx", "-p", str(directory), "-c", str(config)]
        process = subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr)
        try:
            wait_until(lambda: _live(("127.0.0.1", port)), 10, "nginx")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield ("127.0.0.1", port), int(children[0])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _live(address: tuple[str, int]) -> bool:
    try:
        caller = Caller(address)
    except OSError:
        return False
    try:
        return caller.ask(get("/live", ""))[0] == 204
    finally:
        caller.close()


def publish(address: tuple[str, int], events: int, rate: float, payload: bytes) -> None:
    """Publishes at ``rate`` a second, the last message being `_END`; late ones go at once."""
    caller = Caller(address, limit_s=120)
    pending = b""
    began = time.monotonic()
    answered = 0
    for i in range(events):
        delay = began + i / rate - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        body = _END if i == events - 1 else payload
        head = f"POST /publish HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        caller.socket.sendall(head + body)
        while answered <= i:
            pending += caller.socket.recv(65_536)
            while (found := split_answer(pending)) is not None:
                pending = pending[found[2] :]
                answered += 1
    caller.close()
