"""Conversations sent inline: ``chat_data``, a list of conversations, or of the messages of one.

A conversation: ``{id?, title?, created_at?, updated_at?, messages[]}``. A message: ``{id?, role, content, timestamp? or
created_at?, name?}``, its role user (human too) or assistant; content a text, or text blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from app.integrations.exports.fields import (
    Malformed,
    Raw,
    items,
    label,
    members,
    moment,
    own_id,
    record,
    records,
    text,
    together,
)
from app.integrations.exports.source import Gathered, Item, Source, bad_conversation
from app.integrations.types import Message, Unreadable

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "ai": "assistant", "bot": "assistant"}
_TIMES = ("timestamp", "created_at", "createdAt", "time")


def read(source: Source) -> Iterator[Item]:
    """The conversations in an array. Raises `Unreadable` for what is none."""
    try:
        raws = items(source.data)
        flat = bool(raws) and "messages" not in members(raws[0])
    except Malformed as why:
        raise Unreadable("BAD_CHAT_DATA", f"chat_data {why}.") from why
    if flat:
        yield from _conversation("chat_data", {}, raws)
        return
    for place, raw in enumerate(raws):
        try:
            top = record(raw)
            yield from _conversation(f"chat_data/{place}", top, items(members(raw).get("messages", Raw(b"null"))))
        except Malformed as why:
            yield bad_conversation(f"chat_data/{place}", why)


def _conversation(where: str, top: dict[str, Any], raws: list[Raw]) -> Iterator[Item]:
    first = bytes(raws[0]).decode(errors="replace") if raws else ""
    gathered = Gathered(own_id(top.get("id"), where, str(label(top.get("title"))), first))
    gathered.read(raws, lambda said: _message(gathered, said))
    if raws and not gathered.messages:
        gathered.problem(where, "Nothing was said in a conversation.", "EMPTY")
    yield from gathered.items(label(top.get("title")), _time(top), moment(top.get("updated_at", top.get("updatedAt"))))


def _message(gathered: Gathered, said: dict[str, Any]) -> Message | None:
    role = _ROLES.get(str(said.get("role", "")).lower())
    if role is None:
        if str(said.get("role", "")).lower() in ("system", "tool", "developer"):
            return None
        raise Malformed("has a role that is neither user nor assistant")
    words = _words(said.get("content"))
    at = _time(said)
    if not words.strip():
        return None
    number = str(len(gathered.messages))
    return Message(
        id=own_id(said.get("id"), gathered.id, number, role, words),
        role="assistant" if role == "assistant" else "user",
        text=words,
        said_at=at,
        name=label(said.get("name")),
    )


def _words(content: object) -> str:
    if isinstance(content, list):
        return together(*(text(block.get("text")) for block in records(content)))
    if content is None:
        raise Malformed("has no content")
    return text(content)


def _time(said: dict[str, Any]) -> datetime | None:
    return next((at for name in _TIMES if (at := moment(said.get(name))) is not None), None)
