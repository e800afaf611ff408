"""What every reader may say of an input that is not as it should be."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One item that could not be read; the rest goes on."""

    item_id: str
    code: str
    message: str


class Unreadable(Exception):
    """Nothing of the input can be read. ``message`` is for the person who sent it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
