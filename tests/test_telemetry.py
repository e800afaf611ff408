"""Log lines: what they must never hold."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from app.settings import Settings
from app.telemetry import configure_logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_a_failure_was_about_is_in_no_log_line(monkeypatch: pytest.MonkeyPatch, log_format: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, write_through=True))
    configure_logging(msgspec.structs.replace(Settings(), log_format=log_format))

    def fail(said: str) -> None:
        raise ZeroDivisionError

    words = " ".join(["my", "secret", "words"])  # the line of code is printed
    try:
        fail(words)
    except ZeroDivisionError:
        structlog.get_logger("test").exception("it.failed")
    written = raw.getvalue()
    assert b"it.failed" in written
    assert b"ZeroDivisionError" in written
    assert b"my secret words" not in written
