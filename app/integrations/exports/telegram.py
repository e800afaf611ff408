"""Telegram Desktop's export as JSON: ``result.json`` of one chat, or of a whole account (``chats.list``), or in a zip.

The shape is documented at core.telegram.org/import-export.

Choices:

1. ``date_unixtime`` counts where there is one: ``date`` has no zone, and is taken as of ``Source.zone``.
2. A whole account's export names its person. In a chat with one other person the chat's id is theirs, so that what
   they say is never taken for the account's person, even if nobody else speaks.
3. What was forwarded, or made by a bot on the way (``via_bot``), its sender did not say: it is nobody's own.
4. Left out: service messages, and whoever speaks for a channel is nobody in particular.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from app.integrations.exports.fields import (
    Malformed,
    Raw,
    anything,
    attachment,
    items,
    label,
    members,
    moment,
    own_id,
    records,
    text,
    together,
    whole,
    within,
)
from app.integrations.exports.source import Gathered, Item, Person, Source, bad_conversation, bad_file
from app.integrations.types import Message, Problem

_RESULT = re.compile(r"(?:.*/)?result[^/]*\.json")
_MEDIA = {
    "voice_message": "voice message",
    "video_message": "video message",
    "animation": "animation",
    "video_file": "video",
    "audio_file": "audio",
}


def read(source: Source) -> Iterator[Item]:
    """One conversation for each chat."""
    for document in source.documents(
        lambda name: _RESULT.fullmatch(name) is not None, lambda name: name.lower().endswith(".json")
    ):
        if isinstance(document, Problem):
            yield document
            continue
        try:
            top = members(document.data)
            person = _person(source.me, top)
            chats = _chats(top, document.data)
        except Malformed as why:
            yield bad_file(document, why)
            continue
        for place, raw in enumerate(chats):
            try:
                yield from _Chat(raw, person, source).items()
            except Malformed as why:
                yield bad_conversation(f"{document.label}/{place}", why)


def _person(me: Person, top: dict[str, Raw]) -> Person:
    """The person named by the caller, else the one whose whole account this is."""
    if me.known or "personal_information" not in top:
        return me
    user = within(anything(top["personal_information"])).get("user_id")
    return Person(_speaker(user)) if user else me


def _chats(top: dict[str, Raw], data: bytes) -> list[Raw]:
    if "messages" in top:
        return [whole(data)]
    found = [members(top[part]) for part in ("chats", "left_chats") if part in top]
    if not found:
        raise Malformed("is not such an export")
    return [chat for part in found if "list" in part for chat in items(part["list"])]


def _speaker(value: object) -> str | None:
    """A speaker's id as exports of today write it: ``user7``, ``channel7``; older ones have the number alone."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"user{own_id(value, 'telegram')}"
    return label(value)


class _Chat:
    """One chat while it is read."""

    def __init__(self, raw: Raw, person: Person, source: Source) -> None:
        top = members(raw)
        if "messages" not in top:
            raise Malformed("has no messages")
        self._raws = items(top["messages"])
        self._title = label(anything(top.get("name")))
        self._kind = anything(top.get("type"))
        number = anything(top.get("id"))
        self._partner = _speaker(number) if self._kind in ("personal_chat", "bot_chat") else None
        self._person = person
        self._zone = source.zone
        self._names: dict[str, str] = {}
        self._humans: set[str] = set()
        self._gathered = Gathered(own_id(number, "telegram", str(self._kind), self._title or ""))

    def items(self) -> Iterator[Item]:
        self._gathered.read(self._raws, self._message)
        if not self._person.known:
            self._gathered.only_if_alone(len(self._humans))
        yield from self._gathered.items(self._title)

    def _message(self, fields: dict[str, Any]) -> Message | None:
        if fields.get("type") != "message":
            if isinstance(fields.get("type"), str):
                return None
            raise Malformed("has no type")
        name, speaker = label(fields.get("from")), _speaker(fields.get("from_id"))
        words = together(_words(fields.get("text")), *_media(fields))
        if not words:
            return None
        forwarded = "forwarded_from" in fields or "saved_from" in fields
        replied = self._names.get(own_id(fields.get("reply_to_message_id"), "none"))
        said = together(
            attachment(replied, kind="reply to") if replied else "",
            _forward(fields) if forwarded else "",
            words,
        )
        number = own_id(fields.get("id"), "telegram", str(speaker), str(fields.get("date")), said)
        if name:
            self._names[number] = name
        bot = self._kind == "bot_chat" and speaker is not None and speaker == self._partner
        own = not bot and self._is_own(name, speaker)
        return Message(
            id=number,
            role="assistant" if bot else "user",
            text=said,
            said_at=moment(fields.get("date_unixtime")) or moment(fields.get("date"), self._zone),
            name=name,
            mine=own and not forwarded and not fields.get("via_bot"),
        )

    def _is_own(self, name: str | None, speaker: str | None) -> bool:
        if self._person.known:
            return self._person.is_one_of(name, speaker, speaker.removeprefix("user") if speaker else None)
        if speaker is None or speaker.startswith("user"):
            self._humans.add(speaker or name or "")
            return speaker is None or speaker != self._partner
        return False


def _forward(fields: dict[str, Any]) -> str:
    origin = label(fields.get("forwarded_from")) or label(fields.get("saved_from"))
    return attachment(origin, kind="forwarded from") if origin else "[forwarded]"


def _words(value: object) -> str:
    if not isinstance(value, list):
        return text(value)
    return "".join(_piece(piece) for piece in value)


def _piece(piece: object) -> str:
    if not isinstance(piece, dict):
        return text(piece)
    words, link = text(piece.get("text")), piece.get("href")
    return f"{words} ({text(link)})" if piece.get("type") == "text_link" and link and link != words else words


def _media(fields: dict[str, Any]) -> Iterator[str]:
    if fields.get("photo"):
        yield attachment(_file_name(fields["photo"]), kind="image")
    kind = fields.get("media_type")
    if kind == "sticker":
        yield attachment(fields.get("sticker_emoji"), kind="sticker")
    elif fields.get("file") or kind:
        name = label(fields.get("file_name")) or label(fields.get("title")) or _file_name(fields.get("file"))
        known = _MEDIA.get(kind) if isinstance(kind, str) else None
        yield attachment(None if known and "message" in known else name, mime=fields.get("mime_type"), kind=known)
    if contact := within(fields.get("contact_information")):
        names = [label(contact.get(part)) for part in ("first_name", "last_name")]
        yield attachment(" ".join(name for name in names if name), kind="contact")
    if place := within(fields.get("location_information")):
        where = label(fields.get("place_name")) or f"{place.get('latitude')}, {place.get('longitude')}"
        yield attachment(where, kind="location")
    if poll := within(fields.get("poll")):
        answers = [label(answer.get("text")) for answer in records(poll.get("answers"))]
        yield attachment(" | ".join(filter(None, [label(poll.get("question")), *answers])), kind="poll")


def _file_name(path: object) -> str | None:
    """The last part of a path; None where a sentence in its place says that the file was not exported."""
    return None if not isinstance(path, str) or path.startswith("(") else label(path.rsplit("/", 1)[-1])
