"""The bridge: a finished message becomes part of what is remembered. Consumer group ``remember``.

What one delivery does: read the message's request and answer, store their turns word for word and index them, derive
memories by rules (or note that a model has turns to read), and mark the message as done, all of it one transaction;
then have the message's status tell of it; then the entry is acknowledged.

Choices:

1. Every id is derived from what it stands for, and the done mark commits with the results: a delivery that comes again,
   from whatever point it broke off at, changes nothing and only says once more what was said.
2. Embedding happens before the transaction, never inside: it takes longer than everything else. What several messages
   bring at once is embedded together, and found in the embedder's cache by whoever needs it. Answers, and histories of
   more than `VECTORS_AT_ONCE` pieces, are stored and found by their words first, and while messages come one after the
   other so is what users say; `keep_embedded` follows, as slowly as the streams need it to.
3. A message that the caller does not want remembered leaves no row at all.
4. One process remembers the messages of an end user one after the other: what is drawn from one may supersede what was
   drawn from the one before.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any, cast
from weakref import WeakValueDictionary

import anyio
import msgspec
import structlog

from app.chat import log
from app.chat.events import content_of
from app.chat.groups import Delivery
from app.chat.lifecycle import Lifecycle
from app.chat.message import Message, to_record
from app.database import Database
from app.errors import RepriseError, Unavailable
from app.llm.types import Request
from app.memory import remembered, rules
from app.memory.conversations import conversation_id, ensure_owner, find_owner, keyed, store_turns
from app.memory.embedding import Embedder, Vector
from app.memory.index import embed_missing, texts_of, vectors_for
from app.memory.memories import Memories
from app.memory.recall import text_of, without_recalled
from app.memory.records import clean, lock
from app.memory.remembered import Outcome, Remembered
from app.memory.search import Search, add_indexes
from app.memory.sentences import own_sentences
from app.memory.types import Draft, Memory, Origin, Owner, Turn
from app.redis_door import redis_door
from app.workers import extraction

GROUP = "remember"
PLATFORM = "reprise"
VECTORS_AT_ONCE = 64
MOST_PROBES, PROBED = 8, 12
EMBED_POLL_S = 5.0
EMBED_PAUSE_S = 0.1
"""Between storing and embedding: what comes together is stored first."""
EMBEDDED_AT_ONCE = 4
"""Units embedded before their vectors are stored and newer ones looked for: half a second of work."""
BUSY_S, BUSY_REST = 0.5, 9.0
"""While messages were stored this recently, so many times as long as a batch took is rested before the next."""
TIDY_S = 3_600.0
RETRY_S = 1.0

logger = structlog.get_logger(__name__)


class Signal:
    """Something was stored: wakes who waits, or lets the next who would wait go on at once."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._at = float("-inf")

    def set(self) -> None:
        self._at = anyio.current_time()
        self._event.set()

    @property
    def busy(self) -> bool:
        """Whether it was set within the last ``BUSY_S``."""
        return anyio.current_time() - self._at < BUSY_S

    async def wait(self, seconds: float) -> None:
        """Returns when it was set since the last wait, or after so many seconds."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        self._event = anyio.Event()


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
        self._search = Search(database, None)  # by keywords alone: so probes are meant
        self._debounce_s = debounce_s
        self._stored = stored or Signal()
        self._in_turn: WeakValueDictionary[tuple[str, str], anyio.Lock] = WeakValueDictionary()
        self._embedding = anyio.Lock()
        self._to_embed: set[str] = set()

    async def __call__(self, delivery: Delivery) -> None:
        """Handles one delivery. Raises RepriseError for a message that cannot be remembered (now)."""
        account, _, message_id = delivery.member.partition("/")
        message = await self._lifecycle.read(account, message_id)
        if message is None:
            return  # deleted
        outcome = await self._remember(message) if message.to_remember else None
        note = partial(self._lifecycle.note_remembered, account, message_id, message.created)
        if outcome is None:
            await note("skipped", [])
            return
        await note(outcome.status, outcome.memory_ids, outcome.reason)
        self._stored.set()
        logger.info("message.remembered", message_id=message.id, account=account, memories=len(outcome.memory_ids))

    async def _remember(self, message: Message) -> Outcome | None:
        """Stores the message unless that was done; None when there is nothing to store, or it was deleted."""
        done = await self._done(message)
        if done is not None:
            return done
        content, said = await self._read(message)
        if not said:
            return None
        # everything slow comes before the transaction: it needs the names the rows will have, not the rows
        nobody = Owner(0, message.account, message.user)
        turns = _turns(message, said, conversation_id(nobody, PLATFORM, _external_id(message)))
        new = await self._unknown(message, turns)
        await self._embed(new)
        async with self._in_turn.setdefault((message.account, message.user), anyio.Lock()):
            drafts = [] if self._debounce_s is not None else await self._drafts(message, new)
            return await self._store(message, content, turns, drafts, await self._vectors(new, drafts))

    async def _store(
        self,
        message: Message,
        content: list[dict[str, Any]],
        turns: list[Turn],
        drafts: list[Draft],
        vectors: dict[str, Vector],
    ) -> Outcome | None:
        """The one transaction."""
        origin = _origin(message)
        async with self._database.transaction() as connection:
            owner = await ensure_owner(connection, message.account, message.user)
            await lock(connection, owner)
            if await remembered.deleted(connection, message.account, message.id, message.created):
                return None
            known = await remembered.outcome(connection, message.account, message.id, message.created)
            if known is not None:
                return known  # a delivery under another claim was quicker
            conversation, stored = await store_turns(
                connection,
                owner,
                platform=PLATFORM,
                external_id=_external_id(message),
                turns=turns,
                origin=origin,
                title=_title(message),
                vectors=vectors,
            )
            origin = msgspec.structs.replace(origin, conversation=conversation)
            if self._debounce_s is not None:
                if any(turn.new for turn in stored):
                    await extraction.schedule(connection, owner, conversation, self._debounce_s)
            elif drafts:
                await self._memories.add(
                    connection,
                    owner,
                    drafts,
                    origin=origin,
                    extractor=rules.NAME,
                    source_key=f"{message.id} {message.created}",
                )
            await remembered.mark(
                connection,
                owner,
                message.id,
                message.created,
                conversation=conversation,
                record=to_record(message),
                content=content,
            )
            return await remembered.outcome(connection, message.account, message.id, message.created)

    async def _done(self, message: Message) -> Outcome | None:
        async with self._database.connection() as connection:
            return await remembered.outcome(connection, message.account, message.id, message.created)

    async def _read(self, message: Message) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """The answer's content blocks, and what was said: (role, text) of each turn, the answer last."""
        keys, redis = self._lifecycle.keys, self._lifecycle.redis
        with redis_door():
            raw = cast(bytes | None, await redis.get(keys.request(message.account, message.id)))
        if raw is None:
            raise RepriseError("the message's request is gone")
        request = msgspec.json.decode(raw, type=Request)
        entries = await log.read_attempt(redis, keys.log(message.account, message.id), message.attempt)
        content = content_of(entries)
        answer = "\n\n".join(block["text"] for block in content if block["type"] == "text")
        pairs = [(turn.role, text_of(turn)) for turn in request.messages if turn.role in ("user", "assistant")]
        pairs.append(("assistant", answer))
        said = [(role, without_recalled(clean(text)).strip()) for role, text in pairs]
        return content, [(role, text) for role, text in said if text]

    async def _unknown(self, message: Message, turns: list[Turn]) -> list[Turn]:
        """The turns that are not stored yet: only they are embedded and drawn from."""
        rows = await self._database.fetch(
            """SELECT key FROM turns JOIN owners ON owners.id = turns.owner
               WHERE owners.account = $1 AND owners.user_id = $2 AND key = ANY($3::text[])""",
            message.account,
            message.user,
            [turn.key for turn in turns],
        )
        known = {row["key"] for row in rows}
        return [turn for turn in turns if turn.key not in known]

    async def _drafts(self, message: Message, turns: list[Turn]) -> list[Draft]:
        """What the rules draw from new turns, knowing the memories that it may repeat or supersede."""
        owner = await find_owner(self._database, message.account, message.user)
        existing: dict[str, Memory] = {}
        if owner is not None:
            for probe in rules.probes(turns)[:MOST_PROBES]:
                found = await self._search.search(owner, probe, limit=PROBED, kinds=frozenset({"memory"}))
                existing |= {hit.memory.id: hit.memory for hit in found.hits if hit.memory is not None}
        return extraction.dated(await rules.draft(turns, self._embedder, list(existing.values())), turns)

    async def _embed(self, turns: list[Turn]) -> None:
        """Embeds what the turns will need, together with what other messages wait for."""
        texts = set() if self._stored.busy else _texts(turns)
        if self._debounce_s is None:
            texts |= {text for turn in turns if turn.role == "user" for text in own_sentences(turn.text)}
        if len(texts) > VECTORS_AT_ONCE:
            return
        self._to_embed |= texts
        async with self._embedding:
            together, self._to_embed = self._to_embed, set()
            await vectors_for(self._embedder, together)

    async def _vectors(self, turns: list[Turn], drafts: list[Draft]) -> dict[str, Vector]:
        texts = (set() if self._stored.busy else _texts(turns)) | {one.text for one in drafts}
        return await vectors_for(self._embedder, texts) if len(texts) <= VECTORS_AT_ONCE else {}


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


def _texts(turns: list[Turn]) -> set[str]:
    """What the user's turns are found by."""
    return {text for turn in turns if turn.role == "user" for text in texts_of(turn)}


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


async def keep_embedded(database: Database, embedder: Embedder, stored: Signal) -> None:
    """Gives every unit its vector, for ever: when something was stored, and now and then.

    While messages come it takes a tenth of a core: two cores are often two halves of one, and a token waits
    longer for a core whose other half is busy. What has no vector yet is found by its words.
    """
    while True:
        try:
            while True:
                began = anyio.current_time()
                if not await embed_missing(database, embedder, EMBEDDED_AT_ONCE):
                    break
                if stored.busy:
                    await anyio.sleep(BUSY_REST * (anyio.current_time() - began))
        except Unavailable:
            await anyio.sleep(RETRY_S)
            continue
        except Exception:
            logger.exception("embedding.failed")  # the outer edge of a loop that must not end
            await anyio.sleep(EMBED_POLL_S)
            continue
        await stored.wait(EMBED_POLL_S)
        await anyio.sleep(EMBED_PAUSE_S)


async def keep_tidy(database: Database, memories: Memories, kept: Remembered) -> None:
    """Removes for good what was deleted long enough ago, and gives large users their index, for ever."""
    while True:
        try:
            await memories.purge()
            await kept.purge()
            await add_indexes(database)
        except Unavailable:
            await anyio.sleep(RETRY_S)
            continue
        except Exception:
            logger.exception("tidying.failed")  # the outer edge of a loop that must not end
        await anyio.sleep(TIDY_S)
