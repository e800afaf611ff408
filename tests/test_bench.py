"""The benchmark's own instruments: what it reads, checks and prints. Nothing here measures."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from tests.bench.__main__ import EXAMPLE, MEASURES, main
from tests.bench.crowd import check, delays_of
from tests.bench.harness import ROOT
from tests.bench.report import (
    BEGIN,
    END,
    Figure,
    Machine,
    Report,
    markdown,
    number,
    percentile,
    replace_block,
    write_json,
)
from tests.bench.wire import Stream, split_answer

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"


def frame(seq: int, kind: str, **members: object) -> bytes:
    data = msgspec.json.encode({"type": kind, "seq": seq} | members).decode()
    return f"id: {seq}\nevent: {kind}\ndata: {data}\n\n".encode()


def delta(seq: int, text: str) -> bytes:
    return frame(seq, "content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def stream(*frames: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in frames) + b"0\r\n\r\n"


def test_help_names_every_measure_and_an_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert EXAMPLE in done.stdout
    assert all(f"  {name} " in done.stdout for name in MEASURES)


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["P99"])
    assert "P99" in capsys.readouterr().err


def test_a_stream_reads_the_same_however_it_is_cut() -> None:
    frames = [b"retry: 1000\n\n", frame(1, "message_start"), delta(2, "狐 \r\n"), frame(3, "message_stop")]
    wire = HEAD + stream(frames[0], frames[1], b": ping\n\n", frames[2] + frames[3])
    whole = Stream(keep=True)
    whole.feed(wire, 1)
    assert whole.ended
    assert whole.pings == 1
    assert b"".join(piece for _, piece in whole.pieces or []) == b"".join(frames)
    for cut in range(1, len(wire)):
        parts = Stream()
        parts.feed(wire[:cut], 1)
        parts.feed(wire[cut:], 2)
        if parts.pings:  # a ping cut in two is counted as text
            assert (parts.status, parts.ended, parts.length, parts.crc) == (200, True, whole.length, whole.crc)
        assert parts.ended


def test_a_stream_read_later_reads_the_same() -> None:
    wire = HEAD + stream(frame(1, "message_start"), b": ping\n\n", delta(2, "a"), frame(3, "message_stop"))
    at_once, later = Stream(keep=True), Stream(keep=True, later=True)
    cuts = [0, len(HEAD), len(HEAD) + 30, len(wire)]
    for at, (start, stop) in enumerate(pairwise(cuts)):
        at_once.feed(wire[start:stop], at)
        later.feed(wire[start:stop], at)
    assert later.ended
    later.settle()
    assert (later.pieces, later.pings, later.crc, later.ended) == (at_once.pieces, 1, at_once.crc, True)


def test_checking_a_body_finds_holes_repeats_and_what_follows_the_end() -> None:
    good = [frame(1, "message_start"), delta(2, "a"), delta(3, "b"), frame(4, "message_stop")]
    found = check(b"retry: 1000\n\n" + b"".join(good))
    assert (found.events, found.text, found.wrong) == (4, "ab", "")
    assert "seq 3 where 2" in check(b"".join([good[0], *good[2:]])).wrong
    assert "seq 2 where 3" in check(b"".join([*good[:2], *good[1:]])).wrong
    assert "after message_stop" in check(b"".join([*good, frame(5, "message_stop")])).wrong
    assert "ends with content_block_delta" in check(b"".join(good[:3])).wrong
    restarted = check(good[0] + good[1] + frame(1_000_001, "message_restart") + delta(1_000_002, "c"))
    assert restarted.text == "c"


def test_delays_are_taken_from_whole_frames_and_every_merged_token() -> None:
    one, two = delta(2, "100 110 "), delta(3, "200 ")
    assert delays_of([(1_000, one + two[:20]), (2_000, two[20:])]) == [900, 890, 1_800]


def test_an_answer_is_split_where_its_length_says() -> None:
    answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}"
    assert split_answer(answer[:-1]) is None
    assert split_answer(answer + b"HTTP/1.1") == (409, b"{}", len(answer))


def test_figures_are_judged_by_their_bar_and_never_when_wrong() -> None:
    figure = Figure(measure="P2", name="latency", value=4.0, unit="ms", bar=4.0)
    assert figure.verdict == "ok"
    assert msgspec.structs.replace(figure, value=4.1).verdict == "short"
    assert msgspec.structs.replace(figure, value=4.1, at_least=True).verdict == "ok"
    assert msgspec.structs.replace(figure, bar=None).verdict == ""
    assert msgspec.structs.replace(figure, wrong="lost 3").verdict == "invalid"


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.02134, "0.0213"), (4.049, "4.05"), (145_800.4, "145,800")])
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_percentiles_are_nearest_rank() -> None:
    values = list(range(1, 101))
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50, 99, 100)
    assert percentile([7.0], 0.99) == 7.0


def test_the_report_is_written_as_json_and_into_the_readme(tmp_path: Path) -> None:
    machine = Machine("some CPU", 2, "3.11.2", "abc1234+", "2025-01-01T00:00:00Z")
    figures = [Figure(measure="P8", name="replay", value=312_345.6, unit="events/s", bar=300_000, at_least=True)]
    report = Report(machine, figures)
    write_json(report, tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_bytes())
    assert found["figures"][0]["verdict"] == "ok"
    assert found["machine"]["commit"] == "abc1234+"
    block = markdown(report)
    assert "| P8 | replay | 312,346 events/s | ≥ 300,000 | ok |" in block
    text = replace_block(f"before\n{BEGIN}\nold\n{END}\nafter\n", block)
    assert text == f"before\n{BEGIN}\n{block}\n{END}\nafter\n"
    with pytest.raises(ValueError, match="markers"):
        replace_block("no markers", block)
