"""Claude's data export: ``conversations.json`` with ``chat_messages``, alone or in its zip.

Choices:

1. A message's words are its content blocks of text; ``text`` only where there are none, since it has placeholders in
   the place of tools. Tools and reasoning are left out.
2. What was read out of an attachment follows its line as a block quote: the person sent it, but did not say it. The
   first ``EXTRACT_CHARACTERS`` of it.
3. Where messages name their parents and the conversation its leaf, only the path to that leaf counts: edited branches
   stay out. Exports without them are one line already.
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
    quoted,
    records,
    text,
    together,
)
from app.integrations.exports.source import Gathered, Item, Source
from app.integrations.types import Message

FILES = re.compile(r"(?:.*/)?conversations(?:-[0-9]+)?\.json")
MARK = "chat_messages"
EXTRACT_CHARACTERS = 20_000

_NO_PARENT = "00000000-0000"
"""How the parent of a first message begins."""


def read(source: Source) -> Iterator[Item]:
    """The conversations of the export."""
    return source.conversations(FILES, MARK, _conversation)


def _conversation(raw: Raw) -> Iterator[Item]:
    top = members(raw)
    if MARK not in top:
        raise Malformed("has no messages")
    created = anything(top.get("created_at"))
    title = label(anything(top.get("name")))
    gathered = Gathered(own_id(anything(top.get("uuid")), "claude", str(created), title or ""))
    parents: dict[str, str] = {}

    def message(fields: dict[str, Any]) -> Message | None:
        name, parent = fields.get("uuid"), fields.get("parent_message_uuid")
        if isinstance(name, str) and isinstance(parent, str):
            parents[name] = parent
        return _message(fields, len(gathered.messages))

    gathered.read(items(top[MARK]), message)
    leaf = anything(top.get("current_leaf_message_uuid"))
    if isinstance(leaf, str) and leaf in parents:
        gathered.messages = _path(gathered.messages, parents, leaf)
    yield from gathered.items(title, moment(created), moment(anything(top.get("updated_at"))))


def _path(messages: list[Message], parents: dict[str, str], leaf: str) -> list[Message]:
    """The messages on the way to ``leaf``; all of them when a damaged one leaves a gap in it."""
    kept: set[str] = set()
    name = leaf
    while name in parents and name not in kept:
        kept.add(name)
        name = parents[name]
    return [message for message in messages if message.id in kept] if name.startswith(_NO_PARENT) else messages


def _message(fields: dict[str, Any], place: int) -> Message | None:
    sender = fields.get("sender")
    if sender not in ("human", "assistant"):
        raise Malformed("has no sender")
    said = together(_words(fields), *_files(fields))
    if not said:
        return None
    return Message(
        id=own_id(fields.get("uuid"), "claude", str(place), sender, said),
        role="user" if sender == "human" else "assistant",
        text=said,
        said_at=moment(fields.get("created_at")),
        mine=sender == "human",
    )


def _words(fields: dict[str, Any]) -> str:
    blocks = records(fields.get("content"))
    words = [text(block.get("text")).strip() for block in blocks if block.get("type") in ("text", "voice_note")]
    return "\n\n".join(word for word in words if word) if blocks else text(fields.get("text"))


def _files(fields: dict[str, Any]) -> Iterator[str]:
    told = set()
    for file in records(fields.get("attachments")):
        name = label(file.get("file_name"))
        told.add(name)
        extract = text(file.get("extracted_content"))[:EXTRACT_CHARACTERS]
        yield together(attachment(name, mime=file.get("file_type")), quoted(extract) if extract.strip() else "")
    for file in records(fields.get("files")):
        name = label(file.get("file_name"))
        if name not in told:
            yield attachment(name)
