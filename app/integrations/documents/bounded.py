"""Reading a document where it can do no harm: in a process of its own, with limits of time and memory.

Choices:

1. A process for each document, ended when the time is over or the caller is cancelled. A thread cannot be ended, and
   one process for many would let the first hostile file take the next ones with it.
2. The process is given no environment of ours: keys and addresses are no business of a parser.
3. Out of time or memory is TOO_LARGE, an end without an answer DAMAGED: sending the same file again cannot help, so no
   worker should try again.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys

import anyio
import msgspec

from app.integrations.documents.types import Document
from app.integrations.types import Problem, Unreadable

READ_TIME_S = 60.0
READ_MEMORY_BYTES = 1536 << 20  # of address space; 50 MB of text need about 500 MB

_NAME_LENGTH_BYTES = 4  # as in `child`, which is not imported here: it brings the parsers along
_TOO_LONG = {-signal.SIGXCPU, -signal.SIGKILL}


async def read_document_bounded(
    name: str, data: bytes, *, seconds: float = READ_TIME_S, memory_bytes: int = READ_MEMORY_BYTES
) -> Document:
    """`read.read_document` in a process of its own. Raises `Unreadable` alone, and what the system raises when no
    process can be started."""
    encoded = name.encode("utf-8", "replace")
    request = len(encoded).to_bytes(_NAME_LENGTH_BYTES, "big") + encoded + data
    program = [
        sys.executable,
        "-P",
        "-m",
        "app.integrations.documents.child",
        str(memory_bytes),
        str(math.ceil(seconds)),
    ]
    too_long = Unreadable("TOO_LARGE", f"The document takes more than {seconds:g} seconds to read.")
    failed: Unreadable | None = None
    try:
        with anyio.fail_after(seconds):
            done = await anyio.run_process(
                program,
                input=request,
                stderr=subprocess.DEVNULL,
                check=False,
                env={"PYTHONPATH": os.pathsep.join(sys.path)},
            )
    except* TimeoutError:
        failed = too_long
    except* (anyio.BrokenResourceError, ConnectionError):  # it ended before it had read the request
        failed = Unreadable("DAMAGED", "The document is damaged: reading it ended without a result.")
    if failed:
        raise failed
    if done.returncode in _TOO_LONG:
        raise too_long
    try:
        document, problem = msgspec.msgpack.decode(done.stdout, type=tuple[Document | None, Problem | None])
    except msgspec.MsgspecError:
        raise Unreadable("DAMAGED", "The document is damaged: reading it ended without a result.") from None
    if document is None:
        assert problem is not None
        raise Unreadable(problem.code, problem.message)
    return document
