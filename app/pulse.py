"""The sign of life of a supervised process: a line a second from the loop that does the work.

`reprise run` gives each child a pipe and kills a child that is silent for five seconds. The line is the worker's
present name, empty for processes that have none, so that the supervisor can drop a dead worker's liveness at once.
A hung loop writes nothing, whatever its threads do: that is the point.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import anyio

from app.errors import StartFailed
from app.settings import environment

BEAT_S = 1.0
VARIABLE = "REPRISE_PULSE_FD"


def supervised() -> bool:
    """Whether `reprise run` started this process."""
    return bool(environment(VARIABLE))


async def pulse(name: str | Callable[[], str] = "") -> None:
    """Beat for ever; returns at once when nobody supervises this process.

    Start it in the process's task group when it is ready to work. ``name`` may be a function, asked at each beat.
    """
    number = environment(VARIABLE)
    if not number:
        return
    try:
        pipe = int(number)
        os.set_blocking(pipe, False)
        os.set_inheritable(pipe, False)
    except (ValueError, OSError):
        raise StartFailed(f"{VARIABLE} names no open pipe: {number}") from None
    while True:
        try:
            os.write(pipe, f"{name if isinstance(name, str) else name()}\n".encode())
        except BlockingIOError:
            pass  # the supervisor has not read for hours: it will find us alive when it does
        except BrokenPipeError:
            return
        await anyio.sleep(BEAT_S)
