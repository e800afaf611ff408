"""Health and metrics: for load balancers, supervisors and Prometheus. Nobody is asked for a key.

Live means that this process answers. Ready means that a message sent now would be answered: both engines serve and a
worker of each kind it needs is alive; every part says why it is not.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from app.chat.backlog import Backlog
from app.errors import Unavailable
from app.telemetry import Metrics
from app.web.answers import Live, Ready
from app.web.reply import json_reply, now

PING_S = 2.0
NEEDED = ("generate",)
"""Kinds of workers without which no message would be answered."""

NOT_READY = {503: ("Not ready; the reasons.", Ready)}

Ping = Callable[[], Awaitable[float]]


class Probes(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. Each raises Unavailable with the reason when its engine does not serve."""

    redis: Ping
    postgresql: Ping
    workers: Callable[[], Awaitable[dict[str, int]]]
    backlog: Callable[[], Awaitable[Backlog]]
    draining: Callable[[], bool]


def health_handlers(probes: Probes, metrics: Metrics) -> list[HTTPRouteHandler]:
    """The Litestar handlers."""

    @get("/health/live", opt={"public": True, "answer": Live}, operation_id="live", tags=["operations"])
    async def live() -> dict[str, str]:
        """This process answers."""
        return {"status": "live", "timestamp": now()}

    @get(
        "/health/ready",
        opt={"public": True, "answer": Ready, "also": NOT_READY},
        operation_id="ready",
        tags=["operations"],
    )
    async def ready() -> Response[bytes]:
        """Whether a message sent now would be answered; 503 and the reasons when not."""
        report = await readiness(probes)
        return json_reply(report, status=200 if report["status"] == "ready" else 503)

    @get("/metrics", opt={"public": True}, operation_id="metrics", tags=["operations"], media_type="text/plain")
    async def exposition() -> Response[bytes]:
        """Metrics in Prometheus's text format."""
        await _gather_backlog(probes, metrics)
        text = await anyio.to_thread.run_sync(metrics.exposition)
        return Response(text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    return [live, ready, exposition]


async def readiness(probes: Probes) -> dict[str, Any]:
    """The body of `/health/ready`; ``status`` is ``ready`` or ``not_ready``."""
    checks: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}

    async def engine(name: str, ping: Ping) -> None:
        checks[name] = await _check(ping)

    async def workers() -> None:
        try:
            with anyio.fail_after(PING_S):
                counts.update(await probes.workers())
        except (Unavailable, TimeoutError):
            checks["workers"] = _no("cannot be asked for: Redis does not answer")
            return
        absent = [kind for kind in NEEDED if not counts.get(kind)]
        checks["workers"] = _no(f"no {absent[0]} worker is alive") if absent else {"ok": True}

    async with anyio.create_task_group() as group:
        group.start_soon(engine, "redis", probes.redis)
        group.start_soon(engine, "postgresql", probes.postgresql)
        group.start_soon(workers)
    if probes.draining():
        checks["process"] = _no("is stopping")
    reasons = [f"{name}: {check['reason']}" for name, check in sorted(checks.items()) if not check["ok"]]
    return {
        "status": "not_ready" if reasons else "ready",
        "reasons": reasons,
        "checks": {name: checks[name] for name in sorted(checks)},
        "workers": counts,
        "timestamp": now(),
    }


async def _check(ping: Ping) -> dict[str, Any]:
    began = time.monotonic()
    try:
        with anyio.fail_after(PING_S):
            await ping()
    except Unavailable as error:
        return _no(error.message)
    except TimeoutError:
        return _no(f"no answer within {PING_S:g} s")
    return {"ok": True, "ms": round((time.monotonic() - began) * 1000, 1)}


def _no(reason: str) -> dict[str, Any]:
    return {"ok": False, "reason": reason}


async def _gather_backlog(probes: Probes, metrics: Metrics) -> None:
    """Sets the gauges of what waits; with Redis away they keep their last value."""
    try:
        with anyio.fail_after(PING_S):
            backlog, counts = await probes.backlog(), await probes.workers()
    except (Unavailable, TimeoutError):
        return
    metrics.queue_depth.set(backlog.waiting)
    metrics.queue_age.set(backlog.oldest_s)
    metrics.dead_letters.set(backlog.dead_letters)
    for kind, count in counts.items():
        metrics.workers.labels(kind).set(count)
