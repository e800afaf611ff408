"""No input breaks a reader of exports: only conversations, problems or `Unreadable` come out, whatever went in."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.integrations.exports.reader import PLATFORMS, detect, read_export
from app.integrations.types import Conversation, Problem, Unreadable
from tests.export_rig import FILES, SAMPLES
from tests.export_samples import as_json, zipped

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
ITEMS = 400
"""More than any mutation of a sample can hold."""


def check(platform: str, data: bytes, **more: Any) -> None:
    detected = detect(data)
    assert detected is None or detected in PLATFORMS
    try:
        found = list(read_export(platform, data, **more))
    except Unreadable as error:
        assert error.code
        check_words(error.message, 1000)
        return
    assert 0 < len(found) < ITEMS
    for item in found:
        msgspec.json.encode(item)
        if isinstance(item, Problem):
            assert item.code
            check_words(item.item_id, 300)
            check_words(item.message, 600)
        else:
            check_conversation(item)


def check_words(words: str, most: int) -> None:
    assert 0 < len(words) <= most
    assert "\x00" not in words
    words.encode()


def check_conversation(conversation: Conversation) -> None:
    assert conversation.id
    assert conversation.messages
    assert len({message.id for message in conversation.messages}) == len(conversation.messages)
    for message in conversation.messages:
        assert message.role in ("user", "assistant")
        assert message.text
        assert message.id
        assert not (message.mine and message.role == "assistant")
        for text in (message.text, message.id, message.name or "", conversation.id, conversation.title or ""):
            assert "\x00" not in text
            text.encode()
        for time in (message.said_at, conversation.created_at, conversation.updated_at):
            assert time is None or time.utcoffset() == timedelta(0)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, 10**30, -(10**30), 1e308, -1e308, 1e18, 253402300800, 0.1, float(2**53)]),
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=5),
    st.sampled_from(["", "\x00", "a\x00b", "\u200e", "9" * 400, "1" * 12, "9999-12-31T23:59:59-23:59", "0001-01-01"]),
    st.sampled_from(["0001-01-01T00:00:00+23:59", "<@U1", "<" * 50, "&" * 50, "\ufeff", "a" * 5000, "]", "["]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner), max_leaves=6
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(inner, (*path, key))
    return found


def changed(draw: Any, value: Any) -> Any:
    """The value with up to four of its places replaced, removed, renamed, doubled or exchanged."""
    holder = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(1, 4))):
        spots = places(holder)[1:]
        if not spots:
            break
        *way, last = draw(st.sampled_from(spots))
        parent: Any = holder
        for key in way:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "remove", "double", "exchange", "rename"])):
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(["\x00", "x" * 1000, "id"]))] = parent.pop(last)
            case "remove":
                if parent is not holder:
                    del parent[last]
            case "double" if isinstance(parent, list) and parent is not holder:
                parent.insert(last, copy.deepcopy(parent[last]))
            case "exchange":
                other: Any = holder
                for key in draw(st.sampled_from(spots)):
                    other = other[key]
                parent[last] = copy.deepcopy(other)
            case _:
                parent[last] = draw(VALUES)
    return holder[0] if holder else None


def torn(draw: Any, data: bytes) -> bytes:
    """The bytes with some flipped, taken out, or put in."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(made) - 1)))
        match draw(st.sampled_from(["flip", "cut", "put", "end"])):
            case "flip" if made:
                made[at] ^= draw(st.integers(1, 255))
            case "cut":
                del made[at : at + draw(st.integers(1, 30))]
            case "end":
                del made[at:]
            case _:
                made[at:at] = draw(
                    st.sampled_from(
                        [b"\x00", b"\xff", b"[" * 3000, b'{"a":' * 3000, b"\xe2\x80\x8e", b"\n", b'"', b"\\ud800"]
                    )
                )
    return bytes(made)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_bytes_flipped_cut_and_put_in(platform: str):
    @QUICK
    @given(st.data(), st.sampled_from([None, "Ann", "\x00"]))
    def fuzz(data: st.DataObject, me: str | None):
        check(platform, torn(data.draw, SAMPLES[platform]()), me=me, name="\x00\ud800.json" * 100)

    fuzz()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_files_of_a_zip_flipped_and_cut(platform: str):
    files = FILES[platform]()

    @QUICK
    @given(st.data())
    def fuzz(data: st.DataObject):
        name = data.draw(st.sampled_from(sorted(files)))
        check(platform, zipped(files | {name: torn(data.draw, files[name])}))

    fuzz()


@pytest.mark.parametrize("platform", [p for p in PLATFORMS if p != "whatsapp"])
def test_values_of_other_types_removed_doubled_and_exchanged(platform: str):
    files = {name: data for name, data in FILES[platform]().items() if name.endswith(".json")}

    @QUICK
    @given(st.data(), st.sampled_from([None, "Ann"]))
    def fuzz(data: st.DataObject, me: str | None):
        name = data.draw(st.sampled_from(sorted(files)))
        mutated = as_json_of(changed(data.draw, json.loads(files[name])))
        check(platform, zipped(files | {name: mutated}), me=me)
        check(platform, mutated, me=me)

    fuzz()


def as_json_of(value: Any) -> bytes:
    """JSON of any value, half surrogate pairs as escapes."""
    try:
        return as_json(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_one_platforms_export_given_as_anothers(platform: str):
    for other in PLATFORMS:
        check(platform, SAMPLES[other]())
        check(platform, zipped(FILES[other]()))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_deep_nesting_in_every_place(platform: str):
    for name, data in FILES[platform]().items():
        if name.endswith(".json"):
            value = json.loads(data)
            for place in places(value)[1:]:
                check(platform, zipped(FILES[platform]() | {name: nested_at(value, place)}))


def nested_at(value: Any, place: tuple[Any, ...]) -> bytes:
    holder = copy.deepcopy(value)
    parent = holder
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = "@deep@"
    return as_json(holder).replace(b'"@deep@"', b"[" * 5000 + b"]" * 5000)
