"""Small exports of chats among people, in each platform's shape."""

from __future__ import annotations

from typing import Any

from tests.export_samples import as_json, zipped


def telegram_message(number: int, who: tuple[str, str], words: Any, **more: Any) -> dict:
    return {
        "id": number,
        "type": "message",
        "date": "2024-03-01T10:00:00",
        "date_unixtime": str(1709280000 + number),
        "from": who[0],
        "from_id": who[1],
        "text": words,
        "text_entities": [],
    } | more


ANN, BEN, BOT = ("Ann Lee", "user11"), ("Ben", "user22"), ("Weather", "user33")


def telegram_chat() -> dict:
    return {
        "name": "Ben",
        "type": "personal_chat",
        "id": 22,
        "messages": [
            {"id": 1, "type": "service", "date": "2024-03-01T09:00:00", "actor": "Ben", "action": "phone_call"},
            telegram_message(2, BEN, "Hi Ann"),
            telegram_message(
                3, ANN, ["See ", {"type": "text_link", "text": "this", "href": "https://x.example/"}, " & ", "that"]
            ),
            telegram_message(4, ANN, "Old words", forwarded_from="Carl"),
            telegram_message(5, BEN, "Nice", reply_to_message_id=3, photo="photos/photo_1.jpg"),
            telegram_message(
                6,
                ANN,
                "",
                file="(File not included. Change data exporting settings to download.)",
                file_name="plan.pdf",
                mime_type="application/pdf",
            ),
            telegram_message(7, BEN, "", file="voice/1.ogg", media_type="voice_message", mime_type="audio/ogg"),
            telegram_message(8, ANN, "", file="s.webp", media_type="sticker", sticker_emoji="👍"),
            telegram_message(9, BEN, "", location_information={"latitude": 1.5, "longitude": 2.5}),
            telegram_message(
                10, ANN, "", poll={"question": "Tea?", "answers": [{"text": "Yes"}, {"text": "No"}], "closed": False}
            ),
            telegram_message(11, BEN, "", contact_information={"first_name": "Dora", "last_name": "", "phone": "1"}),
        ],
    }


def telegram() -> bytes:
    bot = {
        "name": "Weather",
        "type": "bot_chat",
        "id": 33,
        "messages": [
            telegram_message(1, ANN, [{"type": "bot_command", "text": "/start"}]),
            telegram_message(2, BOT, "Sunny"),
        ],
    }
    about = "Here is the data you requested."
    return as_json(
        {
            "about": about,
            "personal_information": {"user_id": 11, "first_name": "Ann", "last_name": "Lee", "username": "@ann"},
            "chats": {"about": about, "list": [telegram_chat(), bot]},
            "left_chats": {
                "about": about,
                "list": [{"name": "Club", "type": "private_group", "id": 5, "messages": []}],
            },
        }
    )


WHATSAPP_IOS = """\
[31/12/2023, 22:15:03] Ann Lee: \u200eMessages and calls are end-to-end encrypted.
[31/12/2023, 22:15:03] Ann Lee: Happy new year: almost!
Three hours to go
\u200e[31/12/2023, 22:16:00] Ben: \u200e<attached: 00000002-PHOTO-2023.jpg>
[31/12/2023, 22:17:00] Ben: Look \u200e<attached: 00000003-AUDIO-2023.opus>
\u200e[01/01/2024, 00:00:01] Ann Lee: \u200eimage omitted
[01/01/2024, 00:00:02] ~\u202fCarl: Hi @\u2068Ann Lee\u2069 \u200e<This message was edited>
\u200e[01/01/2024, 00:00:03] Ben: \u200eLocation: https://maps.example/?q=1,2
[01/01/2024, 00:00:04] Ben: \u200eThis message was deleted.
[01/01/2024, 00:00:05] Ann Lee: ok
[01/01/2024, 00:00:05] Ann Lee: ok
[01/01/2024, 00:00:06] Ben: \u200eplan.pdf • \u200e3 pages \u200edocument omitted
"""

WHATSAPP_ANDROID = """\
31/12/2023, 22:15 - Messages and calls are end-to-end encrypted. Tap to learn more.
31/12/2023, 22:15 - Ann changed the subject from “a: b” to “c: d”
31/12/2023, 22:15 - Ann: Happy new year

and a good one
99/99/2023, 22:21 - Zoe: pasted
31/12/2023, 22:16 - Ben: \u200eIMG-20231231-WA0001.jpg (file attached)
The bridge
31/12/2023, 22:17 - Ben: <Media omitted>
31/12/2023, 22:18 - Ann left
31/12/2023, 22:19 - Meta AI: Hello!
31/12/2023, 22:20 - Ann: You deleted this message
"""


def whatsapp() -> bytes:
    return WHATSAPP_IOS.replace("\n", "\r\n").encode()


def slack_message(at: str, user: str | None, words: str, **more: Any) -> dict:
    return {"type": "message", "ts": at, "text": words} | ({"user": user} if user else {}) | more


def slack_files() -> dict[str, bytes]:
    def user(number: str, name: str, shown: str, **more: Any) -> dict:
        return {
            "id": number,
            "name": name,
            "is_bot": False,
            "profile": {"display_name": shown, "real_name": name},
        } | more

    return {
        "users.json": as_json(
            [user("U1", "ann.lee", "Ann"), user("U2", "Ben Day", ""), user("U9", "deploy", "Deploy", is_bot=True)]
        ),
        "channels.json": as_json([{"id": "C1", "name": "general", "members": ["U1", "U2"]}]),
        "dms.json": as_json([{"id": "D1", "members": ["U1", "U2"]}]),
        "mpims.json": as_json([{"id": "G1", "name": "mpdm-ann--ben-1", "members": ["U2", "U1"]}]),
        "groups.json": as_json([]),
        "integration_logs.json": as_json([]),
        "general/2024-01-02.json": as_json(
            [
                slack_message("1704186000.000100", "U2", "Late: <https://a.example/?a=1&amp;b=2|the plan>"),
                slack_message("1704100500.000300", "U1", "In the thread", thread_ts="1704100000.000100"),
                {
                    "type": "message",
                    "subtype": "message_changed",
                    "ts": "1704186001.000100",
                    "hidden": True,
                    "message": slack_message("1704186000.000100", "U2", "Later", edited={"user": "U2", "ts": "1"}),
                },
                slack_message("1704186002.000100", "U1", "Oops"),
                {
                    "type": "message",
                    "subtype": "message_deleted",
                    "ts": "1704186003.000100",
                    "deleted_ts": "1704186002.000100",
                },
            ]
        ),
        "general/2024-01-01.json": as_json(
            [
                slack_message("1704100000.000100", "U1", "<@U1> has joined the channel", subtype="channel_join"),
                slack_message(
                    "1704100000.000200",
                    "U1",
                    "<@U2> see <#C1|general> &amp; <#C1>, <http://x.example> &lt;b&gt; <mailto:a@x.example|by mail>",
                ),
                slack_message("1704100000.000300", "U2", "<!here> <!subteam^S1|@team> <@U7|zed> <@U8> a < b"),
                slack_message("1704100600.000100", None, "", subtype="bot_message", username="CI", bot_id="B1")
                | {"attachments": [{"fallback": "Build <@U1> ok"}]},
                slack_message("1704100700.000100", "U9", "Deployed", bot_id="B2"),
                slack_message("1704100800.000100", "U1", "", files=[{"name": "cat.png", "mimetype": "image/png"}]),
                slack_message(
                    "1704100900.000100", "U3", "Guest", user_profile={"real_name": "Gus", "display_name": ""}
                ),
            ]
        ),
        "D1/2024-01-01.json": as_json([slack_message("1704100000.000100", "U2", "psst")]),
        "mpdm-ann--ben-1/2024-01-01.json": as_json([slack_message("1704100000.000100", "U1", "hey all")]),
    }


def slack() -> bytes:
    return zipped(slack_files())


def discord_message(number: str, who: str, words: str, **more: Any) -> dict:
    authors = {
        "ann": {"id": "11", "name": "ann", "discriminator": "0000", "nickname": "Ann Lee", "isBot": False},
        "ben": {"id": "22", "name": "ben", "discriminator": "1234", "nickname": "ben", "isBot": False},
        "bot": {"id": "33", "name": "helper", "discriminator": "0001", "nickname": "Helper", "isBot": True},
    }
    return {
        "id": number,
        "type": "Default",
        "timestamp": f"2024-01-01T12:00:0{int(number) % 10}.5+02:00",
        "timestampEdited": None,
        "isPinned": False,
        "content": words,
        "author": authors[who] | {"color": None, "roles": [], "avatarUrl": ""},
        "attachments": [],
        "embeds": [],
        "stickers": [],
        "reactions": [],
        "mentions": [],
    } | more


def discord_channel() -> dict:
    return {
        "guild": {"id": "1", "name": "Makers", "iconUrl": ""},
        "channel": {"id": "100", "type": "GuildTextChat", "category": "Text", "name": "general", "topic": None},
        "dateRange": {"after": None, "before": None},
        "exportedAt": "2024-02-01T00:00:00+00:00",
        "messages": [
            discord_message("1", "ann", "Joined the server.", type="GuildMemberJoin"),
            discord_message("2", "ann", "Hello", embeds=[{"title": "A link", "description": "preview"}]),
            discord_message(
                "3",
                "ben",
                "Hi",
                type="Reply",
                reference={"messageId": "2", "channelId": "100"},
                attachments=[{"id": "9", "fileName": "cat.png", "fileSizeBytes": 3}],
            ),
            discord_message(
                "4",
                "bot",
                "",
                type="20",
                embeds=[{"title": "Weather", "description": "Sunny", "fields": [{"name": "Wind", "value": "low"}]}],
            ),
            discord_message("5", "ann", "", stickers=[{"id": "8", "name": "wave", "format": "Png"}]),
            discord_message("6", "ben", "", forwardedMessage={"content": "Big news", "attachments": []}),
        ],
        "messageCount": 6,
    }


def discord() -> bytes:
    return as_json(discord_channel())
