"""Readers of chat exports: conversations, roles, names, times and texts, exactly as they were said."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from app.integrations.exports import zips
from app.integrations.exports.reader import PLATFORMS, detect, read_export
from app.integrations.types import Conversation, Message, Problem, Unreadable
from tests import export_samples as samples
from tests.export_samples import as_json, zipped


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def parts(platform: str, data: bytes, **more: Any) -> tuple[list[Conversation], list[Problem]]:
    found = list(read_export(platform, data, **more))
    return [x for x in found if isinstance(x, Conversation)], [x for x in found if isinstance(x, Problem)]


def only(platform: str, data: bytes, **more: Any) -> Conversation:
    conversations, problems = parts(platform, data, **more)
    assert problems == []
    [conversation] = conversations
    return conversation


def refused(platform: str, data: bytes, **more: Any) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        list(read_export(platform, data, **more))
    return caught.value


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
        "telegram": lambda: {"chats": {"list": [samples.telegram_chat() | {"id": n} for n in range(1000)]}},
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


def lines(conversation: Conversation) -> list[tuple[str, str | None, str, bool]]:
    return [(m.id, m.name, m.text, m.mine) for m in conversation.messages]


def test_telegram_whole_account_knows_whose_it_is():
    conversations, problems = parts("telegram", samples.telegram())
    assert problems == []
    ben, bot = conversations
    assert (ben.id, ben.title, ben.created_at, ben.updated_at) == (
        "22",
        "Ben",
        at("2024-03-01T08:00:02"),
        at("2024-03-01T08:00:11"),
    )
    assert lines(ben) == [
        ("2", "Ben", "Hi Ann", False),
        ("3", "Ann Lee", "See this (https://x.example/) & that", True),
        ("4", "Ann Lee", "[forwarded from: Carl]\nOld words", False),
        ("5", "Ben", "[reply to: Ann Lee]\nNice\n[image: photo_1.jpg]", False),
        ("6", "Ann Lee", "[file: plan.pdf]", True),
        ("7", "Ben", "[voice message]", False),
        ("8", "Ann Lee", "[sticker: 👍]", True),
        ("9", "Ben", "[location: 1.5, 2.5]", False),
        ("10", "Ann Lee", "[poll: Tea? | Yes | No]", True),
        ("11", "Ben", "[contact: Dora]", False),
    ]
    assert [m.said_at for m in ben.messages[:2]] == [at("2024-03-01T08:00:02"), at("2024-03-01T08:00:03")]
    assert {m.role for m in ben.messages} == {"user"}
    assert [(m.role, m.name, m.text, m.mine) for m in bot.messages] == [
        ("user", "Ann Lee", "/start", True),
        ("assistant", "Weather", "Sunny", False),
    ]


@pytest.mark.parametrize("me", ["Ann Lee", " ann  LEE ", "user11", "11"])
def test_telegram_one_chat_needs_to_be_told_who_its_person_is(me: str):
    data = as_json(samples.telegram_chat())
    assert {m.mine for m in only("telegram", data).messages} == {False}
    named = only("telegram", data, me=me)
    assert {m.name for m in named.messages if m.mine} == {"Ann Lee"}
    assert not named.messages[2].mine


def test_telegram_what_a_deleted_account_said_first_is_still_forwarded():
    chat = samples.telegram_chat()
    chat["messages"] = [samples.telegram_message(1, samples.ANN, "Old words", forwarded_from=None)]
    assert lines(only("telegram", as_json(chat), me="Ann Lee")) == [("1", "Ann Lee", "[forwarded]\nOld words", False)]


def test_a_person_nobody_knows_is_told():
    conversations, problems = parts("telegram", as_json(samples.telegram_chat()), me="Zoe")
    assert {m.mine for m in conversations[0].messages} == {False}
    assert [p.code for p in problems] == ["SPEAKER_NOT_FOUND"]


def test_telegram_a_lone_speaker_is_the_person_unless_the_chat_is_theirs():
    chat = samples.telegram_chat()
    chat["messages"] = [m for m in chat["messages"] if m.get("from") == "Ben"]
    assert {m.mine for m in only("telegram", as_json(chat)).messages} == {False}
    assert {m.mine for m in only("telegram", as_json(chat | {"id": 11})).messages} == {True}
    post = samples.telegram_message(1, ("News", "channel9"), "Headline")
    channel = {"name": "News", "type": "public_channel", "id": 9, "messages": [post]}
    assert lines(only("telegram", as_json(channel))) == [("1", "News", "Headline", False)]


def test_telegram_in_a_zip_is_not_what_was_sent_as_a_file():
    files = {"x/result.json": samples.telegram(), "x/chats/chat_1/files/config.json": b"{}"}
    assert [c.id for c in parts("telegram", zipped(files))[0]] == ["22", "33"]
    assert parts("telegram", zipped(files))[1] == []
    assert detect(zipped({f"x/a/{n}.json": b"{}" for n in range(30)} | files)) == "telegram"
    assert only("telegram", zipped({"ben.json": as_json(samples.telegram_chat())})).id == "22"


def test_telegram_times_without_a_zone_are_of_the_zone_that_is_told():
    chat = samples.telegram_chat()
    chat["messages"] = [m | {"date_unixtime": None, "from_id": 11} for m in chat["messages"][1:2]]
    assert only("telegram", as_json(chat)).created_at == at("2024-03-01T10:00:00")
    east = timezone(timedelta(hours=2))
    assert only("telegram", as_json(chat), zone=east).created_at == at("2024-03-01T08:00:00")


def test_whatsapp_of_an_iphone():
    chat = only("whatsapp", samples.whatsapp(), name="_chat.txt", me="ann lee")
    assert [(m.name, m.text, m.said_at, m.mine) for m in chat.messages] == [
        ("Ann Lee", "Happy new year: almost!\nThree hours to go", at("2023-12-31T22:15:03"), True),
        ("Ben", "[image: 00000002-PHOTO-2023.jpg]", at("2023-12-31T22:16:00"), False),
        ("Ben", "Look\n[audio: 00000003-AUDIO-2023.opus]", at("2023-12-31T22:17:00"), False),
        ("Ann Lee", "[image]", at("2024-01-01T00:00:01"), True),
        ("Carl", "Hi @Ann Lee", at("2024-01-01T00:00:02"), False),
        ("Ben", "Location: https://maps.example/?q=1,2", at("2024-01-01T00:00:03"), False),
        ("Ann Lee", "ok", at("2024-01-01T00:00:05"), True),
        ("Ann Lee", "ok", at("2024-01-01T00:00:05"), True),
        ("Ben", "[file: plan.pdf]", at("2024-01-01T00:00:06"), False),
    ]
    assert (chat.title, chat.created_at) == (None, at("2023-12-31T22:15:03"))
    assert len({m.id for m in chat.messages}) == 9
    assert {m.role for m in chat.messages} == {"user"}


def test_whatsapp_of_android():
    chat = only("whatsapp", samples.WHATSAPP_ANDROID.encode(), name="WhatsApp Chat with Ben (1).txt")
    assert chat.title == "Ben"
    assert [(m.role, m.name, m.text, m.said_at, m.mine) for m in chat.messages] == [
        (
            "user",
            "Ann",
            "Happy new year\n\nand a good one\n99/99/2023, 22:21 - Zoe: pasted",
            at("2023-12-31T22:15:00"),
            False,
        ),
        ("user", "Ben", "[image: IMG-20231231-WA0001.jpg]\nThe bridge", at("2023-12-31T22:16:00"), False),
        ("user", "Ben", "[media]", at("2023-12-31T22:17:00"), False),
        ("assistant", "Meta AI", "Hello!", at("2023-12-31T22:19:00"), False),
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[12/31/23, 10:15:03\u202fPM] Ann: hi", "2023-12-31T22:15:03"),
        ("12/31/23, 12:05 AM - Ann: hi", "2023-12-31T00:05:00"),
        ("12/31/23, 12:05\u202fPM - Ann: hi", "2023-12-31T12:05:00"),
        ("31/12/23, 10:15 p. m. - Ann: hi", "2023-12-31T22:15:00"),
        ("[31.12.23, 22:15:03] Ann: hi", "2023-12-31T22:15:03"),
        ("05.04.23, 22:15 - Ann: hi", "2023-04-05T22:15:00"),
        ("[5.4.2023 klo 22.15.03] Ann: hi", "2023-04-05T22:15:03"),
        ("2023-04-05, 22:15 - Ann: hi", "2023-04-05T22:15:00"),
        ("[2023/4/5 下午10:15:03] Ann: hi", "2023-04-05T22:15:03"),
        ("31-12-2023 22:15 - Ann: hi", "2023-12-31T22:15:00"),
    ],
)
def test_whatsapp_dates_of_every_region(written: str, expected: str):
    [message] = only("whatsapp", written.encode()).messages
    assert (message.name, message.text, message.said_at) == ("Ann", "hi", at(expected))


@pytest.mark.parametrize(
    ("dates", "first", "told"),
    [
        (["01/02/2023", "13/02/2023"], "2023-02-01", None),
        (["01/02/2023", "02/13/2023"], "2023-01-02", None),
        (["03/04/2023", "05/04/2023", "02/05/2023"], "2023-04-03", None),
        (["04/03/2023", "04/05/2023", "05/02/2023"], "2023-04-03", None),
        (["03/04/2023", "04/04/2023"], "2023-04-03", "day, month, year"),
    ],
)
def test_whatsapp_order_of_day_and_month_is_decided_over_the_whole_file(dates: list[str], first: str, told: str | None):
    [chat], problems = parts("whatsapp", "\n".join(f"{date}, 10:00 - Ann: hi" for date in dates).encode())
    assert chat.messages[0].said_at == at(f"{first}T10:00")
    assert [p.code for p in problems] == (["DATE_ORDER_ASSUMED"] if told else [])
    assert all(str(told) in p.message for p in problems)


def test_whatsapp_ids_stay_when_the_export_begins_later():
    whole = samples.WHATSAPP_IOS
    later = whole[whole.index("[01/01/2024, 00:00:02]") :]
    [[one], [two]] = [parts("whatsapp", x.encode(), name="WhatsApp Chat - Ben.txt")[0] for x in (whole, later)]
    assert one.id == two.id
    assert [m.id for m in one.messages[-len(two.messages) :]] == [m.id for m in two.messages]


def test_whatsapp_in_its_zip_takes_its_title_from_it():
    data = zipped({"_chat.txt": samples.whatsapp(), "00000002-PHOTO-2023.jpg": b"\xff\xd8"})
    assert only("whatsapp", data, name="WhatsApp Chat - Ben & co.zip").title == "Ben & co"


def test_whatsapp_in_a_zip_is_not_what_was_sent_as_a_file():
    files = {"_chat.txt": samples.whatsapp(), "00000009-old.txt": b"31/12/2023, 22:15 - Zoe: hi", "a.txt": b"notes"}
    assert "Zoe" not in {m.name for m in only("whatsapp", zipped(files)).messages}


def test_whatsapp_a_lone_speaker_is_the_person_unless_the_chat_is_with_them():
    data = b"31/12/2023, 22:15 - Ann: hi"
    assert only("whatsapp", data).messages[0].mine
    assert not only("whatsapp", data, name="WhatsApp Chat with Ann.txt").messages[0].mine


def test_whatsapp_times_are_of_the_zone_that_is_told():
    zone = timezone(timedelta(hours=-5))
    chat = only("whatsapp", samples.whatsapp(), zone=zone)
    assert chat.created_at == at("2024-01-01T03:15:03")


def test_slack_channels_in_the_order_of_time_with_names_and_links_resolved():
    conversations, problems = parts("slack", samples.slack(), me="Ann")
    assert problems == []
    assert [(c.id, c.title) for c in conversations] == [
        ("D1", "Ann, Ben Day"),
        ("C1", "#general"),
        ("G1", "Ben Day, Ann"),
    ]
    general = conversations[1]
    assert [(m.id, m.role, m.name, m.text, m.mine) for m in general.messages] == [
        (
            "1704100000.000200",
            "user",
            "Ann",
            "@Ben Day see #general & #general, http://x.example <b> by mail",
            True,
        ),
        ("1704100000.000300", "user", "Ben Day", "@here @team @zed @U8 a < b", False),
        ("1704100500.000300", "user", "Ann", "In the thread", True),
        ("1704100600.000100", "assistant", "CI", "Build @Ann ok", False),
        ("1704100700.000100", "assistant", "Deploy", "Deployed", False),
        ("1704100800.000100", "user", "Ann", "[image: cat.png]", True),
        ("1704100900.000100", "user", "Gus", "Guest", False),
        ("1704186000.000100", "user", "Ben Day", "Later", False),
    ]
    assert general.created_at == at("2024-01-01T09:06:40.0002")
    assert general.messages[-1].said_at == at("2024-01-02T09:00:00.0001")


def test_slack_links_keep_their_words():
    files = samples.slack_files()
    day = [samples.slack_message("1704186000.000100", "U2", "<https://a.example/?a=1&amp;b=2|the plan> &amp;lt;")]
    files["D1/2024-01-01.json"] = as_json(day)
    direct = next(c for c in parts("slack", zipped(files))[0] if c.id == "D1")
    assert direct.messages[0].text == "the plan (https://a.example/?a=1&b=2) &lt;"


def test_slack_without_a_name_only_a_lone_human_is_the_person():
    assert not any(m.mine for c in parts("slack", samples.slack())[0] for m in c.messages)
    users = as_json([{"id": "U1", "name": "ann"}, {"id": "U9", "name": "d", "is_bot": True}])
    files = {"x/users.json": users, "x/C1/2024-01-01.json": samples.slack_files()["general/2024-01-01.json"]}
    [chat] = parts("slack", zipped(files))[0]
    assert {m.name for m in chat.messages if m.mine} == {"ann"}


@pytest.mark.parametrize("me", ["U1", "ann.lee", "@ann"])
def test_slack_people_go_by_their_id_and_all_their_names(me: str):
    conversations, problems = parts("slack", samples.slack(), me=me)
    assert problems == []
    assert {m.name for c in conversations for m in c.messages if m.mine} == {"Ann"}


def test_slack_a_damaged_day_or_list_leaves_the_rest():
    files = samples.slack_files() | {
        "users.json": b"{",
        "general/2024-01-02.json": b"[1, {}]",
        "D1/2024-01-01.json": b"",
    }
    conversations, problems = parts("slack", zipped(files))
    assert [c.id for c in conversations] == ["C1", "G1"]
    assert conversations[0].messages[0].name == "U1"
    assert sorted((p.item_id, p.code) for p in problems) == [
        ("C1/general/2024-01-02.json/1", "BAD_MESSAGE"),
        ("D1/2024-01-01.json", "DAMAGED"),
        ("general/2024-01-02.json/0", "BAD_MESSAGE"),
        ("users.json", "DAMAGED"),
    ]


def test_discord_channel():
    channel = only("discord", samples.discord(), me="ann")
    assert (channel.id, channel.title) == ("100", "Makers #general")
    assert [(m.id, m.role, m.name, m.text, m.mine) for m in channel.messages] == [
        ("2", "user", "Ann Lee", "Hello", True),
        ("3", "user", "ben", "[reply to: Ann Lee]\nHi\n[image: cat.png]", False),
        ("4", "assistant", "Helper", "Weather\nSunny\nWind: low", False),
        ("5", "user", "Ann Lee", "[sticker: wave]", True),
        ("6", "user", "ben", "[forwarded]\n> Big news", False),
    ]
    assert channel.messages[0].said_at == at("2024-01-01T10:00:02.5")


@pytest.mark.parametrize("me", ["Ann Lee", "11", "ann#0000"])
def test_discord_people_go_by_their_id_and_all_their_names(me: str):
    assert {m.name for m in only("discord", samples.discord(), me=me).messages if m.mine} == {"Ann Lee"}


def test_discord_several_channels_in_a_zip_without_what_was_attached():
    direct = samples.discord_channel()
    direct["guild"] = {"id": "0", "name": "Direct Messages"}
    direct["channel"] = {"id": "7", "type": "DirectTextChat", "name": "helper"}
    direct["messages"] = [samples.discord_message("8", "ann", "help"), samples.discord_message("9", "bot", "yes?")]
    files = {"a.json": as_json(direct), "a.json_Files/config.json": b"{}"}
    alone = only("discord", zipped(files))
    assert (alone.title, [m.mine for m in alone.messages]) == ("helper", [True, False])
    conversations, problems = parts("discord", zipped(files | {"b.json": samples.discord(), "c.json": b"{}"}))
    assert [c.id for c in conversations] == ["7", "100"]
    assert not any(m.mine for c in conversations for m in c.messages)
    assert [(p.item_id, p.code) for p in problems] == [("c.json", "DAMAGED")]


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
    assert detect(samples.SAMPLES[platform]()) == platform


def test_what_is_no_export_is_not_detected():
    for data in (b"", b"[]", b"{}", b"hello", b"PK\x03\x04", zipped({"a.txt": b"hello"}), zipped({"a.json": b"[1]"})):
        assert detect(data) is None


def test_a_zip_that_says_it_is_small_is_counted_while_unpacked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zips, "RATIO_FREE_BYTES", 1000)
    monkeypatch.setattr(zips, "RATIO", 10)
    bomb = zipped({"conversations.json": b"[" + b" " * 10_000_000 + b"]"})
    assert refused("chatgpt", bomb).code == "TOO_LARGE"
    monkeypatch.setattr(zips, "RATIO_FREE_BYTES", 100_000_000)
    monkeypatch.setattr(zips, "MEMBER_BYTES", 1_000_000)
    assert refused("chatgpt", bomb).code == "TOO_LARGE"
    monkeypatch.setattr(zips, "MEMBERS", 0)
    assert refused("chatgpt", bomb).code == "TOO_MANY_FILES"


def test_members_together_have_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zips, "TOTAL_BYTES", int(len(samples.chatgpt()) * 1.5))
    data = zipped({f"conversations-{n}.json": samples.chatgpt() for n in range(3)})
    conversations, problems = parts("chatgpt", data)
    assert ([c.id for c in conversations], [p.code for p in problems]) == (["c-1"], ["TOO_LARGE", "TOO_LARGE"])


def test_a_locked_zip_and_a_zip_of_zips_are_refused():
    locked = bytearray(zipped({"conversations.json": samples.chatgpt()}))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + flags] |= 1
    assert refused("chatgpt", bytes(locked)).code == "ENCRYPTED"
    assert refused("chatgpt", zipped({"export.zip": zipped({})})).code == "NESTED_ZIP"
