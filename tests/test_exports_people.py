"""Exports of chats among people: who spoke, in what order, when, and which of it the account's person said."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from app.integrations.exports.reader import detect
from tests import export_people as samples
from tests.export_rig import at, lines, only, parts
from tests.export_samples import as_json, zipped


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
