"""Routes of the chat history: bring, search, inject, list, read, count, delete. PROTOCOL.md, Chat history.

What is brought is checked and put into a queue (`app.history.uploads`), and answered at once; a background process
stores it. The status of a conversation tells how far it is.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Response, delete, get, post
from litestar.handlers import HTTPRouteHandler

from app.database import Database
from app.errors import NotFound
from app.history import chats
from app.history.chats import Wanted
from app.history.inject import inject
from app.history.search import HistorySearch, Result
from app.history.uploads import queue
from app.iso import iso
from app.settings import Settings
from app.web.guard import caller_of
from app.web.history_bodies import (
    ChatPage,
    Count,
    DeleteChats,
    DeletedChats,
    FoundHistory,
    Ingest,
    Inject,
    Injected,
    QueuedAnswer,
    QueuedConversation,
    SearchHistory,
    ShownChat,
    Source,
    WholeChat,
    chat_fields,
    inject_problems,
    read_ingest,
    search_problems,
    shown_result,
    shown_turn,
)
from app.web.parse import Query, moment, must_be_json, read_large_body
from app.web.person import USER, AnyRequest, PersonRoutes
from app.web.reply import json_reply

PATH = "/api/chat-history"
TAGS = ["chat history"]
READ: dict[str, Any] = {"scope": "history:read", "rate": "requests"}
WRITE: dict[str, Any] = {"scope": "history:write", "rate": "requests"}
FIND = READ | {"rate": "search"}
_TEXT = {"type": "string", "maxLength": 256}
_PAGE = {
    "page": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 1},
    "pageSize": {"type": "integer", "minimum": 1, "maximum": 100, "default": 25},
}
LISTED = (
    _PAGE
    | {
        "provider": _TEXT,
        "title": {**_TEXT, "description": "has this in its title"},
        "dateFrom": {"type": "string", "description": "changed at or after this time, ISO 8601"},
        "dateTo": {"type": "string", "description": "changed at or before this time, ISO 8601"},
        "importId": _TEXT,
    }
    | USER
)
EXAMPLE = {
    "platform": "my-slack-bot",
    "platformDisplayName": "My Slack bot",
    "conversation": {
        "id": "c-1",
        "title": "A walk",
        "createdAt": "2026-04-27T10:00:00Z",
        "updatedAt": "2026-04-27T11:30:00Z",
        "messages": [
            {"id": "m-1", "role": "human", "content": "Where did we walk?", "createdAt": "2026-04-27T10:00:00Z"},
            {"id": "m-2", "role": "assistant", "content": "Along the Douro.", "createdAt": "2026-04-27T10:01:00Z"},
        ],
    },
}


BROUGHT = {
    "memories": {
        "type": "boolean",
        "description": "draw memories from what the user says in it; by default as their privacy settings say",
    }
} | USER


class HistoryRoutes(PersonRoutes):
    """The handlers and what they share. ``wake`` tells a worker that something waits; ``model`` names the embedder."""

    def __init__(
        self,
        database: Database,
        search: HistorySearch,
        settings: Settings,
        wake: Callable[[], Awaitable[None]],
        model: str | None,
    ) -> None:
        super().__init__(database, settings.max_body_bytes)
        self.search = search
        self.settings = settings
        self.wake = wake
        self.model = model

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers."""
        return [self._ingest(), *self._finding(), *self._listing()]

    def _ingest(self) -> HTTPRouteHandler:
        routes = self

        @post(
            f"{PATH}/ingest/custom-online",
            opt=WRITE | {"body": Ingest, "example": EXAMPLE, "answer": QueuedAnswer, "query": BROUGHT},
            status_code=200,
            operation_id="ingestConversation",
            tags=TAGS,
        )
        async def ingest(request: AnyRequest) -> Response[bytes]:
            """Bring a conversation, or more of one: messages are known by their ids, absent ones stay."""
            must_be_json(request.scope)
            query = Query(request.scope)
            wish = query.wish("memories")
            query.check()
            raw = await read_large_body(request.scope, request.receive, routes.settings.max_ingest_bytes)
            taken = await read_ingest(raw)
            user = await routes.whose(request, taken.user_id)
            queued = await queue(
                routes.database,
                caller_of(request.scope).account,
                user,
                taken.platform,
                taken.head,
                taken.raw,
                taken.display_name,
                memories=wish,
            )
            await routes.wake()
            conversation = QueuedConversation(
                id=queued.conversation,
                platform_conversation_id=queued.external_id,
                title=queued.title,
                updated_at=iso(queued.updated_at),
                message_count=taken.messages,
            )
            answer = QueuedAnswer(
                queued=True,
                import_id=queued.import_id,
                conversation_id=queued.conversation,
                platform=taken.platform,
                conversation=conversation,
            )
            return json_reply(answer)

        return ingest

    def _finding(self) -> list[HTTPRouteHandler]:
        routes = self

        @post(
            f"{PATH}/search",
            opt=FIND | {"body": SearchHistory, "example": {"query": "walk"}, "answer": FoundHistory, "query": USER},
            status_code=200,
            operation_id="searchHistory",
            tags=TAGS,
        )
        async def search(request: AnyRequest) -> Response[bytes]:
            """Search what was said anywhere: one result a turn, with the turns around it. No match is an empty list."""
            began = time.monotonic()
            body, headers = await routes.body(request, SearchHistory, search_problems, query="-")
            owner = await routes.owner(request, body.user_id)
            found: list[Result] = []
            legs: list[str] = []
            if owner is not None:
                answer = await routes.search.search(
                    owner,
                    body.query,
                    limit=body.limit,
                    platform=body.provider,
                    context=body.context_chunks,
                    rerank=not body.skip_rerank,
                )
                found, legs = answer.results, answer.legs
            reply = FoundHistory(
                results=[shown_result(result) for result in found],
                total_results=len(found),
                query=body.query,
                provider=body.provider,
                processing_time=_since(began),
                legs=legs,
            )
            return json_reply(reply, headers=headers)

        @post(
            f"{PATH}/inject",
            opt=FIND | {"body": Inject, "example": {"query": "walk"}, "answer": Injected, "query": USER},
            status_code=200,
            operation_id="injectHistory",
            tags=TAGS,
        )
        async def injected(request: AnyRequest) -> Response[bytes]:
            """Quote what was said elsewhere for a prompt: at most ``maxTokens``, each quotation with its source."""
            began = time.monotonic()
            body, headers = await routes.body(request, Inject, inject_problems)
            owner = await routes.owner(request, body.user_id)
            reply = Injected(content="", sources=[], token_count=0, processing_time=0.0, model=None)
            if owner is not None:
                known = [one.content for one in body.conversation_history]
                made = await inject(
                    routes.search, owner, body.asked(), budget=body.max_tokens, platform=body.platform, known=known
                )
                reply.content, reply.token_count = made.content, made.tokens
                reply.sources = [_source(one) for one in made.sources]
                reply.model = routes.model if "vector" in made.legs else None
            reply.processing_time = _since(began)
            return json_reply(reply, headers=headers)

        return [search, injected]

    def _listing(self) -> list[HTTPRouteHandler]:
        routes = self

        @get(f"{PATH}/chats", opt=READ | {"query": LISTED, "answer": ChatPage}, operation_id="listChats", tags=TAGS)
        async def listed(request: AnyRequest) -> Response[bytes]:
            """List conversations of every platform, those that changed last first."""
            query = Query(request.scope)
            page, size = _paged(query)
            wanted = Wanted(
                platform=query.text("provider"),
                title=query.text("title"),
                since=query.parsed("dateFrom", moment, "must be a time in ISO 8601"),
                until=query.parsed("dateTo", moment, "must be a time in ISO 8601"),
                import_id=query.text("importId"),
            )
            query.check()
            owner = await routes.owner(request)
            found, total = await chats.chats(routes.database, owner, wanted, page=page, size=size) if owner else ([], 0)
            shown = [ShownChat(**chat_fields(chat)) for chat in found]
            return json_reply(
                ChatPage(chats=shown, page=page, page_size=size, total=total, total_pages=-(-total // size))
            )

        @get(
            f"{PATH}/conversation",
            opt=READ | {"query": _PAGE | {"conversationId": _TEXT} | USER, "answer": WholeChat},
            operation_id="readChat",
            tags=TAGS,
        )
        async def one(request: AnyRequest) -> Response[bytes]:
            """Read one conversation: how far it is on its way into the search, and a page of its turns."""
            query = Query(request.scope)
            page, size = _paged(query)
            name = query.required("conversationId")
            query.check()
            owner = await routes.owner(request)
            chat = await chats.chat(routes.database, owner, name) if owner else None
            if owner is None or chat is None:
                raise NotFound("conversation", "there is no such conversation", conversation_id=name)
            turns = await chats.said(routes.database, owner, name, page=page, size=size)
            shown = [shown_turn(turn) for turn in turns]
            return json_reply(WholeChat(**chat_fields(chat), messages=shown, page=page, page_size=size))

        @get(f"{PATH}/count", opt=READ | {"query": USER, "answer": Count}, operation_id="countChats", tags=TAGS)
        async def count(request: AnyRequest) -> Response[bytes]:
            """Count conversations, in all and by platform."""
            owner = await routes.owner(request)
            found = await chats.counted(routes.database, owner) if owner else {}
            return json_reply(Count(count=sum(found.values()), by_platform=found))

        @delete(
            f"{PATH}/chats",
            opt=WRITE | {"body": DeleteChats, "example": {"ids": ["conv_1"]}, "answer": DeletedChats, "query": USER},
            status_code=200,
            operation_id="deleteChats",
            tags=TAGS,
        )
        async def removed(request: AnyRequest) -> Response[bytes]:
            """Delete conversations with their turns, and the memories drawn from them alone."""
            body, headers = await routes.body(request, DeleteChats)
            owner = await routes.owner(request)
            wanted = list(dict.fromkeys(body.ids))
            gone = await chats.delete(routes.database, owner, wanted) if owner else []
            left = [one for one in wanted if one not in set(gone)]
            return json_reply(DeletedChats(deleted=len(gone), ids=gone, not_found=left), headers=headers)

        return [listed, one, count, removed]


def _paged(query: Query) -> tuple[int, int]:
    return (
        query.integer("page", 1, least=1, most=1_000_000),
        query.integer("pageSize", 25, least=1, most=100),
    )


def _source(result: Result) -> Source:
    return Source(
        conversation_id=result.conversation_id,
        conversation_title=result.title,
        message_id=result.message_id,
        date=iso(result.timestamp),
        relevance_score=result.score,
    )


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1e3, 1)
