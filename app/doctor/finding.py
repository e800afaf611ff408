"""One line of the doctor's report, and what several of its parts need."""

from __future__ import annotations

import re
import time
from typing import Literal

import msgspec

SKEW_S = 1.0
"""Clocks further apart than this are worth a word: deadlines, leases and lists go by them."""


class Finding(msgspec.Struct, frozen=True):
    """One line of the table. ``advice`` is empty where nothing need be done."""

    subject: str
    state: Literal["ok", "warn", "bad"]
    found: str
    advice: str = ""


def clock(subject: str, theirs: float, asked: float, answered: float) -> Finding:
    """How far an engine's clock is from ours, in seconds since the epoch; it was read between ``asked`` and
    ``answered``, which are ours."""
    apart = max(theirs - answered, asked - theirs, 0.0)
    if apart > SKEW_S:
        return Finding(subject, "warn", f"{apart:.1f} s from this host's", "have both set their clocks by NTP")
    return Finding(subject, "ok", "agrees with this host's")


def now() -> float:
    """This host's clock, in seconds since the epoch."""
    return time.time()


def release(version: str) -> tuple[int, int]:
    """The first two numbers of a version; one that is missing counts as 0."""
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)
