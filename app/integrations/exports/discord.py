"""Discord channels as DiscordChatExporter writes them in JSON: one file for each channel, or a zip of such files.

Choices:

1. A channel exported in several parts comes in several parts, under one id.
2. Left out: joins, pins, calls and all other types of message that nobody said, and previews of links; only of bots
   the embeds are what they say.
3. What was forwarded is told as a quote: its sender did not say it.
4. Without a name for the account's person, only the one human of all files can be it: they are looked through first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

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
    quoted,
    records,
    text,
    together,
    within,
)
from app.integrations.exports.source import Document, Gathered, Item, Source, bad_file
from app.integrations.types import Message, Problem

_SAID = frozenset({"Default", "Reply", "0", "19", "20", "23"})
"""Types by name, or by Discord's number where the exporter has no name: commands and their answers are 20 and 23."""
_DIRECT = ("DirectTextChat", "DirectGroupTextChat")


class _Author(msgspec.Struct):
    id: object = None
    isBot: object = None  # noqa: N815 - the field's own name


class _Spoken(msgspec.Struct):
    author: _Author | None = None


def read(source: Source) -> Iterator[Item]:
    """One conversation for each file."""
    lone_human = not source.me.known and len(_humans(source)) == 1
    for document in source.documents(_is_channel):
        if isinstance(document, Problem):
            yield document
            continue
        try:
            yield from _Channel(document, source, lone_human).items()
        except Malformed as why:
            yield bad_file(document, why)


def _is_channel(name: str) -> bool:
    """The exporter puts what was attached into folders of its own, in which there may be JSON as well."""
    return name.lower().endswith(".json") and "_Files/" not in name


def _humans(source: Source) -> set[str]:
    found = set()
    for document in source.documents(_is_channel):
        if isinstance(document, Problem):
            continue
        try:
            raws = _messages(members(document.data))
        except Malformed:
            continue
        for raw in raws:
            try:
                author = msgspec.json.decode(raw, type=_Spoken).author
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if author and author.isBot is not True:
                found.add(own_id(author.id, "discord"))
    return found


def _messages(top: dict[str, Raw]) -> list[Raw]:
    if "messages" not in top or "channel" not in top:
        raise Malformed("is not such an export")
    return items(top["messages"])


class _Channel:
    """One channel while it is read."""

    def __init__(self, document: Document, source: Source, lone_human: bool) -> None:
        top = members(document.data)
        self._raws = _messages(top)
        channel, guild = within(anything(top["channel"])), within(anything(top.get("guild")))
        name, server = label(channel.get("name")), label(guild.get("name"))
        direct = channel.get("type") in _DIRECT or not server
        self._title = name if direct or not name else label(f"{server} #{name}")
        self._me = source.me
        self._lone_human = lone_human
        self._names: dict[str, str] = {}
        self._gathered = Gathered(own_id(channel.get("id"), "discord", self._title or document.label))

    def items(self) -> Iterator[Item]:
        self._gathered.read(self._raws, self._message)
        yield from self._gathered.items(self._title)

    def _message(self, fields: dict[str, Any]) -> Message | None:
        author = fields.get("author")
        if not isinstance(author, dict):
            raise Malformed("has no author")
        number, kind = fields.get("id"), fields.get("type")
        names = [label(author.get("nickname")), label(author.get("name"))]
        name = names[0] or names[1]
        if name and isinstance(number, str):
            self._names[number] = name
        if str(kind)[:40] not in _SAID:
            return None
        bot = author.get("isBot") is True
        forwarded = within(fields.get("forwardedMessage"))
        words = together(_words(fields, bot), _forward(forwarded) if forwarded else "")
        if not words:
            return None
        said = together(self._reply(fields), words)
        return Message(
            id=own_id(number, self._gathered.id, str(fields.get("timestamp"))[:40], said),
            role="assistant" if bot else "user",
            text=said,
            said_at=moment(fields.get("timestamp")),
            name=name,
            mine=not bot and self._is_own(author, names),
        )

    def _reply(self, fields: dict[str, Any]) -> str:
        number = within(fields.get("reference")).get("messageId")
        name = self._names.get(number) if isinstance(number, str) else None
        return attachment(name, kind="reply to") if name else ""

    def _is_own(self, author: dict[str, Any], names: list[str | None]) -> bool:
        if not self._me.known:
            return self._lone_human
        tag = f"{names[1]}#{label(author.get('discriminator'))}"
        return self._me.is_one_of(*names, tag, label(author.get("id")))


def _words(fields: dict[str, Any], bot: bool) -> str:
    stickers = [attachment(sticker.get("name"), kind="sticker") for sticker in records(fields.get("stickers"))]
    embeds = [_embed(embed) for embed in records(fields.get("embeds"))] if bot else []
    return together(text(fields.get("content")), *embeds, *_attachments(fields), *stickers)


def _attachments(fields: dict[str, Any]) -> list[str]:
    return [attachment(file.get("fileName")) for file in records(fields.get("attachments"))]


def _embed(embed: dict[str, Any]) -> str:
    rows = [f"{label(row.get('name')) or ''}: {text(row.get('value'))}" for row in records(embed.get("fields"))]
    return together(text(embed.get("title")), text(embed.get("description")), *rows)


def _forward(forwarded: dict[str, Any]) -> str:
    words = together(text(forwarded.get("content")), *_attachments(forwarded))
    return together("[forwarded]", quoted(words)) if words else ""
