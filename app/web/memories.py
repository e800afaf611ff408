"""Routes of memories: create, search, list, read, history, correct, delete, restore, export. PROTOCOL.md, Memories.

Every call works for one `Owner`, found from the key's account and the user the request is about: no id, filter or
metadata reaches anybody else's. Somebody nothing was ever remembered about has no owner yet: their lists are empty.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from litestar import HttpMethod, Response, delete, get, patch, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from app.database import Database
from app.errors import BadRequest, NotFound
from app.memory.intake import Given, Intake, Once
from app.memory.memories import Memories
from app.memory.profile import Profiles
from app.memory.search import Search
from app.memory.types import CATEGORIES, TYPES, Memory, Origin, Owner
from app.settings import Settings
from app.telemetry import Metrics
from app.web.answers import Success, SuccessPage
from app.web.guard import caller_of
from app.web.memory_answers import (
    BatchDeletion,
    Creation,
    Deletion,
    History,
    Outcome,
    Restoration,
    Restored,
    SearchAnswer,
    ShownMemory,
    created,
    detected,
    entry,
    found,
    shown,
)
from app.web.memory_bodies import (
    SORTED,
    DeleteMemories,
    EditMemory,
    NewMemories,
    RestoreMemories,
    SearchMemories,
    edit_problems,
    filters_of,
    new_problems,
    search_problems,
)
from app.web.ndjson import ndjson
from app.web.parse import Query, decode, read_json, warning
from app.web.person import USER, AnyRequest, PersonRoutes
from app.web.reply import envelope, json_reply, pagination

PATH = "/v1/memories"
ONE = f"{PATH}/{{memory_id:str}}"
TAGS = ["memories"]
READ: dict[str, Any] = {"scope": "memories:read", "rate": "requests"}
WRITE: dict[str, Any] = {"scope": "memories:write", "rate": "requests"}
MAX_IDEMPOTENCY_KEY = 255

_TEXT = {"type": "string", "maxLength": 256}
_FLAG = {"type": "boolean"}
LISTED = {
    "category": {"type": "string", "enum": list(CATEGORIES)},
    "type": {"type": "string", "enum": list(TYPES)},
    "agent_id": _TEXT,
    "thread_id": _TEXT,
    "source": _TEXT,
    "since": {"type": "string", "description": "made at or after this time, ISO 8601"},
    "until": {"type": "string", "description": "made at or before this time, ISO 8601"},
    "q": {"type": "string", "maxLength": 256, "description": "has these words in it"},
    "latest_only": {**_FLAG, "default": True, "description": "false lists what was superseded too"},
    "sort": {"type": "string", "enum": list(SORTED), "default": SORTED[0]},
    "page": {"type": "integer", "minimum": 1, "maximum": 1_000_000, "default": 1},
    "page_size": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
} | USER
CREATE = WRITE | {
    "body": NewMemories,
    "query": USER,
    "example": {"text": "I moved to Porto and work as a nurse."},
    "answer": Success[Creation],
    "headers": {"Idempotency-Key": "the same key and body give the first answer again, for 24 hours"},
}
SEARCH = READ | {
    "rate": "search",
    "query": USER,
    "body": SearchMemories,
    "example": {"query": "where do I live?"},
    "answer": Success[SearchAnswer],
}
EDIT = WRITE | {
    "body": EditMemory,
    "example": {"content": "I live in Porto."},
    "query": USER,
    "answer": Success[ShownMemory],
}
DELETE = WRITE | {
    "answer": Success[Deletion],
    "query": {"cascade": {**_FLAG, "default": False}, "backup": {**_FLAG, "default": True}} | USER,
}
BATCH = WRITE | {
    "query": USER,
    "body": DeleteMemories,
    "example": {"memory_ids": ["mem_1"]},
    "answer": Success[BatchDeletion],
}
RESTORE = WRITE | {
    "query": USER,
    "body": RestoreMemories,
    "example": {"backup_id": "bak_1"},
    "answer": Success[Restoration],
}


class MemoryRoutes(PersonRoutes):
    """The handlers and what they share."""

    def __init__(
        self,
        database: Database,
        memories: Memories,
        search: Search,
        intake: Intake,
        profiles: Profiles,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        super().__init__(database, settings.max_body_bytes)
        self.memories = memories
        self.search = search
        self.intake = intake
        self.profiles = profiles
        self.settings = settings
        self.metrics = metrics

    async def owner_of(self, request: AnyRequest, memory_id: str, user: str | None = None) -> Owner:
        """The owner a route of one memory is about. Raises NotFound: who does not exist has no memory."""
        owner = await self.owner(request, user)
        if owner is None:
            raise _missing(memory_id)
        return owner

    async def remove(
        self, owner: Owner | None, ids: list[str], *, cascade: bool, backup: bool
    ) -> tuple[str | None, list[Outcome]]:
        """Deletes what is there of ``ids``; what became of each, in their order, and of what went with them."""
        unique = list(dict.fromkeys(ids))
        if owner is None:
            return None, [Outcome(id=one, status="not_found") for one in unique]
        backup_id, outcomes = await self.memories.delete(owner, unique, cascade=cascade, backup=backup)
        cascaded = [one for one in outcomes if one not in unique]
        return backup_id, [Outcome(id=one, status=outcomes[one]) for one in [*unique, *cascaded]]

    async def sources(self, owner: Owner | None, memories: list[Memory]) -> dict[str, list[str]]:
        """By memory id, the messages it was drawn from."""
        return await self.memories.sources(owner, memories) if owner is not None and memories else {}

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers."""
        return [*self._making(), *self._reading(), *self._changing()]

    def _making(self) -> list[HTTPRouteHandler]:
        routes = self

        @post(PATH, opt=CREATE, status_code=201, operation_id="createMemories", tags=TAGS)
        async def create(request: AnyRequest) -> Response[bytes]:
            """Remember messages or a text: its turns are stored, and memories are drawn from them before it answers."""
            began, caller = time.monotonic(), caller_of(request.scope)
            raw = await read_json(request.scope, request.receive, routes.settings.max_body_bytes)
            body, unknown = decode(raw, NewMemories, new_problems)
            user = await routes.whose(request, body.user_id)
            given = Given(
                account=caller.account,
                user=user,
                said=body.said(),
                said_at=body.at(),
                infer=body.infer,
                metadata=body.metadata,
                origin=Origin(agent_id=body.agent_id, thread_id=body.thread_id, source=body.source),
                once=_once(request, user, raw),
            )
            taken = await routes.intake.take(given)
            answer = Creation(
                success=True,
                memories_created=len(taken.memories),
                processing_time=round(time.monotonic() - began, 4),
                categories_detected=detected(taken.memories),
                extractor=taken.extractor,
                conversation_id=taken.conversation,
                memories=[created(memory) for memory in taken.memories],
            )
            return json_reply(envelope(answer), status=201, headers=warning(unknown))

        @post(f"{PATH}/search", opt=SEARCH, status_code=200, operation_id="searchMemories", tags=TAGS)
        async def search(request: AnyRequest) -> Response[bytes]:
            """Search what is remembered, by meaning and by words; the best first. No match is an empty list."""
            body, headers = await routes.body(request, SearchMemories, search_problems, query="-")
            owner = await routes.owner(request, body.user_id)
            if owner is None:
                return json_reply(envelope(SearchAnswer(user_bio=None, memories=[], legs=[])), headers=headers)
            hits = await routes.search.search(
                owner, body.query, limit=body.limit, filters=body.filters(), rerank=body.rerank
            )
            sources = await routes.sources(owner, [hit.memory for hit in hits.hits if hit.memory])
            bio = await routes.profiles.stored_bio(owner) if body.include_bio else None
            answer = SearchAnswer(user_bio=bio, memories=[found(hit, sources) for hit in hits.hits], legs=hits.legs)
            return json_reply(envelope(answer), headers=headers)

        @post(f"{PATH}/restore", opt=RESTORE, status_code=200, operation_id="restoreMemories", tags=TAGS)
        async def restore(request: AnyRequest) -> Response[bytes]:
            """Bring back what a deletion took, within 30 days of it."""
            body, headers = await routes.body(request, RestoreMemories, backup_id="-")
            owner = await routes.owner(request, body.user_id)
            if owner is None:
                raise NotFound("backup", "there is no such backup", backup_id=body.backup_id)
            try:
                outcomes = await routes.memories.restore(owner, body.backup_id)
            except NotFound as error:
                raise NotFound("backup", error.message, backup_id=body.backup_id) from None
            back = [one for one, outcome in outcomes.items() if outcome == "restored"]
            answer = Restoration(
                backup_id=body.backup_id,
                restored=len(back),
                memory_ids=back,
                results=[Restored(id=one, status=outcome) for one, outcome in outcomes.items()],
            )
            return json_reply(envelope(answer), headers=headers)

        return [create, search, restore]

    def _reading(self) -> list[HTTPRouteHandler]:
        routes = self

        @get(
            PATH,
            opt=READ | {"query": LISTED, "answer": SuccessPage[ShownMemory]},
            operation_id="listMemories",
            tags=TAGS,
        )
        async def list_(request: AnyRequest) -> Response[bytes]:
            """What is remembered, newest first, in pages."""
            query = Query(request.scope)
            filters, words = filters_of(query), query.text("q")
            sort = query.choice("sort", SORTED) or SORTED[0]
            page, size = query.page()
            query.check()
            owner = await routes.owner(request)
            rows: list[Memory] = []
            total = 0
            if owner is not None:
                rows, total = await routes.memories.page(owner, filters, q=words, sort=sort, page=page, page_size=size)
            sources = await routes.sources(owner, rows)
            data = [shown(row, sources.get(row.id)) for row in rows]
            return json_reply(envelope(data, pagination=pagination(page, size, total)))

        @route(
            f"{PATH}/export",
            http_method=[HttpMethod.GET, HttpMethod.HEAD],
            media_type="application/x-ndjson",
            opt=READ | {"query": USER},
            operation_id="exportMemories",
            summary="Everything remembered, one JSON object a line, oldest first",
            tags=TAGS,
            status_code=200,
        )
        async def export(request: AnyRequest) -> ASGIApp:
            owner = await routes.owner(request)
            return ndjson(
                lambda: routes.exported(owner),
                send_timeout_s=routes.settings.send_timeout_s,
                metrics=routes.metrics,
                filename="memories.ndjson",
            )

        @get(ONE, opt=READ | {"query": USER, "answer": Success[ShownMemory]}, operation_id="getMemory", tags=TAGS)
        async def read(request: AnyRequest, memory_id: FromPath[str]) -> Response[bytes]:
            """One memory, superseded ones too."""
            owner = await routes.owner_of(request, memory_id)
            memory = await routes.memories.get(owner, memory_id)
            sources = await routes.sources(owner, [memory])
            return json_reply(envelope(shown(memory, sources.get(memory_id))))

        @get(
            f"{ONE}/history",
            opt=READ | {"query": USER, "answer": Success[History]},
            operation_id="getMemoryHistory",
            tags=TAGS,
        )
        async def history(request: AnyRequest, memory_id: FromPath[str]) -> Response[bytes]:
            """How a memory came to be what it is: what it replaced and what replaced it, and every change."""
            owner = await routes.owner_of(request, memory_id)
            past = await routes.memories.history(owner, memory_id)
            answer = History(
                memory_id=memory_id,
                versions=[shown(memory) for memory in past.chain],
                events=[entry(event) for event in past.events],
            )
            return json_reply(envelope(answer))

        return [list_, export, read, history]

    def _changing(self) -> list[HTTPRouteHandler]:
        routes = self

        @patch(ONE, opt=EDIT, status_code=200, operation_id="editMemory", tags=TAGS)
        async def edit(request: AnyRequest, memory_id: FromPath[str]) -> Response[bytes]:
            """Correct a memory; what it said before stays in its history."""
            body, headers = await routes.body(request, EditMemory, edit_problems)
            owner = await routes.owner_of(request, memory_id, body.user_id)
            memory = await routes.memories.edit(
                owner,
                memory_id,
                text=body.content.strip() if body.content else None,
                metadata=body.metadata,
                categories=body.wanted(),
                type=body.type,
                importance=body.importance,
            )
            return json_reply(envelope(shown(memory)), headers=headers)

        @delete(ONE, opt=DELETE, status_code=200, operation_id="deleteMemory", tags=TAGS)
        async def remove(request: AnyRequest, memory_id: FromPath[str]) -> Response[bytes]:
            """Forget a memory: no list or search has it from then on; `restore` brings it back for 30 days."""
            query = Query(request.scope)
            cascade, backup = query.flag("cascade"), query.flag("backup", True)
            query.check()
            owner = await routes.owner_of(request, memory_id)
            backup_id, outcomes = await routes.remove(owner, [memory_id], cascade=cascade, backup=backup)
            if outcomes[0].status == "not_found":
                raise _missing(memory_id)
            return json_reply(envelope(Deletion(id=memory_id, deleted=True, backup_id=backup_id, results=outcomes)))

        @post(f"{PATH}/batch-delete", opt=BATCH, status_code=200, operation_id="deleteMemories", tags=TAGS)
        async def batch_delete(request: AnyRequest) -> Response[bytes]:
            """Forget several memories under one backup; each id's outcome is told."""
            body, headers = await routes.body(request, DeleteMemories, memory_ids=["-"])
            owner = await routes.owner(request, body.user_id)
            backup_id, results = await routes.remove(owner, body.memory_ids, cascade=body.cascade, backup=body.backup)
            done = sum(outcome.status != "not_found" for outcome in results)
            return json_reply(
                envelope(BatchDeletion(deleted=done, backup_id=backup_id, results=results)), headers=headers
            )

        return [edit, remove, batch_delete]

    async def exported(self, owner: Owner | None) -> AsyncIterator[ShownMemory]:
        """Every memory of an owner as the wire has it."""
        if owner is not None:
            async for memory in self.memories.export(owner):
                yield shown(memory)


def _missing(memory_id: str) -> NotFound:
    return NotFound("memory", "there is no such memory", memory_id=memory_id)


def _once(request: AnyRequest, user: str, raw: bytes) -> Once | None:
    """What makes a repeat of this request give its first answer again."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        reason = f"must be 1 to {MAX_IDEMPOTENCY_KEY} characters"
        raise BadRequest(f"Idempotency-Key {reason}", details={"field": "Idempotency-Key", "reason": reason})
    return Once(key, user, raw)
