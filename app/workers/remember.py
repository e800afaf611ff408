"""The bridge: finished messages become part of what is remembered. Consumer group ``remember``.

What one batch of deliveries does: read the messages' requests and answers, store their turns word for word and index
them, derive memories by rules (or note that a model has turns to read), and mark the messages as done, all of it one
transaction; then have their statuses tell of it; then the entries are acknowledged.

Choices:

1. Every id is derived from what it stands for, and the done marks commit with the results: a delivery that comes again,
   from whatever point it broke off at, changes nothing and only says once more what was said.
2. What finishes together is stored together: a statement for a batch costs hardly more than for one message, and what
   remembering costs is taken from the cores that carry tokens. A batch in which one message fails stores nothing; the
   loop then hands over each alone.
3. Two messages of one conversation are stored one after the other, as they were asked: a batch goes in rounds, each a
   transaction, and batches of one process take turns. What comes late all the same, from a process that died, finds its
   place by when it was asked (`store_turns`, `adding`).
4. Embedding happens before the transaction, never inside: it takes longer than everything else. Answers, long histories
   and, while messages come one after the other, also what users say are stored and found by their words first;
   `upkeep.keep_embedded` follows, as slowly as the streams need it to.
5. A message that the caller does not want remembered leaves no row at all.
6. Rules draw as `drawing.Drawer` has them do, but for a batch: the texts of all its messages are embedded in one call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from weakref import WeakValueDictionary

import anyio
import msgspec
import structlog

from app.chat import log
from app.chat.events import Entry, content_of
from app.chat.groups import Delivery
from app.chat.lifecycle import Lifecycle, Note
from app.chat.message import Message, to_record
from app.database import Database
from app.errors import RepriseError
from app.llm.types import Request
from app.memory import remembered, rules
from app.memory.categories import categorise
from app.memory.conversations import NewTurns, conversation_id, ensure_owners, keyed, store_turns
from app.memory.drawing import draw
from app.memory.embedding import Embedder
from app.memory.index import Vectors, texts_of, vectors_for
from app.memory.memories import Memories
from app.memory.recall import text_of, without_recalled
from app.memory.records import clean, lock
from app.memory.remembered import Mark, Name, Outcome
from app.memory.rules import Statement
from app.memory.types import Origin, Owner, Turn
from app.workers import extraction
from app.workers.upkeep import Signal

GROUP = "remember"
PLATFORM = "reprise"
VECTORS_AT_ONCE = 64

_Place = tuple[str, str, str]
"""An account, a user, and what they call a conversation."""

logger = structlog.get_logger(__name__)


class _Said(msgspec.Struct, kw_only=True):
    """A message that says something. ``new``: its turns that are not stored yet; ``statements``: what they tell of
    their user, by the rules."""

    message: Message
    content: list[dict[str, Any]]
    turns: list[Turn]
    conversation: str
    new: list[Turn] = []
    statements: list[Statement] = []
    categories: list[list[str]] = []

    @property
    def name(self) -> Name:
        return Name(self.message.account, self.message.id, self.message.created)

    @property
    def user(self) -> tuple[str, str]:
        return self.message.account, self.message.user


class Bridge:
    """Remembers finished messages. ``debounce_s``: how long a model waits for more turns; None without a model."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        database: Database,
        memories: Memories,
        embedder: Embedder | None,
        *,
        debounce_s: float | None = None,
        stored: Signal | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._database = database
        self._memories = memories
        self._embedder = embedder
        self._debounce_s = debounce_s
        self._stored = stored or Signal()
        self._arriving = anyio.Lock()
        self._under_way: WeakValueDictionary[_Place, anyio.Event] = WeakValueDictionary()

    async def __call__(self, deliveries: Sequence[Delivery]) -> None:
        """Handles deliveries, all or none. Raises RepriseError when one cannot be remembered (now)."""
        async with self._arriving:
            messages = await self._messages(deliveries)
            in_turn = self._in_turn({(one.account, one.user, _external_id(one)) for one in messages})
        async with in_turn:
            if not messages:
                return  # deleted, or not wanted
            said = await self._read(messages)
            await self._find_new(said)
            outcomes: dict[Name, Outcome] = {}
            for number, these in enumerate(_rounds(said)):
                if number > 0:
                    await self._find_new(these)  # the round before may have stored them
                outcomes |= await self._remember(these)
            if outcomes:
                self._stored.set()
            await self._tell(messages, outcomes)

    async def _messages(self, deliveries: Sequence[Delivery]) -> list[Message]:
        """The messages to be remembered, in the order in which they were asked."""
        found = await self._lifecycle.read_many([delivery.member for delivery in deliveries])
        wanted = [message for message in found if message is not None and message.to_remember]
        return sorted(wanted, key=lambda message: message.created)

    def _in_turn(self, conversations: set[_Place]) -> AbstractAsyncContextManager[None]:
        """A block that begins when the batches that came before and go on with one of these are through."""
        before = [self._under_way[one] for one in conversations if one in self._under_way]
        through = anyio.Event()
        self._under_way.update(dict.fromkeys(conversations, through))

        @asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            try:
                for event in before:
                    await event.wait()
                yield
            finally:
                through.set()

        return turn()

    async def _read(self, messages: list[Message]) -> list[_Said]:
        """The messages in which anything was said."""
        rows = await log.read_finished(self._lifecycle.redis, self._lifecycle.keys, messages)
        said = []
        for message, (request, entries) in zip(messages, rows, strict=True):
            if request is None:
                raise RepriseError("the message's request is gone")
            if (one := _said(message, request, entries)) is not None:
                said.append(one)
        return said

    async def _find_new(self, said: Iterable[_Said]) -> None:
        """Finds out which turns are not stored yet: only they are embedded and drawn from."""
        said = list(said)
        flat = [(*one.user, turn.key) for one in said for turn in one.turns]
        if not flat:
            return
        rows = await self._database.fetch(
            """SELECT t.key FROM unnest($1::text[], $2::text[], $3::text[]) AS g (account, user_id, key)
            JOIN owners o ON o.account = g.account AND o.user_id = g.user_id
            JOIN turns t ON t.owner = o.id AND t.key = g.key""",
            *(list(column) for column in zip(*flat, strict=True)),
        )
        known = {row["key"] for row in rows}
        for one in said:
            one.new = [turn for turn in one.turns if turn.key not in known]
            one.statements = [] if self._debounce_s is not None else rules.statements(one.new)

    async def _remember(self, these: list[_Said]) -> dict[Name, Outcome]:
        """Stores the messages of one round; what became of each that was not deleted."""
        vectors = await vectors_for(self._embedder, self._texts(these))
        told = [statement.text for one in these for statement in one.statements]
        named = iter(await categorise(told, self._embedder))
        for one in these:
            one.categories = [next(named) for _ in one.statements]
        return await self._store(these, vectors)

    def _texts(self, these: list[_Said]) -> list[str]:
        """What is embedded before it is stored."""
        told = [statement.text for one in these for statement in one.statements[:VECTORS_AT_ONCE]]
        asked = [text for one in these for turn in one.new if turn.role == "user" for text in texts_of(turn)]
        return told if self._stored.busy or len(asked) > VECTORS_AT_ONCE else told + asked

    async def _store(self, these: list[_Said], vectors: Vectors) -> dict[Name, Outcome]:
        """The one transaction."""
        async with self._database.transaction() as connection:
            owners = await ensure_owners(connection, {one.user for one in these})
            await lock(connection, *owners.values())
            decided = await remembered.decided(connection, [one.name for one in these])
            left = [one for one in these if one.name not in decided]  # or a delivery under another claim was quicker
            outcomes = {name: known for name, known in decided.items() if known is not None}
            if not left:
                return outcomes
            stored = await store_turns(connection, [_new_turns(one, owners[one.user]) for one in left], vectors)
            if self._debounce_s is not None:
                grown = [one for one, turns in zip(left, stored, strict=True) if any(turn.new for turn in turns)]
                due = [(owners[one.user], one.conversation) for one in grown]
                await extraction.schedule(connection, due, self._debounce_s)
            for one in left:
                memory_ids = await self._draw(connection, owners[one.user], one, vectors) if one.statements else []
                outcomes[one.name] = _stored(one, memory_ids)
            await remembered.mark(connection, [_mark(one, owners[one.user]) for one in left])
            return outcomes

    async def _draw(self, connection: Any, owner: Owner, one: _Said, vectors: Vectors) -> list[str]:
        """Draws memories from a message; the ids of those it made."""
        memories = await self._memories.add(
            connection,
            owner,
            await draw(connection, owner, one.statements, one.categories),
            origin=msgspec.structs.replace(_origin(one.message), conversation=one.conversation),
            extractor=rules.NAME,
            source_key=f"{one.message.id} {one.message.created}",
            vectors=vectors,
        )
        return [memory.id for memory in memories]

    async def _tell(self, messages: list[Message], outcomes: dict[Name, Outcome]) -> None:
        """Has the statuses tell of it."""
        notes = []
        for message in messages:
            outcome = outcomes.get(Name(message.account, message.id, message.created))
            note = Note(account=message.account, message_id=message.id, created=message.created, status="skipped")
            if outcome is not None:
                note = msgspec.structs.replace(
                    note, status=outcome.status, memory_ids=outcome.memory_ids, error=outcome.reason
                )
                logger.info(
                    "message.remembered",
                    message_id=message.id,
                    account=message.account,
                    memories=len(outcome.memory_ids),
                )
            notes.append(note)
        await self._lifecycle.note_remembered(notes)


def _rounds(said: list[_Said]) -> list[list[_Said]]:
    """In each round a conversation once; in the order given."""
    rounds: list[list[_Said]] = []
    seen: Counter[str] = Counter()
    for one in said:
        place = seen[one.conversation]
        seen[one.conversation] += 1
        if place == len(rounds):
            rounds.append([])
        rounds[place].append(one)
    return rounds


def _said(message: Message, raw: bytes, entries: list[Entry]) -> _Said | None:
    """What was said in a message, the answer last; None for nothing."""
    request = msgspec.json.decode(raw, type=Request)
    content = content_of(entries)
    answer = "\n\n".join(block["text"] for block in content if block["type"] == "text")
    pairs: list[tuple[str, str]] = [
        (turn.role, text_of(turn)) for turn in request.messages if turn.role in ("user", "assistant")
    ]
    pairs.append(("assistant", answer))
    cleaned = [(role, without_recalled(clean(text)).strip()) for role, text in pairs]
    said = [(role, text) for role, text in cleaned if text]
    if not said:
        return None
    conversation = conversation_id(Owner(0, message.account, message.user), PLATFORM, _external_id(message))
    return _Said(message=message, content=content, turns=_turns(message, said, conversation), conversation=conversation)


def _turns(message: Message, said: list[tuple[str, str]], conversation: str) -> list[Turn]:
    """The turns with their keys. What a client sends of earlier turns has no time of its own."""
    asked = datetime.fromtimestamp(message.created / 1000, UTC)
    answered = datetime.fromtimestamp((message.done or message.updated) / 1000, UTC)
    last = len(said) - 1
    return [
        Turn(
            key=key,
            role=cast(Any, role),
            text=text,
            said_at=answered if number == last and role == "assistant" else asked,
            message_id=message.id,
        )
        for number, ((role, text), key) in enumerate(zip(said, keyed(said, conversation), strict=True))
    ]


def _stored(one: _Said, memory_ids: list[str]) -> Outcome:
    _, message_id, created_ms = one.name
    return Outcome(message_id=message_id, created_ms=created_ms, status="stored", reason=None, memory_ids=memory_ids)


def _new_turns(one: _Said, owner: Owner) -> NewTurns:
    return NewTurns(
        owner=owner,
        platform=PLATFORM,
        external_id=_external_id(one.message),
        turns=one.turns,
        origin=_origin(one.message),
        title=_title(one.message),
    )


def _mark(one: _Said, owner: Owner) -> Mark:
    return Mark(
        owner=owner,
        message_id=one.message.id,
        created_ms=one.message.created,
        conversation=one.conversation,
        record=to_record(one.message),
        content=one.content,
    )


def _external_id(message: Message) -> str:
    """The conversation's name: messages of one thread are one conversation."""
    return message.thread or message.id


def _origin(message: Message) -> Origin:
    return Origin(
        agent_id=message.metadata.get("agent_id"),
        thread_id=message.thread or None,
        source=message.metadata.get("source"),
        message_id=message.id,
    )


def _title(message: Message) -> str | None:
    title = message.metadata.get("title")
    return title[:200] if isinstance(title, str) and title else None
