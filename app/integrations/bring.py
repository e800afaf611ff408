"""What a reader gave goes the way of every brought conversation: into the queue of `app.history.uploads`."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from app.database import Database
from app.history.snapshot import Head
from app.history.uploads import Queued, queue
from app.integrations.types import Conversation, Message

LONGEST_ID = 256
LONGEST_TITLE = 1_000
LONGEST_NAME = 200


async def bring(
    database: Database, account: str, user: str, platform: str, conversation: Conversation, display_name: str | None
) -> Queued:
    """Queues a conversation. Raises Unavailable."""
    head = Head(
        id=_short(conversation.id),
        title=conversation.title and conversation.title[:LONGEST_TITLE],
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
    )
    body: dict[str, Any] = msgspec.to_builtins(head, builtin_types=(str,)) | {
        "messages": [_message(one) for one in conversation.messages]
    }
    return await queue(database, account, user, platform, head, msgspec.json.encode(body), display_name)


def _message(one: Message) -> dict[str, Any]:
    return {
        "id": _short(one.id),
        "role": "assistant" if one.role == "assistant" else "human",
        "content": one.text,
        "createdAt": one.said_at,
        "name": None if one.name is None else one.name.replace("\x00", "\ufffd")[:LONGEST_NAME],
        "mine": one.mine,
    }


def _short(name: str) -> str:
    """An id that fits: one too long keeps its beginning and gets a hash of the whole."""
    name = name.replace("\x00", "\ufffd") or "-"
    if len(name) <= LONGEST_ID:
        return name
    return f"{name[: LONGEST_ID - 33]}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
