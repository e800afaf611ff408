"""Bodies and query parameters: every wrong field is named, by its full path, and nothing too large is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from app.errors import BadRequest, PayloadTooLarge, RepriseError, UnsupportedMediaType, ValidationFailed
from app.web import parse
from app.web.initiate import Initiate
from app.web.parse import Query, decode, read_body, read_json, warning


class Inner(msgspec.Struct):
    count: Annotated[int, Meta(ge=1)]
    name: str = ""


class Body(msgspec.Struct, kw_only=True):
    title: Annotated[str, Meta(min_length=1)]
    inner: Inner
    several: list[Inner] = []
    maybe: int | None = None
    either: str | list[str] = ""
    named: dict[str, int] = {}
    kind: Literal["a", "b"] = "a"


def errors_of(raw: bytes, shape: type[msgspec.Struct] = Body) -> dict[str, str]:
    with pytest.raises(ValidationFailed) as caught:
        decode(raw, shape)
    details = caught.value.details
    listed = details["errors"]
    assert (details["field"], details["reason"]) == (listed[0]["field"], listed[0]["reason"])
    return {error["field"]: error["reason"] for error in listed}


def test_what_only_a_check_can_say_is_told_with_the_rest() -> None:
    def check(body: Body) -> list[tuple[str, str]]:
        return [("maybe", "is too much")] if (body.maybe or 0) > 9 else []

    def told(raw: bytes) -> list[str]:
        with pytest.raises(ValidationFailed) as caught:
            decode(raw, Body, check, title="t", inner=Inner(count=1))
        return [error["field"] for error in caught.value.details["errors"]]

    assert told(b'{"title": "t", "inner": {"count": 1}, "maybe": 10}') == ["maybe"]
    assert told(b'{"inner": {}, "maybe": 10}') == ["title", "inner.count", "maybe"]
    assert told(b'{"title": "t", "inner": {"count": 1}, "maybe": "10"}') == ["maybe"]


def test_a_right_body_and_its_unknown_fields() -> None:
    body, unknown = decode(b'{"title": "t", "inner": {"count": 1}, "else": 1, "more\\r\\n": 2}', Body)
    assert (body.title, body.inner.count, unknown) == ("t", 1, ["else", "more\r\n"])
    assert warning(unknown) == {"Warning": '299 - "ignored unknown fields: else, more??"'}
    assert warning([]) == {}


@pytest.mark.parametrize("raw", [b"", b"{", b"nope", b"\xff", b'{"a": NaN}', b'{"a": 1} x', b"[" * 100_000, b'"\xff"'])
def test_what_is_no_json_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(raw, Body)


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_what_is_no_object_names_the_body(raw: bytes) -> None:
    assert errors_of(raw) == {"body": "must be a JSON object"}


def test_every_wrong_field_is_named() -> None:
    raw = msgspec.json.encode(
        {
            "title": "",
            "several": [{"count": 1}, {"count": 0, "name": 5}, {}, 7],
            "maybe": "x",
            "either": ["ok", 1, 2],
            "named": {"x": 1, "y": "no"},
            "kind": "c",
        }
    )
    assert set(errors_of(raw)) == {
        "title",
        "inner",
        "several[1].count",
        "several[1].name",
        "several[2].count",
        "several[3]",
        "maybe",
        "either[1]",
        "either[2]",
        "named.y",
        "kind",
    }
    assert errors_of(raw)["inner"] == "is required"


def test_a_message_body_names_the_innermost_field() -> None:
    found = errors_of(
        msgspec.json.encode(
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "wizard", "content": "x"},
                    {"role": "user", "content": [{"type": "text", "text": 5}, {"type": "image"}, {"type": "no"}]},
                    {"role": "user"},
                ],
                "temperature": 9,
                "top_k": "many",
                "stop_sequences": ["ok", ""],
                "max_tokens": 0,
                "memory": {"recall": "yes"},
            }
        ),
        Initiate,
    )
    assert set(found) >= {
        "messages[1].role",
        "messages[2].content[0].text",
        "messages[2].content[1].source",
        "messages[3].content",
        "temperature",
        "top_k",
        "stop_sequences[1]",
        "max_tokens",
        "memory.recall",
    }
    assert any(field.startswith("messages[2].content[2]") for field in found)


def test_a_choice_names_what_may_be_chosen() -> None:
    found = errors_of(b'{"messages": [{"role": "robot", "content": "x"}], "on_worker_loss": "explode"}', Initiate)
    assert found == {
        "messages[0].role": "must be one of user, assistant, system",
        "on_worker_loss": "must be one of restart, error",
    }


def test_an_empty_body_is_said_to_be_empty() -> None:
    with pytest.raises(BadRequest, match="the body is empty"):
        decode(b" ", Initiate)


def test_empty_messages_are_named() -> None:
    assert set(errors_of(b'{"messages": []}', Initiate)) == {"messages"}
    assert errors_of(b"{}", Initiate) == {"messages": "is required"}


def test_a_long_list_of_errors_ends() -> None:
    assert len(errors_of(msgspec.json.encode({"messages": [1] * 5000}), Initiate)) == 100


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["title", "inner", "several", "maybe", "either", "named", "kind", "unknown"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no finding
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_object_is_right_or_told_why(value: dict[str, Any]) -> None:
    raw = msgspec.json.encode(value)
    try:
        decode(raw, Body)
    except ValidationFailed as error:
        assert error.details["errors"]
        assert all(e["field"] and e["reason"] for e in error.details["errors"])
        msgspec.json.encode(error.details)


def request(*chunks: bytes, headers: dict[str, str] | None = None, gone: bool = False) -> tuple[Any, Any, list[bytes]]:
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        if not left and gone:
            return {"type": "http.disconnect"}
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left) or gone}

    listed = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
    return {"type": "http", "headers": listed}, receive, left


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    scope, receive, _ = request(b"12345", b"67890")
    assert await read_body(scope, receive, 10) == b"1234567890"


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "12"}])
async def test_a_body_beyond_the_limit_is_refused_and_drained(headers: dict[str, str]) -> None:
    scope, receive, left = request(b"12345", b"67890", b"x", b"y", headers=headers)
    with pytest.raises(PayloadTooLarge):
        await read_body(scope, receive, 10)
    assert left == []


async def test_an_endless_body_is_not_drained_for_ever() -> None:
    scope, receive, left = request(*[b"x" * 10] * 1000)
    with pytest.raises(PayloadTooLarge):
        await read_body(scope, receive, 10)
    assert len(left) > 900


async def test_a_client_that_goes_away_while_sending() -> None:
    scope, receive, _ = request(b"123", gone=True)
    with pytest.raises(BadRequest):
        await read_body(scope, receive, 10)


async def test_a_body_that_stops_coming_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse, "BODY_PAUSE_S", 0.05)
    scope, receive, _ = request(b"123", gone=True)

    async def stalling() -> Any:
        message = await receive()
        if message["type"] == "http.disconnect":
            await anyio.sleep_forever()
        return message

    with anyio.fail_after(5), pytest.raises(BadRequest, match="did not come"):
        await read_body(scope, stalling, 10)


@pytest.mark.parametrize("kind", [None, "application/json", "Application/JSON; charset=utf-8"])
async def test_json_and_no_content_type_are_taken(kind: str | None) -> None:
    scope, receive, _ = request(b"{}", headers={"Content-Type": kind} if kind else {})
    assert await read_json(scope, receive, 10) == b"{}"


async def test_another_content_type_is_refused() -> None:
    scope, receive, _ = request(b"{}", headers={"Content-Type": "text/plain"})
    with pytest.raises(UnsupportedMediaType):
        await read_json(scope, receive, 10)


def query(text: str) -> Query:
    return Query({"query_string": text.encode()})  # type: ignore[typeddict-item]


def test_query_parameters_that_are_right() -> None:
    asked = query("limit=5&status=b&yes=true&name=J%C3%BCrgen&empty=&n=12")
    assert asked.integer("limit", 20, least=1, most=100) == 5
    assert asked.integer("other", 20, least=1, most=100) == 20
    assert asked.choice("status", ("a", "b")) == "b"
    assert asked.choice("empty", ("a", "b")) is None
    assert asked.flag("yes") and not asked.flag("no")
    assert asked.text("name") == "Jürgen"
    assert asked.parsed("n", int, "must be a number") == 12
    asked.check()


def test_every_wrong_query_parameter_is_named() -> None:
    asked = query("limit=0&page=x&status=c&yes=maybe&name=" + "n" * 300 + "&n=x&huge=" + "9" * 30)
    asked.integer("limit", 20, least=1, most=100)
    asked.integer("page", 1, least=1, most=100)
    asked.integer("huge", 1, least=1, most=100)
    asked.choice("status", ("a", "b"))
    asked.flag("yes")
    asked.text("name")
    asked.parsed("n", int, "must be a number")
    with pytest.raises(ValidationFailed) as caught:
        asked.check()
    named = [error["field"] for error in caught.value.details["errors"]]
    assert named == ["limit", "page", "huge", "status", "yes", "name", "n"]


def test_errors_are_ours() -> None:
    checks: list[Callable[[], object]] = [lambda: decode(b"{", Body), lambda: decode(b"[]", Body)]
    for check in checks:
        with pytest.raises(RepriseError):
            check()
