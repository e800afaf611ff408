"""P3, P4, P5, P9: what a token costs, and how soon the first one comes."""

from __future__ import annotations

from collections.abc import Callable

import redis

from app.redis_keys import Keys
from tests.bench.callers import First, first_tokens, in_process, steady_first_tokens
from tests.bench.crowd import Plan, Report, check, observe_all
from tests.bench.harness import KEY, Cpu, Gateway, Upstream, asked_by, gateway
from tests.bench.options import Options
from tests.bench.report import Figure, median, number, percentile
from tests.bench.wire import observe
from tests.upstream_plans import text

AT_ONCE = 20
PACED = "slowstart1-t500-p50"
PACED_TOKENS = 500
FAST = "slowstart1-t5000"
FAST_TOKENS = 5_000
SLOW_START_NS = 1_000_000_000
FIRST = "t3-stamp"
LASTING = "t50-p50-stamp"
"""A second long: twenty of these at any moment are twenty answers of 50 tokens a second."""
STORED = "t500-p50"


def p3(upstream: Upstream, options: Options) -> list[Figure]:
    """CPU of everything of ours for 20 messages of 50 tokens a second, one observer each."""
    each: list[float] = []
    parts: list[Cpu] = []
    wrong = ""
    tokens = AT_ONCE * PACED_TOKENS
    with gateway(upstream, [PACED]) as run:
        for _ in range(options.runs):
            before = run.cpu()
            report = _observed_messages(run, PACED)
            used = run.cpu().since(before)
            wrong = wrong or _texts_wrong(report, PACED)
            each.append(used.total * 1e6 / tokens)
            parts.append(used)
    middle = parts[each.index(sorted(each)[len(each) // 2])]
    name = f"CPU of all processes, {AT_ONCE} messages × 50 tokens/s"
    note = f"from the first POST to the last end; {middle.each(tokens)}"
    return [Figure(measure="P3", name=name, value=median(each), unit="µs/token", bar=200, wrong=wrong, note=note)]


def p4(upstream: Upstream, options: Options) -> list[Figure]:
    """20 messages as fast as they go, one observer each."""
    rates: list[float] = []
    wrong, note = "", ""
    tokens = AT_ONCE * FAST_TOKENS
    with gateway(upstream, [FAST]) as run:
        for _ in range(options.runs):
            upstream.reset()
            before = run.cpu()
            report = _observed_messages(run, FAST)
            used = run.cpu().since(before)
            bodies = [check(seen.body) for seen in report.seen]
            wrong = wrong or _texts_wrong(report, FAST)
            began = min(request["at_ns"] for request in upstream.log()["requests"]) + SLOW_START_NS
            rates.append(tokens / ((report.last_ns - began) / 1e9))
            events = sum(body.events for body in bodies)
            note = f"from the upstream's first token; {tokens:,} tokens in {events:,} events; µs: {used.each(tokens)}"
    name = f"{AT_ONCE} messages unpaced, one observer each"
    figure = Figure(measure="P4", name=name, value=median(rates), unit="tokens/s", bar=15_000, wrong=wrong, note=note)
    figure.at_least = True
    return [figure]


def _observed_messages(run: Gateway, model: str) -> Report:
    """20 messages of ``model``, each with one observer, followed to their end."""
    caller = run.caller()
    ids = [caller.start(model) for _ in range(AT_ONCE)]
    caller.close()
    requests = [observe(message_id, KEY) for message_id in ids]
    mark = "event: content_block_delta"
    return observe_all(Plan(address=run.address, requests=requests, keep=True, mark=mark)).report()


def _texts_wrong(report: Report, model: str) -> str:
    expected = text(model)
    for seen in report.seen:
        body = check(seen.body)
        if body.wrong or body.text != expected:
            return body.wrong or f"a text of {len(body.text)} characters where {len(expected)} belong"
    return ""


def p5(upstream: Upstream, options: Options) -> list[Figure]:
    """Initiate to first delta at the observer, less what the upstream itself took."""
    figures = []
    few = options.quick
    # A burst has no bar: the median of 20 is the tenth, and what this client and the upstream themselves take of two
    # cores for ten messages, a millisecond each, already fills the 6 ms.
    # Messages are remembered only in the last two: before, it is the core alone.
    one, many = (1, 30 if few else 100), (AT_ONCE, 3 if few else 10)
    kinds: list[tuple[str, Callable[..., list[First]], str, tuple[int, int], bool, bool]] = [
        ("1 at once", first_tokens, FIRST, one, False, True),
        (f"{AT_ONCE} at once", steady_first_tokens, LASTING, many, False, True),
        (f"{AT_ONCE} posted in one instant", first_tokens, FIRST, many, False, False),
        ("1 at once, each remembered", first_tokens, FIRST, one, True, True),
        (f"{AT_ONCE} at once, each remembered", steady_first_tokens, LASTING, many, True, True),
    ]
    with gateway(upstream, [FIRST, LASTING]) as run:
        in_process(first_tokens, run.address, KEY, FIRST, 1, 5)  # connections and code are warm after these
        for name, ask, model, size, remembered, held in kinds:
            added: list[float] = []
            answers: list[float] = []
            for _ in range(options.runs):
                upstream.reset()
                firsts: list[First] = in_process(ask, run.address, KEY, model, *size, remembered)
                added += added_ms(upstream, firsts)
                answers += [(f.answered_ns - f.posted_ns) / 1e6 for f in firsts]
            note = f"{len(added)} samples; initiate answered after {number(median(answers))} ms"
            title = f"added time to first token, {name}"
            middle, worst = (6.0, 25.0) if held else (None, None)
            figures += [
                Figure(measure="P5", name=f"{title}, p50", value=median(added), unit="ms", bar=middle, note=note),
                Figure(measure="P5", name=f"{title}, p99", value=percentile(added, 0.99), unit="ms", bar=worst),
            ]
    return figures


def added_ms(upstream: Upstream, firsts: list[First]) -> list[float]:
    """For each message the milliseconds from its initiate to its first delta, less what the upstream itself took."""
    asked = {asked_by(request): request["at_ns"] for request in upstream.log()["requests"]}
    return [(f.first_ns - f.posted_ns - (f.stamp_ns - asked[f.text])) / 1e6 for f in firsts]


def p9(upstream: Upstream, options: Options) -> list[Figure]:
    """Redis memory of a finished answer of 500 tokens: its log and its hash."""
    sizes: list[float] = []
    entries = 0
    with gateway(upstream, [STORED]) as run, redis.Redis.from_url(run.engines()["redis_url"]) as client:
        caller = run.caller()
        for _ in range(options.runs):
            message_id = caller.start(STORED)
            caller.wait_status(message_id, lambda status: status["status"] == "completed", 30)
            keys = [key for kind in "lm" for key in client.scan_iter(f"{Keys('rp').prefix}:*:{kind}:*/{message_id}")]
            sizes.append(sum(int(client.memory_usage(key, samples=0) or 0) for key in keys) / 1024)
            entries = int(client.xlen(next(key for key in keys if client.type(key) == b"stream")))
    note = f"{entries} events, finished; MEMORY USAGE of log and hash"
    return [
        Figure(
            measure="P9", name="Redis bytes of a 500-token answer", value=median(sizes), unit="KB", bar=16, note=note
        )
    ]
