"""What the chat-history routes are asked, and what they answer. Pure. PROTOCOL.md, Chat history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import anyio
import msgspec
from msgspec import Meta

from app.errors import BadRequest, ValidationFailed
from app.history.chats import Chat
from app.history.search import Around, Result, name_of, sender_of
from app.history.snapshot import Head, Said, Snapshot, said
from app.iso import iso
from app.memory.types import Turn
from app.web.memory_bodies import LONGEST_QUERY, Errors, Name
from app.web.parse import MOST_ERRORS, told, wrong

PLATFORM = r"^[a-zA-Z0-9\-_.]{1,100}$"
SLICE = 1_000
"""Messages checked in one go; other requests have their turn in between."""
MOST_IDS = 100_000
"""Ids looked at for one used twice. A conversation of more messages is going to be rejected."""
MOST_QUERIES = 10
MOST_DELETED = 1_000

Platform = Annotated[str, Meta(pattern=PLATFORM)]
Query = Annotated[str, Meta(min_length=1, max_length=LONGEST_QUERY, pattern=r"^[^\x00]*$")]


class _Shown(Head, frozen=True, kw_only=True, rename="camel"):
    """A conversation of a platform, with its own ids."""

    messages: list[Said]


class Ingest(msgspec.Struct, kw_only=True, rename="camel"):
    """One conversation, as its platform has it now. The document's type; `read_ingest` reads it message by message."""

    conversation: _Shown
    platform: Platform = "custom"
    platform_display_name: Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$")] | None = None
    user_id: Annotated[Name | None, Meta(description="whose")] = msgspec.field(default=None, name="user_id")


class _Ingest(msgspec.Struct, kw_only=True, rename="camel"):
    conversation: msgspec.Raw
    platform: Platform = "custom"
    platform_display_name: Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$")] | None = None
    user_id: Name | None = msgspec.field(default=None, name="user_id")


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """An ingest that is right. ``raw`` is the conversation's own part of the body."""

    platform: str
    display_name: str | None
    user_id: str | None
    head: Head
    messages: int
    raw: memoryview


class SearchHistory(msgspec.Struct, kw_only=True, rename="camel"):
    """``provider`` narrows to one platform. ``contextChunks``: turns shown around each result."""

    query: Query
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    provider: Platform | None = None
    context_chunks: Annotated[int, Meta(ge=0, le=20)] = 4
    skip_rerank: bool = False
    user_id: Name | None = msgspec.field(default=None, name="user_id")


class Uttered(msgspec.Struct, kw_only=True):
    """A message of the conversation that is going on."""

    role: str = "user"
    content: Annotated[str, Meta(max_length=100_000)]


class Inject(msgspec.Struct, kw_only=True, rename="camel"):
    """``query`` or ``queries``; what ``conversationContext`` and ``conversationHistory`` say is asked for too."""

    query: Query | None = None
    queries: Annotated[list[Query], Meta(max_length=MOST_QUERIES)] = []
    max_tokens: Annotated[int, Meta(ge=1, le=2_000)] = 600
    platform: Platform | None = None
    conversation_context: Annotated[str, Meta(max_length=100_000, pattern=r"^[^\x00]*$")] | None = None
    conversation_history: Annotated[list[Uttered], Meta(max_length=1_000)] = []
    user_id: Name | None = msgspec.field(default=None, name="user_id")

    def asked(self) -> list[str]:
        """What is searched for: the queries, what is going on, and what the person said last."""
        last = [one.content for one in self.conversation_history if one.role in ("user", "human")][-1:]
        texts = [self.query or "", *self.queries, self.conversation_context or "", *last]
        return [text[-LONGEST_QUERY:] for text in texts if text.strip() and "\x00" not in text]


class DeleteChats(msgspec.Struct, kw_only=True):
    ids: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]],
        Meta(min_length=1, max_length=MOST_DELETED),
    ]


class QueuedConversation(msgspec.Struct, kw_only=True, rename="camel"):
    id: str
    platform_conversation_id: str
    title: str | None
    updated_at: str
    message_count: int
    status: Literal["queued"] = "queued"


class QueuedAnswer(msgspec.Struct, kw_only=True, rename="camel"):
    queued: bool
    import_id: str
    conversation_id: str
    platform: str
    conversation: QueuedConversation


class ShownTurn(msgspec.Struct, kw_only=True, rename="camel"):
    message_id: str
    text: str
    sender: str
    timestamp: str


class ShownResult(msgspec.Struct, kw_only=True, rename="camel"):
    conversation_id: str
    message_id: str
    title: str | None
    provider: str
    text: str
    score: float
    timestamp: str
    sender: str
    context: list[ShownTurn]


class FoundHistory(msgspec.Struct, kw_only=True, rename="camel"):
    results: list[ShownResult]
    total_results: int
    query: str
    provider: str | None
    processing_time: Annotated[float, Meta(description="milliseconds")]
    legs: list[str]


class Source(msgspec.Struct, kw_only=True, rename="camel"):
    conversation_id: str
    conversation_title: str | None
    message_id: str
    date: str
    relevance_score: float


class Injected(msgspec.Struct, kw_only=True, rename="camel"):
    content: str
    sources: list[Source]
    token_count: int
    processing_time: Annotated[float, Meta(description="milliseconds")]
    model: Annotated[str | None, Meta(description="what made the vectors; null where words alone were searched")]


class ShownChat(msgspec.Struct, kw_only=True, rename="camel"):
    id: str
    platform_conversation_id: str
    import_id: str | None
    platform: str
    platform_display_name: str | None
    title: str | None
    status: str
    reason: str | None
    message_count: int
    created_at: str
    updated_at: str


class ChatPage(msgspec.Struct, kw_only=True, rename="camel"):
    chats: list[ShownChat]
    page: int
    page_size: int
    total: int
    total_pages: int


class WholeChat(ShownChat, kw_only=True, rename="camel"):
    messages: list[ShownTurn]
    page: int
    page_size: int


class Count(msgspec.Struct, kw_only=True, rename="camel"):
    count: int
    by_platform: dict[str, int]


class DeletedChats(msgspec.Struct, kw_only=True, rename="camel"):
    deleted: int
    ids: list[str]
    not_found: list[str]


async def read_ingest(
    body: bytes | bytearray, pause: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
) -> Taken:
    """The body of an ingest, without holding its messages. Raises BadRequest, ValidationFailed naming what is wrong."""
    if not len(body):
        raise BadRequest("the body is empty: it must be a JSON object")
    try:
        given = msgspec.json.decode(body, type=_Ingest)
    except msgspec.ValidationError as error:
        raise ValidationFailed([told(str(error), "", Any)]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    raw = memoryview(given.conversation)
    try:
        snapshot = Snapshot(raw)
    except msgspec.ValidationError as error:
        raise ValidationFailed([told(str(error), "conversation", Any)]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    found: Errors = []
    seen: set[str] = set()
    for start in range(0, len(snapshot.raw), SLICE):
        for number, one in enumerate(snapshot.raw[start : start + SLICE], start):
            found += _message_problems(one, f"conversation.messages[{number}]", seen)
        if len(found) >= MOST_ERRORS:
            break
        await pause()
    if found:
        raise ValidationFailed(found[:MOST_ERRORS])
    return Taken(
        platform=given.platform,
        display_name=given.platform_display_name,
        user_id=given.user_id,
        head=snapshot.head,
        messages=len(snapshot.raw),
        raw=raw,
    )


def _message_problems(raw: msgspec.Raw, path: str, seen: set[str]) -> Errors:
    try:
        one = said(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            return wrong(msgspec.json.decode(raw), Said, path)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return [(path, "is not JSON")]
    if one.id in seen:
        return [(f"{path}.id", "is the id of an earlier message")]
    if len(seen) < MOST_IDS:
        seen.add(one.id)
    return []


def inject_problems(body: Inject) -> Errors:
    return [] if body.asked() else [("query", "give query, queries, conversationContext or conversationHistory")]


def search_problems(body: SearchHistory) -> Errors:
    return [] if body.query.strip() else [("query", "must not be blank")]


def shown_result(result: Result) -> ShownResult:
    return ShownResult(
        conversation_id=result.conversation_id,
        message_id=result.message_id,
        title=result.title,
        provider=result.platform,
        text=result.text,
        score=result.score,
        timestamp=iso(result.timestamp),
        sender=result.sender,
        context=[_around(one) for one in result.context],
    )


def _around(one: Around) -> ShownTurn:
    return ShownTurn(message_id=one.message_id, text=one.text, sender=one.sender, timestamp=iso(one.timestamp))


def shown_turn(turn: Turn) -> ShownTurn:
    return ShownTurn(message_id=name_of(turn), text=turn.text, sender=sender_of(turn), timestamp=iso(turn.said_at))


def chat_fields(chat: Chat) -> dict[str, Any]:
    """The fields of a `ShownChat`."""
    return {
        "id": chat.id,
        "platform_conversation_id": chat.external_id,
        "import_id": chat.import_id,
        "platform": chat.platform,
        "platform_display_name": chat.display_name,
        "title": chat.title,
        "status": chat.status,
        "reason": chat.reason,
        "message_count": chat.messages,
        "created_at": iso(chat.created_at),
        "updated_at": iso(chat.updated_at),
    }
