"""Exports of chats with an AI are read exactly as they were said; what is none, or too large, is refused."""

from __future__ import annotations

import tracemalloc

import pytest

from app.integrations import zips
from app.integrations.exports.reader import PLATFORMS, detect, read_export
from app.integrations.types import Conversation, Message, Problem, Unreadable
from tests import export_people
from tests import export_samples as samples
from tests.export_rig import SAMPLES, at, only, parts, refused
from tests.export_samples import as_json, zipped


def test_chatgpt_is_the_branch_on_screen_without_system_tools_thoughts_and_hidden_messages():
    assert only("chatgpt", samples.chatgpt()) == Conversation(
        id="c-1",
        title="Bridges",
        created_at=at("2023-11-14T22:13:20.5"),
        updated_at=at("2023-11-14T22:13:50"),
        messages=[
            Message(
                id="u1",
                role="user",
                text="Which city has most bridges?",
                said_at=at("2023-11-14T22:13:30.25"),
            ),
            Message(id="a1", role="assistant", text="Hamburg.", said_at=at("2023-11-14T22:13:32"), mine=False),
            Message(
                id="u2",
                role="user",
                text="[image: bridge.png]\nAnd this one?\nThanks\n[file: list.pdf]",
                said_at=at("2023-11-14T22:13:40"),
            ),
        ],
    )


def test_chatgpt_zips_hold_one_file_or_several_in_their_order():
    def one(name: str) -> dict:
        return samples.chatgpt_conversation() | {"conversation_id": name, "id": name}

    whole = zipped({"chat.html": b"<html>", "conversations.json": samples.chatgpt(), "user.json": b"{}"})
    assert only("chatgpt", whole) == only("chatgpt", samples.chatgpt())
    files = {f"x/conversations-{n:03}.json": as_json([one(f"{n}a"), one(f"{n}b")]) for n in (10, 2, 0)}
    conversations, problems = parts("chatgpt", zipped(files | {"export_manifest.json": b"{}"}))
    assert ([c.id for c in conversations], problems) == (["0a", "0b", "2a", "2b", "10a", "10b"], [])


def test_chatgpt_without_a_current_node_ends_at_the_latest_leaf():
    conversation = samples.chatgpt_conversation()
    conversation["current_node"] = "gone"
    assert [m.id for m in only("chatgpt", as_json([conversation])).messages] == ["u1", "a1", "u2"]


def test_chatgpt_parents_may_stand_in_the_children_alone():
    conversation = samples.chatgpt_conversation()
    del conversation["mapping"]["a1"]["parent"]
    conversation["mapping"]["tool"]["children"] = ["a1"]
    assert [m.id for m in only("chatgpt", as_json([conversation])).messages] == ["u1", "a1", "u2"]


def test_chatgpt_nodes_in_a_circle_end():
    conversation = samples.chatgpt_conversation()
    conversation["mapping"]["root"]["parent"] = "u2"
    assert [m.id for m in only("chatgpt", as_json([conversation])).messages] == ["u1", "a1", "u2"]


def test_chatgpt_one_bad_message_is_one_problem():
    conversation = samples.chatgpt_conversation()
    conversation["mapping"]["a1"]["message"]["content"] = 7
    [found], problems = parts("chatgpt", as_json([conversation]))
    assert [m.id for m in found.messages] == ["u1", "u2"]
    assert problems == [Problem(item_id="c-1/a1", code="BAD_MESSAGE", message="A message has no content.")]


def test_one_bad_conversation_is_one_problem():
    data = as_json([7, samples.chatgpt_conversation(), {"title": "no mapping"}])
    [found], problems = parts("chatgpt", data, name="conversations.json")
    assert found.id == "c-1"
    assert [(p.item_id, p.code) for p in problems] == [
        ("conversations.json/0", "BAD_CONVERSATION"),
        ("conversations.json/2", "BAD_CONVERSATION"),
    ]


@pytest.mark.parametrize("platform", ["chatgpt", "claude", "telegram"])
def test_memory_stays_near_one_conversation(platform: str):
    many = {
        "chatgpt": lambda: [samples.chatgpt_conversation() | {"conversation_id": f"c{n}"} for n in range(1000)],
        "claude": lambda: [samples.claude_conversation() | {"uuid": f"c{n}"} for n in range(1000)],
        "telegram": lambda: {"chats": {"list": [export_people.telegram_chat() | {"id": n} for n in range(1000)]}},
    }
    data = as_json(many[platform]())
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_export(platform, data)) == 1000
        assert tracemalloc.get_traced_memory()[1] < len(data) / 4
    finally:
        tracemalloc.stop()


def test_one_conversation_alone_is_an_export_and_so_is_a_list_in_an_object():
    one = samples.chatgpt_conversation()
    for value in (one, {"conversations": [one]}):
        data = b"\xef\xbb\xbf \n" + as_json(value)
        assert only("chatgpt", data).id == "c-1"
        assert detect(data) == "chatgpt"


def test_half_an_emoji_is_repaired():
    data = samples.chatgpt().replace(b"Thanks", rb"Thanks \ud83d and \ud83d\ude00 and \\ud83d")
    assert "Thanks \ufffd and 😀 and \\ud83d" in only("chatgpt", data).messages[2].text


def test_bytes_that_are_no_utf8_are_repaired():
    assert "Th\ufffdnks" in only("chatgpt", samples.chatgpt().replace(b"Thanks", b"Th\xffnks")).messages[2].text


def test_claude_has_text_blocks_attachments_as_quotes_and_files():
    assert only("claude", samples.claude()) == Conversation(
        id="cl-1",
        title="Garden plan",
        created_at=at("2024-05-01T09:59:00.5"),
        updated_at=at("2024-05-01T10:00:00"),
        messages=[
            Message(
                id="m1",
                role="user",
                text="What grows in shade?\n[file: soil.txt]\n> clay\n> wet\n[image: yard.jpg]",
                said_at=at("2024-05-01T10:00:00"),
            ),
            Message(
                id="m2",
                role="assistant",
                text="Let me look.\n\nFerns.",
                said_at=at("2024-05-01T10:00:05"),
                mine=False,
            ),
            Message(id="m3", role="user", text="Thank you", said_at=at("2024-05-01T10:01:00")),
        ],
    )


def test_claude_in_its_zip():
    files = {"users.json": b"[]", "projects.json": b"[]", "conversations.json": samples.claude()}
    assert only("claude", zipped(files)) == only("claude", samples.claude())


def test_claude_follows_the_leaf_where_messages_name_their_parents():
    none = "00000000-0000-4000-8000-000000000000"
    messages = [
        samples.claude_message("q", "human", "first", parent_message_uuid=none),
        samples.claude_message("old", "assistant", "old answer", parent_message_uuid="q"),
        samples.claude_message("tools", "assistant", parent_message_uuid="q"),
        samples.claude_message("new", "assistant", "new answer", parent_message_uuid="tools"),
    ]
    conversation = samples.claude_conversation() | {"chat_messages": messages, "current_leaf_message_uuid": "new"}
    assert [m.id for m in only("claude", as_json([conversation])).messages] == ["q", "new"]
    messages[2] = "damaged"
    [found], _ = parts("claude", as_json([conversation]))
    assert [m.id for m in found.messages] == ["q", "old", "new"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_is_no_export_is_refused(platform: str):
    assert refused(platform, b"").code == "EMPTY"
    for data in (b"hello", b"[", b"{}", b"null", b"7", b'"x"', b"\x00\xff\xfe", b"PK\x03\x04garbage", zipped({})):
        assert isinstance(refused(platform, data), Unreadable)


def test_an_export_of_another_platform_is_named():
    error = refused("chatgpt", samples.claude())
    assert (error.code, error.message) == (
        "WRONG_FORMAT",
        "This is no export of ChatGPT; it looks like one of Claude.",
    )
    assert refused("myspace", b"x").code == "UNKNOWN_PLATFORM"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_sample_is_detected(platform: str):
    assert detect(SAMPLES[platform]()) == platform


def test_what_is_no_export_is_not_detected():
    for data in (b"", b"[]", b"{}", b"hello", b"PK\x03\x04", zipped({"a.txt": b"hello"}), zipped({"a.json": b"[1]"})):
        assert detect(data) is None


def test_a_zip_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch):
    bomb = zipped({"conversations.json": b"[" + b" " * 20_000_000 + b"]"})
    assert refused("chatgpt", bomb).code == "TOO_LARGE"
    monkeypatch.setattr(zips, "RATIO_FREE_BYTES", 100_000_000)
    monkeypatch.setattr(zips, "MAX_ENTRY_BYTES", 1_000_000)
    assert refused("chatgpt", bomb).code == "TOO_LARGE"
    monkeypatch.setattr(zips, "MAX_ENTRIES", 0)
    assert refused("chatgpt", zipped({"conversations.json": samples.chatgpt()})).code == "TOO_LARGE"


def test_files_that_are_too_large_are_problems_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zips, "MAX_ENTRY_BYTES", len(samples.chatgpt()))
    data = zipped({"conversations-1.json": samples.chatgpt(), "conversations-2.json": samples.chatgpt() + b" "})
    conversations, problems = parts("chatgpt", data)
    assert ([c.id for c in conversations], [p.code for p in problems]) == (["c-1"], ["TOO_LARGE"])


def test_a_locked_zip_and_a_zip_of_zips_are_refused():
    locked = bytearray(zipped({"conversations.json": samples.chatgpt()}))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + flags] |= 1
    assert refused("chatgpt", bytes(locked)).code == "ENCRYPTED"
    assert refused("chatgpt", zipped({"export.zip": zipped({})})).code == "NESTED_ZIP"
