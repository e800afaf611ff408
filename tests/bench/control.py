"""P6, P7, P11, P16: stopping, dying, asking, starting."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis

from tests.bench.callers import Served, in_process, statuses
from tests.bench.crowd import Plan, observe_all
from tests.bench.harness import (
    KEY,
    ROOT,
    Gateway,
    Upstream,
    asked_by,
    gateway,
    kill,
    temporary_directory,
    wait_until,
)
from tests.bench.options import Options
from tests.bench.report import Figure, median, number, percentile
from tests.bench.wire import Caller, observe

LONG = "t4000-p50"
AT_ONCE = 20
CANCEL_ROUNDS = 5
KILL_ROUNDS = 3
MARK = "event: (message_restart|error)"
STATUS_S = 4.0
STATUS_BAR = 3_000
STATUS_CONNECTIONS = 16


def p6(upstream: Upstream, options: Options) -> list[Figure]:
    """Cancel in the middle of an answer, to the upstream's closed socket and to the observer's terminal event."""
    closing: list[float] = []
    telling: list[float] = []
    wrong = ""
    with gateway(upstream, [LONG]) as run:
        caller = run.caller()
        for number_ in range(options.runs * (2 if options.quick else CANCEL_ROUNDS)):
            posted, terminal, problem = _cancel_round(run, caller, f"cancel {number_}")
            wrong = wrong or problem
            closed = _closes(upstream)
            telling += [(terminal[text] - at) / 1e6 for text, at in posted.items()]
            closing += [(closed[text] - at) / 1e6 for text, at in posted.items() if text in closed]
    if len(closing) != len(telling):
        wrong = wrong or f"{len(telling) - len(closing)} upstream connections stayed open"
    note = f"{len(telling)} cancels, {AT_ONCE} messages running"
    return [
        Figure(measure="P6", name="cancel to upstream closed, p99", value=percentile(closing, 0.99), unit="ms", bar=25,
               wrong=wrong, note=f"p50 {number(median(closing))}; {note}"),
        Figure(measure="P6", name="cancel to terminal event, p99", value=percentile(telling, 0.99), unit="ms", bar=15,
               wrong=wrong, note=f"p50 {number(median(telling))}"),
    ]  # fmt: skip


def _cancel_round(run: Gateway, caller: Caller, label: str) -> tuple[dict[str, int], dict[str, int], str]:
    """Times of the cancels and of the terminal events by message text, and what went wrong."""
    texts = [f"{label} {i}" for i in range(AT_ONCE)]
    ids = [caller.start(LONG, text) for text in texts]
    requests = [observe(message_id, KEY) for message_id in ids]
    crowd = observe_all(Plan(address=run.address, requests=requests, keep=True, mark="event: message_cancelled"))
    for message_id in ids:
        caller.wait_status(message_id, lambda status: status["metadata"]["tokens_processed"] > 5, 10)
    posted: dict[str, int] = {}
    problem = ""
    for text, message_id in zip(texts, ids, strict=True):
        time.sleep(random.uniform(0.01, 0.03))
        posted[text] = time.monotonic_ns()
        if (status := caller.cancel(message_id)) != 200:
            problem = f"cancel was answered {status}"
    report = crowd.report()
    terminal = {text: seen.mark_ns for text, seen in zip(texts, report.seen, strict=True)}
    if not all(terminal.values()):
        problem = "an observer was not told"
    return posted, terminal, problem


def _closes(upstream: Upstream) -> dict[str, int]:
    """When the upstream saw its client go, by the text the message was started with; waits until none is active."""
    wait_until(lambda: upstream.log()["active"] == 0, 5, "the upstream's connections to be closed")
    log = upstream.log()
    texts = {request["n"]: asked_by(request) for request in log["requests"]}
    return {texts[close["request"]]: close["at_ns"] for close in log["closes"]}


def p7(upstream: Upstream, options: Options) -> list[Figure]:
    """kill -9 of a generate worker in the middle of its answers, to the observers' restart."""
    rounds = options.runs if options.quick else options.runs * KILL_ROUNDS
    supervised: list[float] = []
    alone: list[float] = []
    wrong = ""
    with gateway(upstream, [LONG]) as run:
        for _ in range(rounds):
            times, problem = _kill_round(run, run.pid("generate"), None)
            supervised += times
            wrong = wrong or problem
            wait_until(lambda: len(run.processes().get("generate", [])) == 1, 30, "the worker's successor")
            time.sleep(1.0)
        for _ in range(rounds):
            with _worker(run) as (pid, name):
                times, problem = _kill_round(run, pid, name)
            alone += times
            wrong = wrong or problem
    figures = []
    for name, found in (("outside the supervisor", alone), ("under the supervisor", supervised)):
        if not found:
            figures.append(Figure(measure="P7", name=name, value=0, unit="s", bar=6, wrong="nothing was measured"))
            continue
        note = f"p50 {number(median(found))}; {len(found)} messages in {rounds} kills"
        figures.append(
            Figure(measure="P7", name=f"worker {name} killed to observer told, p99", value=percentile(found, 0.99),
                   unit="s", bar=6, wrong=wrong, note=note)
        )  # fmt: skip
    return figures


def _kill_round(run: Gateway, pid: int, worker: str | None) -> tuple[list[float], str]:
    """Seconds from the kill to each observer's restart, of the messages that ``worker`` ran (None: all of them)."""
    caller = run.caller()
    ids = [caller.start(LONG) for _ in range(AT_ONCE)]
    requests = [observe(message_id, KEY) for message_id in ids]
    crowd = observe_all(Plan(address=run.address, requests=requests, keep=True, mark=MARK))
    for message_id in ids:
        caller.wait_status(message_id, lambda status: status["metadata"]["tokens_processed"] > 5, 15)
    struck = set(ids) if worker is None else _owned(run, worker)
    killed = kill(pid)
    for message_id in struck:
        caller.wait_status(message_id, lambda status: status["metadata"]["attempt"] > 1, 30)
    for message_id in ids:
        caller.cancel(message_id)
    caller.close()
    marks = {message_id: seen.mark_ns for message_id, seen in zip(ids, crowd.report().seen, strict=True)}
    untold = sum(1 for message_id in struck if not marks[message_id])
    times = [(marks[message_id] - killed) / 1e9 for message_id in struck if marks[message_id]]
    return times, f"{untold} observers were not told" if untold else ""


def _owned(run: Gateway, worker: str) -> set[str]:
    """The ids of the messages a worker runs."""
    with redis.Redis.from_url(run.engines()["redis_url"]) as client:
        members = [member for key in client.scan_iter(f"rp:*own:{worker}") for member in client.smembers(key)]
    return {member.decode().rpartition("/")[2] for member in members}


@contextmanager
def _worker(run: Gateway) -> Iterator[tuple[int, str]]:
    """A generate worker that nobody supervises: its process id and its name."""
    environment = run.env | {"REPRISE_LOG_LEVEL": "info", "REPRISE_LOG_FORMAT": "json"}
    environment |= {f"REPRISE_{name.upper()}": value for name, value in run.engines().items()}
    command = [sys.executable, "-m", "app", "work", "generate"]
    log = run.directory / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        wait_until(lambda: b"worker.started" in log.read_bytes(), 30, "the worker")
        line = next(line for line in log.read_text().splitlines() if "worker.started" in line)
        yield process.pid, str(json.loads(line)["worker"])
    finally:
        process.kill()
        process.wait()


def p11(upstream: Upstream, options: Options) -> list[Figure]:
    """Status requests on one web process: the most a second, and the latency at half of what the bar asks for."""
    rates: list[float] = []
    delays: list[float] = []
    delays_half: list[float] = []
    wrong, client, asked = "", 0.0, 0.0
    with gateway(upstream, ["t20"]) as run:
        caller = run.caller()
        message_id = caller.start("t20")
        caller.wait_status(message_id, lambda status: status["status"] == "completed", 10)
        caller.close()
        for _ in range(options.runs):
            most = _statuses(run, message_id, 0.0)
            steady = _statuses(run, message_id, STATUS_BAR / 2)
            half = _statuses(run, message_id, most.count / most.seconds / 2)
            rates.append(most.count / most.seconds)
            delays += [delay / 1e6 for delay in steady.delays_ns]
            delays_half += [delay / 1e6 for delay in half.delays_ns]
            client, asked = most.client_cpu_s / most.count * 1e6, half.count / half.seconds
            if most.wrong or steady.wrong or half.wrong:
                wrong = f"{most.wrong + steady.wrong + half.wrong} answers were not 200"
    note = f"{STATUS_CONNECTIONS} keep-alive connections; the client takes {client:.0f} µs a request"
    rate = Figure(measure="P11", name="status requests", value=median(rates), unit="/s", at_least=True)
    rate.bar, rate.wrong, rate.note = STATUS_BAR, wrong, note
    late, late_half = percentile(delays, 0.99), percentile(delays_half, 0.99)
    note = f"from the time each was due; p50 {number(median(delays))}"
    note_half = f"at {number(asked)}/s; p50 {number(median(delays_half))}"
    return [
        rate,
        Figure(measure="P11", name="at 1,500 a second, p99", value=late, unit="ms", bar=10, wrong=wrong, note=note),
        Figure(measure="P11", name="at half of the most, p99", value=late_half, unit="ms", note=note_half),
    ]


def _statuses(run: Gateway, message_id: str, rate: float) -> Served:
    found: Served = in_process(statuses, run.address, KEY, message_id, STATUS_CONNECTIONS, STATUS_S, rate)
    return found


def p16(upstream: Upstream, options: Options) -> list[Figure]:
    """A second start on the same data directory, everything installed, to the first 200 of `/health/ready`."""
    again: list[float] = []
    with temporary_directory() as directory:
        run = Gateway(upstream, ["t20"], directory)
        try:
            first = run.start()
            for _ in range(options.runs):
                run.stop()
                again.append(run.start())
        finally:
            run.stop()
    note = f"the first start, on an empty data directory, took {number(first)} s"
    return [Figure(measure="P16", name="second start to ready", value=median(again), unit="s", bar=5, note=note)]
