"""ChatGPT's data export: ``conversations.json``, or ``conversations-000.json`` and on, alone or in their zip.

Each conversation is a tree of nodes (``mapping``); ``current_node`` is the leaf that was on screen last.

Choices:

1. The conversation is the path from ``current_node`` up its parents: edited and regenerated branches stay out.
   Children are only asked where a node names no parent, as newer exports leave either out.
2. Left out: system and tool messages, what the model said to a tool, its reasoning, custom instructions, and whatever
   the page hides.
3. The marks of citations in answers are for the page alone and are removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from app.integrations.exports.fields import (
    Malformed,
    Raw,
    anything,
    attachment,
    label,
    members,
    moment,
    own_id,
    record,
    records,
    text,
    together,
    within,
)
from app.integrations.exports.source import Gathered, Item, Source
from app.integrations.types import Message

FILES = re.compile(r"(?:.*/)?conversations(?:-[0-9]+)?\.json")
MARK = "mapping"

_CITATION = re.compile("\ue200[^\ue200\ue201]*\ue201")
_PARTS = {
    "image_asset_pointer": "image",
    "audio_asset_pointer": "audio",
    "real_time_user_audio_video_asset_pointer": "audio",
    "video_container_asset_pointer": "video",
}


def read(source: Source) -> Iterator[Item]:
    """The conversations of the export."""
    return source.conversations(FILES, MARK, _conversation)


def _conversation(raw: Raw) -> Iterator[Item]:
    top = members(raw)
    if MARK not in top:
        raise Malformed("has no messages")
    nodes = members(top[MARK])
    conversation = own_id(
        anything(top.get("conversation_id")) or anything(top.get("id")), "chatgpt", *sorted(nodes)[:100]
    )
    gathered = Gathered(conversation)
    tree = _Tree(nodes)
    for name in tree.path(anything(top.get("current_node"))):
        try:
            message = _message(tree.nodes[name].get("message"), name)
        except Malformed as why:
            gathered.problem(f"{conversation}/{name}", f"A message {why}.")
        else:
            if message:
                gathered.messages.append(message)
    for name in tree.broken:
        gathered.problem(f"{conversation}/{name}", "A message is damaged.")
    yield from gathered.items(
        label(anything(top.get("title"))),
        moment(anything(top.get("create_time"))),
        moment(anything(top.get("update_time"))),
    )


class _Tree:
    """The nodes of a conversation by name, and their parents. ``broken`` are those that could not be decoded."""

    def __init__(self, raws: dict[str, Raw]) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.broken: list[str] = []
        for name, raw in raws.items():
            try:
                self.nodes[name] = record(raw)
            except Malformed:
                self.broken.append(name)
        self._parents: dict[str, str] = {}
        for name, node in self.nodes.items():
            children = node.get("children")
            for child in children if isinstance(children, list) else []:
                if isinstance(child, str):
                    self._parents.setdefault(child, name)
        for name, node in self.nodes.items():
            if isinstance(node.get("parent"), str):
                self._parents[name] = node["parent"]

    def path(self, leaf: object) -> list[str]:
        """From the first message down to ``leaf``; where that is none of them, to the latest leaf."""
        name = leaf if isinstance(leaf, str) and leaf in self.nodes else self._latest_leaf()
        found: dict[str, None] = {}
        while name is not None and name not in found:
            found[name] = None
            name = self._parents.get(name)
        return [name for name in reversed(found) if name in self.nodes]

    def _latest_leaf(self) -> str | None:
        inner = set(self._parents.values())
        leaves = [name for name in self.nodes if name not in inner]
        return max(leaves, key=self._time, default=None)

    def _time(self, name: str) -> float:
        at = moment(within(self.nodes[name].get("message")).get("create_time"))
        return at.timestamp() if at else 0.0


def _message(message: object, node: str) -> Message | None:
    if message is None:
        return None
    if not isinstance(message, dict):
        raise Malformed("is not an object")
    role = within(message.get("author")).get("role")
    if not isinstance(role, str):
        raise Malformed("has no author")
    metadata = within(message.get("metadata"))
    if role not in ("user", "assistant") or metadata.get("is_visually_hidden_from_conversation") is True:
        return None
    if role == "assistant" and message.get("recipient") not in (None, "all"):
        return None
    said = _said(message.get("content"), records(metadata.get("attachments")))
    if not said:
        return None
    speaker: Literal["user", "assistant"] = "user" if role == "user" else "assistant"
    return Message(
        id=own_id(message.get("id"), "chatgpt", node, said),
        role=speaker,
        text=said,
        said_at=moment(message.get("create_time")),
        mine=speaker == "user",
    )


def _said(content: object, attachments: list[dict[str, Any]]) -> str:
    if not isinstance(content, dict):
        raise Malformed("has no content")
    if content.get("content_type") == "code":
        code = text(content.get("text")).strip()
        return f"```\n{code}\n```" if code else ""
    if content.get("content_type") not in ("text", "multimodal_text"):
        return ""
    parts = content.get("parts") or []
    if not isinstance(parts, list):
        raise Malformed("has parts that are no list")
    names = {file["id"]: file.get("name") for file in attachments if isinstance(file.get("id"), str)}
    pieces = [_part(part, names) for part in parts]
    pieces += [attachment(name) for name in names.values()]
    pieces += [attachment(file.get("name")) for file in attachments if not isinstance(file.get("id"), str)]
    return together(*pieces)


def _part(part: object, names: dict[str, object]) -> str:
    """One part as text. A file that is among ``names`` is taken out of them: it is told here."""
    if not isinstance(part, dict):
        return _CITATION.sub("", text(part))
    kind = part.get("content_type")
    if kind == "audio_transcription":
        return text(part.get("text"))
    if not isinstance(kind, str) or kind not in _PARTS:
        return ""
    if kind == "real_time_user_audio_video_asset_pointer":
        part = within(part.get("audio_asset_pointer")) or part
    pointer = part.get("asset_pointer")
    file = pointer.split("://")[-1] if isinstance(pointer, str) else ""
    return attachment(names.pop(file, None), kind=_PARTS[kind])
