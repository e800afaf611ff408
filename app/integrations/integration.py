"""An integration: its steps, its states, and the status that everybody is told. Pure.

Choices:

1. The percentage is that of the whole: each step has a share of it, by what steps of its kind usually cost. It never
   goes back within a run, and is 100 only when the integration is completed. Retrying begins a new run.
2. The time of the end is computed from what was observed: how fast the percentage moves in the step that the work is
   in. Steps differ too much for the pace of one to tell of the next.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import msgspec

from app.iso import iso

Type = Literal["social", "file", "chat", "api"]
Status = Literal["pending", "processing", "completed", "failed", "cancelled"]
TYPES: tuple[Type, ...] = get_args(Type)
STATUSES: tuple[Status, ...] = get_args(Status)
FINAL = frozenset({"completed", "failed", "cancelled"})

STEPS: dict[str, tuple[str, ...]] = {
    "social": ("authentication", "discovery", "extraction", "processing"),
    "file": ("upload", "parsing", "chunking", "memory_creation"),
    "chat": ("validation", "conversation_detection", "content_extraction", "memory_creation"),
    "api": ("validation", "fetching", "parsing", "memory_creation"),
}
SHARES: dict[str, tuple[int, ...]] = {
    "social": (1, 4, 35, 60),
    "file": (1, 34, 5, 60),
    "chat": (2, 13, 50, 35),
    "api": (1, 14, 15, 70),
}
"""Of the percentage, what each step is good for."""

MOST_SHOWN = 1_000
"""Errors and log lines of one integration that are listed; ``errors_count`` counts all."""


class Progress(msgspec.Struct, kw_only=True):
    """``percentage`` 0 to 100. ``estimated_completion`` is null until there is something to compute it from."""

    percentage: int
    current_step: str
    total_steps: int
    estimated_completion: str | None


class Stats(msgspec.Struct, kw_only=True):
    """``items_total`` grows while items are found. ``processing_time`` in seconds of work."""

    items_processed: int
    items_total: int
    memories_created: int
    errors_count: int
    processing_time: int


class ItemError(msgspec.Struct, kw_only=True):
    """One item that could not be brought; ``item_id`` is null when it was the integration as a whole."""

    error_id: str
    message: str
    code: str
    timestamp: str
    item_id: str | None


class LogLine(msgspec.Struct, kw_only=True):
    timestamp: str
    level: Literal["info", "warning", "error"]
    message: str
    step: str


class StatusBody(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The status, as every route and event gives it. ``errors`` and ``logs`` are left out where they are not wanted."""

    integration_id: str
    type: Type
    platform: str
    status: Status
    progress: Progress
    stats: Stats
    last_activity: str
    created_at: str
    completed_at: str | None
    errors: list[ItemError] | msgspec.UnsetType = msgspec.UNSET
    logs: list[LogLine] | msgspec.UnsetType = msgspec.UNSET


class Failure(msgspec.Struct):
    """Why an integration failed as a whole."""

    code: str
    message: str
    at: str


class Integration(msgspec.Struct, kw_only=True):
    """One as stored. Times are aware, in UTC."""

    id: str
    owner: int
    account: str
    user: str
    type: Type
    platform: str
    name: str | None
    status: Literal["receiving"] | Status
    request: dict[str, Any]
    step: int
    percentage: int
    items_total: int
    items_processed: int
    memories_created: int
    errors_count: int
    worked_ms: int
    failure: Failure | None
    last_seq: int
    estimated_at: datetime | None
    created_at: datetime
    last_activity: datetime
    completed_at: datetime | None

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def step_name(self) -> str:
        return STEPS[self.type][self.step]

    def body(self) -> StatusBody:
        """Its status, without errors and logs."""
        assert self.status != "receiving"
        steps = STEPS[self.type]
        return StatusBody(
            integration_id=self.id,
            type=self.type,
            platform=self.platform,
            status=self.status,
            progress=Progress(
                percentage=self.percentage,
                current_step=self.step_name,
                total_steps=len(steps),
                estimated_completion=None if self.final else stamp(self.estimated_at),
            ),
            stats=Stats(
                items_processed=self.items_processed,
                items_total=self.items_total,
                memories_created=self.memories_created,
                errors_count=self.errors_count,
                processing_time=round(self.worked_ms / 1000),
            ),
            last_activity=iso(self.last_activity),
            created_at=iso(self.created_at),
            completed_at=stamp(self.completed_at),
        )


def stamp(when: datetime | None) -> str | None:
    return None if when is None else iso(when)


def percentage(kind: str, step: int, share: float) -> int:
    """How much of the whole is done when ``share`` (0 to 1) of a step is: 99 at most (choice 1)."""
    shares = SHARES[kind]
    return min(99, int(sum(shares[:step]) + shares[step] * min(1.0, max(0.0, share))))


class Pace:
    """Observes how fast a step comes on, and says when all will be over (choice 2)."""

    LEAST_S = 0.5

    def __init__(self) -> None:
        self._since: tuple[datetime, float] | None = None

    def observe(self, now: datetime, done: float) -> datetime | None:
        """``done``: of the whole, in percent. None until it moved for ``LEAST_S``."""
        if self._since is None:
            self._since = (now, done)
            return None
        began, before = self._since
        took = (now - began).total_seconds()
        if took < self.LEAST_S or done <= before:
            return None
        return now + timedelta(seconds=took * max(0.0, 100 - done) / (done - before))
