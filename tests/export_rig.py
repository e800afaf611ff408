"""Reading the samples of exports in tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.integrations.exports.reader import read_export
from app.integrations.types import Conversation, Problem, Unreadable
from tests import export_people, export_samples

SAMPLES = {
    "chatgpt": export_samples.chatgpt,
    "claude": export_samples.claude,
    "telegram": export_people.telegram,
    "whatsapp": export_people.whatsapp,
    "slack": export_people.slack,
    "discord": export_people.discord,
}
"""An export of each platform as it is uploaded."""

FILES = {
    "chatgpt": lambda: {"conversations.json": export_samples.chatgpt()},
    "claude": lambda: {"conversations.json": export_samples.claude()},
    "telegram": lambda: {"DataExport_2024-03-02/result.json": export_people.telegram()},
    "whatsapp": lambda: {
        "_chat.txt": export_people.whatsapp(),
        "WhatsApp Chat with Ben.txt": export_people.WHATSAPP_ANDROID.encode(),
    },
    "slack": export_people.slack_files,
    "discord": lambda: {"Makers - general [100].json": export_people.discord()},
}
"""The same as the files of a zip."""


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


def lines(conversation: Conversation) -> list[tuple[str, str | None, str, bool]]:
    return [(m.id, m.name, m.text, m.mine) for m in conversation.messages]
