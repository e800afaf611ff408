"""The parser of event streams: any cutting of the bytes gives the same events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import UpstreamFailed
from app.llm import sse
from app.llm.sse import SseParser

_LINES = st.sampled_from(
    [b"", b"data: a", b"data:b", b"data:  c", b"data", b": note", b"event: x", "data: é🙂\u2028".encode(), b"datax: no"]
)
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def _plain(stream: bytes) -> list[bytes]:
    """The rules of the standard, line by line, with the whole stream at hand."""
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*stream.split(b"\n"), b""]:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
        elif line == b"data" or line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return events


def _parse(pieces: list[bytes]) -> list[bytes]:
    parser = SseParser()
    found = [event for piece in pieces for event in parser.feed(piece)]
    return found + parser.finish()


@given(
    st.lists(st.tuples(_LINES, _ENDS), max_size=30),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_any_cut_gives_the_same_events(lines: list[tuple[bytes, bytes]], bom: bool, cuts: list[int]) -> None:
    stream = b"\xef\xbb\xbf" * bom + b"".join(line + end for line, end in lines)
    places = sorted({min(c, len(stream)) for c in cuts} | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert _parse(pieces) == _parse([bytes([b]) for b in stream]) == _plain(stream)


def test_an_event_is_given_with_the_read_that_ends_it() -> None:
    parser = SseParser()
    assert parser.feed(b"data: one\r\n\r") == [b"one"]
    assert parser.feed(b"\ndata: two\n") == []
    assert parser.feed(b"\n") == [b"two"]


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert _parse([b"data: [DONE]"]) == [b"[DONE]"]


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    parser = SseParser()
    with pytest.raises(UpstreamFailed, match="8 MB"):
        parser.feed(b"data: " + b"x" * 100)
