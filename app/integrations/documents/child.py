"""The short-lived process in which one document is read: it limits itself, reads one request and writes one answer.

It is given no environment but where modules are, holds no connection and writes no file.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import BinaryIO

import msgspec

from app.integrations.documents.read import read_document
from app.integrations.types import Problem, Unreadable

NAME_LENGTH_BYTES = 4  # before the name, before the data
_GIVE_WAY = 10  # in niceness: nobody waits for a document as they do for an answer


def main(memory_bytes: int, seconds: int) -> None:
    os.nice(_GIVE_WAY)
    _limit("RLIMIT_AS", memory_bytes)
    _limit("RLIMIT_CPU", seconds)
    _limit("RLIMIT_FSIZE", 0)
    _limit("RLIMIT_CORE", 0)
    sys.stdout.buffer.write(_answer(sys.stdin.buffer))


def _limit(what: str, value: int) -> None:
    """As far as the system has that limit and lets it be set: macOS does not bound address space."""
    with contextlib.suppress(AttributeError, ValueError, OSError):
        resource.setrlimit(getattr(resource, what), (value, value))


def _answer(request: BinaryIO) -> bytes:
    try:
        length = int.from_bytes(request.read(NAME_LENGTH_BYTES), "big")
        document = read_document(request.read(length).decode(), request.read())
        return msgspec.msgpack.encode([document, None])
    except Unreadable as failure:
        answer = Problem(item_id="", code=failure.code, message=failure.message)
    except MemoryError:
        answer = Problem(item_id="", code="TOO_LARGE", message="The document takes more memory to read than is given.")
    return msgspec.msgpack.encode([None, answer])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
