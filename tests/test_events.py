"""Events: deltas become blocks, entries become frames, a log becomes content again."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from app.chat.events import Assembler, Entry, content_of, data_of, error_value, frame, gap_frame, with_request_id
from app.llm.types import Delta, Signature, Stop, Text, Thinking, ToolArguments, ToolStart, Usage


def log_of(batches: list[list[Delta]]) -> list[Entry]:
    assembler = Assembler("msg_1", "default")
    drafts = assembler.start()
    for batch in batches:
        drafts += assembler.feed(batch)
    drafts += assembler.end()
    return [Entry(i + 1, field, value) for i, (field, value) in enumerate(drafts)]


def types(log: list[Entry]) -> list[str]:
    return [entry.type for entry in log]


def test_text_is_one_block():
    log = log_of([[Text("he")], [Text("llo"), Stop("max_tokens"), Usage(7, 2)]])
    assert types(log) == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert content_of(log) == [{"type": "text", "text": "hello"}]
    end = msgspec.json.decode(data_of(log[-2]))
    assert end["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert end["usage"] == {"input_tokens": 7, "output_tokens": 2}


def test_thinking_text_and_interleaved_tools_each_have_their_block():
    log = log_of(
        [
            [Thinking("hm"), Signature("sig"), Text("ok"), ToolStart(0, "t0", "add"), ToolStart(1, "t1", "mul")],
            [ToolArguments(0, '{"a"'), ToolArguments(1, '{"b":2}'), ToolArguments(0, ":1}"), Stop("tool_use")],
        ]
    )
    assert content_of(log) == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "ok"},
        {"type": "tool_use", "id": "t0", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "t1", "name": "mul", "input": {"b": 2}},
    ]
    starts = [e.field for e in log if e.field[:1] == b"b"]
    stops = [e.field for e in log if e.field[:1] == b"e"]
    assert [f[1:] for f in starts] == [f[1:] for f in stops] == [b"0", b"1", b"2", b"3"]


def test_an_empty_answer_is_still_a_whole_message():
    assert types(log_of([[]])) == ["message_start", "message_delta", "message_stop"]


def test_only_the_last_attempt_counts():
    first, second = log_of([[Text("old")]])[:3], log_of([[Text("new")]])
    restart = Entry(1_000_001, b"r", b'{"attempt":2,"reason":"worker_lost"}')
    assert content_of([*first, restart, *second]) == [{"type": "text", "text": "new"}]


def test_a_cut_tool_call_has_no_input_yet():
    log = log_of([[ToolStart(0, "t", "f"), ToolArguments(0, '{"a":')]])
    assert content_of(log)[0]["input"] == {}


def test_frames_are_the_bytes_of_the_contract():
    assert frame(Entry(3, b"t0", 'a"\n\u2028é'.encode())) == (
        b"id: 3\nevent: content_block_delta\n"
        b'data: {"type":"content_block_delta","seq":3,"index":0,'
        b'"delta":{"type":"text_delta","text":"a\\"\\n\xe2\x80\xa8\xc3\xa9"}}\n\n'
    )
    assert frame(Entry(9, b"z", b"")) == b'id: 9\nevent: message_stop\ndata: {"type":"message_stop","seq":9}\n\n'
    error = with_request_id(error_value("api_error", "m", "CODE", "why"), "req")
    assert msgspec.json.decode(data_of(Entry(4, b"x", error))) == {
        "type": "error",
        "seq": 4,
        "error": {"type": "api_error", "message": "m", "detail": {"code": "CODE", "explanation": "why"}},
        "request_id": "req",
    }
    assert gap_frame(7, None, None).startswith(b"event: gap\ndata: {")
    assert b'"seq":5,"message_id":"m","index"' in data_of(Entry(5, b"t0", b"x"), b'"message_id":"m",')
    assert data_of(Entry(5, b"z", b""), b'"message_id":"m",') == b'{"type":"message_stop","seq":5,"message_id":"m"}'


@given(st.lists(st.lists(st.text(min_size=1), max_size=4), max_size=6))
def test_text_survives_byte_for_byte_on_one_line(batches: list[list[str]]):
    log = log_of([[Text(t) for t in batch] for batch in batches])
    text = "".join(t for batch in batches for t in batch)
    assert "".join(b["text"] for b in content_of(log)) == text
    for entry in log:
        lines = frame(entry).split(b"\n")
        assert len(lines) == 5
        assert msgspec.json.decode(lines[2][len(b"data: ") :])["seq"] == entry.seq
