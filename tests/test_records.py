"""Records of any API: which form the bytes have, where the fields are, and what is told of what cannot be read."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.integrations import records
from app.integrations.records import Mapping, Record, map_records, read_records
from app.integrations.types import Problem, Unreadable

MAY = datetime(2024, 5, 1, 10, tzinfo=UTC)


def read(data: Any, **more: Any) -> list[Record | Problem]:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    if isinstance(more.get("mapping"), dict):
        more["mapping"] = msgspec.convert(more["mapping"], Mapping)
    return list(read_records(raw, **more))


def one(data: Any, **mapping: Any) -> Record:
    (found,) = read([data], mapping=mapping)
    assert isinstance(found, Record), found
    return found


def problem(data: Any, **mapping: Any) -> Problem:
    (found,) = read([data], mapping=mapping)
    assert isinstance(found, Problem), found
    return found


def texts(found: list[Record | Problem]) -> list[str]:
    return [one.text if isinstance(one, Record) else one.code for one in found]


def refused(data: bytes, **more: Any) -> str:
    with pytest.raises(Unreadable) as caught:
        read_records(data, **more)  # at once, not when the first record is asked for
    return caught.value.code


# ---- the form -------------------------------------------------------------------------------------------------------

TWO = [{"text": "a"}, {"text": "b"}]
LINES = b'{"text": "a"}\n{"text": "b"}\n'


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (TWO, {}),
        ({"data": TWO, "message": "ok"}, {}),
        ({"items": TWO, "next": None}, {}),
        ({"deep": {"list": [0, {"here": TWO}]}}, {"records_path": "deep.list.1.here"}),
        ([{"page": TWO}], {"records_path": "0.page"}),
        (b"\xef\xbb\xbf" + json.dumps(TWO, indent=1).encode(), {}),
        (b" \r\n " + json.dumps({"results": TWO}, indent=2).encode(), {}),
        (LINES, {}),
        (LINES, {"content_type": "application/x-ndjson; charset=utf-8"}),
        (LINES.replace(b"\n", b"\r\n\r\n"), {"content_type": "text/plain"}),
        (b"\xef\xbb\xbf" + LINES.strip(), {}),
        (b"\x1e" + LINES.replace(b"\n{", b"\n\x1e{"), {"content_type": "application/json-seq"}),
        (["a", "b"], {}),
    ],
)
def test_every_form_gives_its_records(data: Any, more: dict[str, Any]) -> None:
    assert texts(read(data, **more)) == ["a", "b"]


def test_an_object_without_a_list_is_one_record() -> None:
    assert texts(read({"text": "alone", "tags": ["x"]})) == ["alone"]
    assert texts(read(b'{"text": "alone"}\n')) == ["alone"]


def test_an_empty_list_has_no_records() -> None:
    assert read([]) == read({"data": []}) == []


@pytest.mark.parametrize(
    ("data", "more", "code"),
    [
        (b"", {}, "EMPTY"),
        (b" \n ", {}, "EMPTY"),
        (b"<html>", {}, "MISLABELLED"),
        (b"id,text\n1,a\n", {}, "MISLABELLED"),
        (b'"text"', {}, "MISLABELLED"),
        (b'[{"text": "a"}', {}, "DAMAGED"),
        (b'{"data": [', {}, "DAMAGED"),
        (b"[" * 100_000, {}, "DAMAGED"),
        (b"plain\nlines\n", {"content_type": "application/jsonl"}, "DAMAGED"),
        (b'{"data": []}', {"records_path": "rows"}, "NO_RECORDS"),
        (b'{"data": {"a": 1}}', {"records_path": "data.a"}, "NO_RECORDS"),
        (b'{"data": []}', {"records_path": "data.7"}, "NO_RECORDS"),
        (b'{"data": []}', {"records_path": "data.a.b"}, "NO_RECORDS"),
    ],
)
def test_what_cannot_be_read_at_all(data: bytes, more: dict[str, Any], code: str) -> None:
    assert refused(data, **more) == code


def test_a_bad_line_is_told_with_its_number_and_the_rest_is_read() -> None:
    found = read(b'{"text": "a"}\n\n{"text": \n["text"]\n{"text": "b"}')
    assert texts(found) == ["a", "BAD_RECORD", "BAD_RECORD", "b"]
    assert [one.item_id for one in found if isinstance(one, Problem)] == ["line:3", "line:4"]
    assert "Line 3" in str(found[1])


def test_a_first_line_that_is_bad_costs_itself_alone() -> None:
    assert texts(read(b'{"text": \n{"text": "b"}\n')) == ["BAD_RECORD", "b"]


def test_an_element_that_is_no_record_is_told_with_its_number() -> None:
    found = read([{"text": "a"}, 7, None, [1], {"text": "b"}])
    assert texts(found) == ["a", "BAD_RECORD", "BAD_RECORD", "BAD_RECORD", "b"]
    assert found[1] == Problem(item_id="record:2", code="BAD_RECORD", message="Record 2 is not an object.")


def test_only_so_many_records_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_RECORDS", 3)
    assert texts(read([{"text": "a"}] * 3)) == ["a", "a", "a"]
    assert texts(read([{"text": "a"}] * 9)) == ["a", "a", "a", "TOO_MANY"]


def test_records_are_read_one_by_one() -> None:
    found = read_records(b'[{"text": "a"}, {"text": "\xff\\ud800"}, {"text": "b"}]')
    assert next(found).text == "a"  # type: ignore[union-attr]
    assert texts(list(found)) == ["\ufffd\ufffd", "b"]


# ---- the fields -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "content", "body", "message", "description"])
def test_text_is_found_under_the_usual_names(name: str) -> None:
    assert one({name: " said ", "other": "x"}).text == "said"


def test_the_first_name_that_has_text_counts() -> None:
    assert one({"text": "  ", "content": None, "body": {"no": 1}, "message": "m", "description": "d"}).text == "m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("post.body", "B"),
        ("tags", "x\ny"),
        ("tags.1", "y"),
        ("a.b.c", "dotted"),
        ("count", "3"),
        (["title", "nothing", "post.body"], "T\nB"),
        ("{title}: {post.body}!", "T: B!"),
        ("{title} ({nothing})", "T ()"),
        ("{post.__class__}{title}", "T"),
    ],
)
def test_where_text_is_can_be_told(text: Any, expected: str) -> None:
    data = {"title": "T", "post": {"body": "B"}, "tags": ["x", "y"], "a.b": {"c": "dotted"}, "count": 3, "text": "no"}
    assert one(data, text=text).text == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [("body", "«body»"), (["a", "b"], "«a» or «b»"), ("{a}: {b}", "«{a}: {b}»"), (None, "«text» or «content»")],
)
def test_a_record_without_text_is_told_with_the_field(text: Any, named: str) -> None:
    found = problem({"id": "r7", "x": "y"}, **({"text": text} if text else {}))
    assert (found.item_id, found.code) == ("r7", "NO_TEXT")
    assert "Record 1 has no text in" in found.message
    assert named in found.message


def test_a_text_that_is_too_long() -> None:
    assert len(one({"text": "x" * 32_000}).text) == 32_000
    assert problem({"text": "x" * 32_001}).code == "TOO_LONG"


@pytest.mark.parametrize(
    ("data", "mapping", "expected"),
    [
        ({"id": "a-1"}, {}, "a-1"),
        ({"id": 17}, {}, "17"),
        ({"id": 0}, {}, "0"),
        ({"_id": "m"}, {}, "m"),
        ({"id": "", "uuid": "u"}, {}, "u"),
        ({"id": "no", "key": {"n": "yes"}}, {"id": "key.n"}, "yes"),
    ],
)
def test_an_id_is_the_records_own(data: dict[str, Any], mapping: dict[str, Any], expected: str) -> None:
    assert one(data | {"text": "t"}, **mapping).id == expected


@pytest.mark.parametrize("bad", [None, "", True, 1.5, {}, []])
def test_without_an_id_it_is_of_the_content(bad: Any) -> None:
    made = one({"id": bad, "text": "t", "date": "2024-05-01"}).id
    assert made == one({"text": "t", "date": "2024-05-01", "likes": 3}).id
    assert made != one({"text": "t", "date": "2024-05-02"}).id
    assert made != one({"text": "u", "date": "2024-05-01"}).id


def test_ids_that_cannot_be_stored_are_replaced_but_stay_apart() -> None:
    ids = [one({"id": bad, "text": "t"}).id for bad in ("x" * 300, "x" * 301, "a\x00b", "a\nb")]
    assert len(set(ids)) == 4
    assert all(len(made) < 100 and made.isprintable() for made in ids)


@pytest.mark.parametrize(
    "written",
    [
        "2024-05-01T10:00:00Z",
        "2024-05-01 12:00:00+02:00",
        "2024-05-01T10:00:00",
        1_714_557_600,
        1_714_557_600.0,
        "1714557600",
        " 1714557600.000 ",
        1_714_557_600_000,
        "1714557600000",
        1_714_557_600_000_000,
    ],
)
@pytest.mark.parametrize("name", ["timestamp", "created_at", "createdAt", "date", "time"])
def test_times_in_every_writing(name: str, written: Any) -> None:
    assert one({"text": "t", name: written}).said_at == MAY


def test_a_date_alone() -> None:
    day = datetime(2024, 5, 1, tzinfo=UTC)
    assert one({"text": "t", "date": "2024-05-01"}).said_at == one({"text": "t", "date": "20240501"}).said_at == day


@pytest.mark.parametrize("bad", ["yesterday", "2024", "", True, -5, 0, 10**40, "9" * 15 + "." + "9" * 9, [], {}])
def test_a_time_that_is_none_costs_only_itself(bad: Any) -> None:
    found = one({"text": "t", "timestamp": bad})
    assert found.text == "t"
    assert found.said_at is None or found.said_at.year > 2000


def test_title_category_and_metadata() -> None:
    data = {
        "text": "t",
        "title": "A\ntitle",
        "kind": "note",
        "n": {
            "likes": 3,
            "big": 2**60,
            "ok": True,
            "none": None,
            "rate": 0.5,
            "list": [1, {"a": "ä"}],
            "long": "x" * 5_000,
        },
    }
    names = ("likes", "big", "ok", "none", "rate", "list", "long", "missing")
    found = one(data, category="kind", metadata={name: f"n.{name}" for name in names})
    assert (found.title, found.category) == ("A title", "note")
    assert found.metadata == {
        "likes": 3,
        "big": str(2**60),
        "ok": True,
        "rate": 0.5,
        "list": '[1,{"a":"ä"}]',
        "long": "x" * 1_000,
    }
    assert one({"text": "t", "category": "c", "subject": "s"}, title="subject") == one(
        {"text": "t", "category": "c", "title": "s"}
    )


def test_records_of_a_request_are_mapped_alike() -> None:
    values = [{"id": 1, "content": "a"}, "b", 3]
    assert list(map_records(values)) == read(values)


@pytest.mark.parametrize(
    "bad",
    [{"unknown": "x"}, {"text": ""}, {"text": []}, {"id": "x" * 201}, {"metadata": {str(n): "a" for n in range(21)}}],
)
def test_a_mapping_has_bounds(bad: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, Mapping)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "text", "date", "a", "a.b"]) | st.text(), inner)
    ),
    max_leaves=12,
)
PATHS = st.sampled_from(["text", "a", "a.b", "a.0.b", "id", "{a}{text}", "0"])


@given(st.lists(JSON), PATHS, PATHS)
def test_any_json_gives_a_record_or_a_problem_each(values: list[Any], path: str, other: str) -> None:
    mapping = Mapping(text=path, id=other, timestamp=other, title=other, metadata={"m": other})
    for chosen in (mapping, None):
        found = list(read_records(json.dumps(values).encode(), mapping=chosen))
        assert len(found) == len(values)
        msgspec.json.encode(found)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"{", b"[", b'{"text": "a"}\n'):
        with suppress(Unreadable):
            msgspec.json.encode(list(read_records(start + data)))
