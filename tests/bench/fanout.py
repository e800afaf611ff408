"""P1, P2, P8, P10: one message and many observers."""

from __future__ import annotations

import time

from tests.bench.crowd import Crowd, Plan, Report, check, observe_all
from tests.bench.harness import KEY, Gateway, Upstream, cpu_seconds, gateway, memory_bytes
from tests.bench.nchan import Fanned, measure_nchan
from tests.bench.options import Options
from tests.bench.report import Figure, median, number, percentile
from tests.bench.wire import observe, post

DELTA = "event: content_block_delta"
FAN_OUT = "slowstart5-t3000-p1000"
FAN_OUT_TOKENS = 3_000
FAN_OUT_OBSERVERS = 1_000
NCHAN_USUAL = 145_000
PACED = "slowstart2-t500-p50-stamp"
PACED_TOKENS = 500
HOP = "t100-p50-stamp"
PACED_OBSERVERS = 200
REPLAYED = "t2000-p400"
REPLAYERS = 200
IDLE = "t2-stall1"
IDLE_OBSERVERS = 10_000
IDLE_QUICK = 2_000
IDLE_MESSAGES = 20
IDLE_HOLD_S = 20.0
IDLE_PENDING = 100
# A content_block_delta of an ordinary token, as long as ours: what nchan is given to fan out.
PAYLOAD = b'{"type":"content_block_delta","seq":1234,"index":0,"delta":{"type":"text_delta","text":" quick"}}'


def p1(upstream: Upstream, options: Options) -> list[Figure]:
    """Fan-out of 1,000 events a second to 1,000 observers, ours and nchan's in turn."""
    ours: list[Fanned] = []
    theirs: list[Fanned] = []
    with gateway(upstream, [FAN_OUT]) as run:
        for _ in range(options.runs):
            ours.append(_fan_out(run))
            if (nchan := measure_nchan(FAN_OUT_OBSERVERS, FAN_OUT_TOKENS, 1000, PAYLOAD)) is not None:
                theirs.append(nchan)
    rate = median([one.rate for one in ours])
    wrong = next((one.wrong for one in ours if one.wrong), "")
    note = f"{number(median([one.events for one in ours]))} events of {FAN_OUT_TOKENS:,} tokens"
    name = f"fan-out to {FAN_OUT_OBSERVERS:,} observers"
    cpu = median([one.cpu_us for one in ours])
    figures = [
        Figure(measure="P1", name=name, value=rate, unit="events/s", wrong=wrong, note=note),
        Figure(measure="P1", name="CPU of the web process", value=cpu, unit="µs/event", bar=4.0, wrong=wrong),
    ]
    if not theirs:
        figures[0].bar, figures[0].at_least = NCHAN_USUAL, True
        figures[0].note += "; nchan is not installed, the bar is its usual figure"
        return figures
    nchan_rate, nchan_cpu = median([one.rate for one in theirs]), median([one.cpu_us for one in theirs])
    lost = next((f", {one.wrong}" for one in theirs if one.wrong), "")
    beside = f"nchan in the same run: {number(nchan_rate)} events/s, {number(nchan_cpu)} µs an event{lost}"
    ratio = Figure(measure="P1", name=f"{name}, ÷ nchan's", value=rate / nchan_rate, unit="×", wrong=wrong, note=beside)
    ratio.bar, ratio.at_least = 1.0, True
    return [ratio, *figures]


def _fan_out(run: Gateway) -> Fanned:
    web, caller = run.pid("web"), run.caller()
    request = observe(caller.start(FAN_OUT), KEY)
    caller.close()
    crowd = observe_all(Plan(address=run.address, requests=[request], repeat=FAN_OUT_OBSERVERS, mark=DELTA))
    before = cpu_seconds(web)
    report = crowd.report()
    cpu = cpu_seconds(web) - before
    body = check(report.body)
    deliveries = body.events * report.same
    seconds = (report.last_ns - report.seen[0].mark_ns) / 1e9
    return Fanned(deliveries / seconds, cpu * 1e6 / max(1, deliveries), body.events, whole(report, body.wrong))


def whole(report: Report, wrong: str = "") -> str:
    """What is wrong with what a crowd got; empty when every observer got everything once and in order."""
    if wrong or report.same == len(report.seen):
        return wrong
    return f"only {report.same} of {len(report.seen)} observers got everything"


def p2(upstream: Upstream, options: Options) -> list[Figure]:
    """Added latency of one paced message at 200 observers: what a client waits longer than who asks the upstream."""
    delays: list[float] = []
    wrong, cpu = "", []
    own = _upstreams_own(upstream)
    with gateway(upstream, [PACED]) as run:
        for _ in range(options.runs):
            caller = run.caller()
            request = observe(caller.start(PACED), KEY)
            caller.close()
            before = run.cpu()
            crowd = observe_all(Plan(address=run.address, requests=[request], repeat=PACED_OBSERVERS, stamps=True))
            report = crowd.report()
            cpu.append(run.cpu().since(before)["web"] * 1e6 / (PACED_TOKENS * PACED_OBSERVERS))
            delays += [delay / 1e6 - own for delay in report.delays_ns]
            wrong = wrong or whole(report, check(report.body).wrong)
            if len(report.delays_ns) != PACED_TOKENS * PACED_OBSERVERS:
                wrong = wrong or f"{len(report.delays_ns):,} tokens received of {PACED_TOKENS * PACED_OBSERVERS:,}"
    note = f"less the {number(own)} ms from the upstream's write to a receipt; web {number(median(cpu))} µs an event"
    name = f"added latency, 50 tokens/s, {PACED_OBSERVERS} observers"
    return [
        Figure(measure="P2", name=f"{name}, p50", value=median(delays), unit="ms", bar=4, wrong=wrong, note=note),
        Figure(measure="P2", name=f"{name}, p99", value=percentile(delays, 0.99), unit="ms", bar=12, wrong=wrong),
    ]


def _upstreams_own(upstream: Upstream) -> float:
    """Milliseconds from the upstream's writing of a token to its receipt by a client of this bench, the median."""
    body = {"model": HOP, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    plan = Plan(address=upstream.address, requests=[post("/v1/chat/completions", "", body)], stamps=True)
    return median([delay / 1e6 for delay in observe_all(plan).report().delays_ns])


def p8(upstream: Upstream, options: Options) -> list[Figure]:
    """200 clients at once replay a finished message of 2,000 events."""
    rates: list[float] = []
    wrong, events = "", 0
    with gateway(upstream, [REPLAYED]) as run:
        caller = run.caller()
        message_id = caller.start(REPLAYED)
        caller.wait_status(message_id, lambda status: status["status"] == "completed", 30)
        caller.close()
        for _ in range(options.runs + 2):
            plan = Plan(address=run.address, requests=[observe(message_id, KEY)], repeat=REPLAYERS, hold=True)
            crowd = Crowd(plan)
            crowd.opened()
            crowd.go()
            crowd.attached()
            report = crowd.report()
            body = check(report.body)
            wrong, events = wrong or whole(report, body.wrong), body.events
            rates.append(events * report.same / ((report.last_ns - report.began_ns) / 1e9))
    note = f"{events:,} events each, requests sent at once on open connections"
    rate = Figure(measure="P8", name=f"replay to {REPLAYERS} clients", value=median(rates), unit="events/s", note=note)
    rate.bar, rate.at_least, rate.wrong = 300_000, True, wrong
    return [rate]


def p10(upstream: Upstream, options: Options) -> list[Figure]:
    """10,000 observers of messages that stay silent, on one web process: how many are held, and their memory."""
    wanted = IDLE_QUICK if options.quick else IDLE_OBSERVERS
    with gateway(upstream, [IDLE]) as run:
        web, caller = run.pid("web"), run.caller()
        ids = [caller.start(IDLE, idle_seconds=600) for _ in range(IDLE_MESSAGES)]
        warm = observe_all(Plan(address=run.address, requests=[observe(ids[0], KEY)], limit_s=1.0))
        warm.report()
        memory = memory_bytes(web)
        requests = [observe(ids[i % IDLE_MESSAGES], KEY) for i in range(wanted)]
        crowd = Crowd(Plan(address=run.address, requests=requests, pending=IDLE_PENDING))
        crowd.opened()
        began = time.monotonic()
        attached = crowd.attached()
        took = time.monotonic() - began
        cpu = cpu_seconds(web)
        time.sleep(IDLE_HOLD_S)
        idle = (cpu_seconds(web) - cpu) / IDLE_HOLD_S
        each = (memory_bytes(web) - memory) / wanted / 1024
        caller = run.caller()  # the first one has been idle for longer than the server allows
        for message_id in ids:
            caller.cancel(message_id)
        report = crowd.report()
    held = sum(1 for seen in report.seen if seen.status == 200 and seen.ended and seen.pings)
    note = f"attached in {took:.1f} s; after {IDLE_HOLD_S:.0f} s each had been pinged and got its message's end"
    wrong = "" if attached == wanted else f"only {attached:,} were answered 200"
    figure = Figure(measure="P10", name="idle observers held", value=held, unit="observers", bar=wanted, note=note)
    figure.at_least, figure.wrong = True, wrong
    memory_note = f"proportional set size; {idle * 100:.1f} % of a core while idle"
    return [
        figure,
        Figure(measure="P10", name="memory of one", value=each, unit="KB", bar=30, note=memory_note, wrong=wrong),
    ]
