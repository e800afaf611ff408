"""A model draws memories from conversations once they pause. Owns the table ``extractions``.

A conversation with new turns is due ``debounce_s`` after the last of them, so that one call reads many turns. The row
is written by the transaction that stores the turns: whatever dies, the turns are read.

Choices:

1. Whoever extracts holds a lease on the conversation's row, renewed for as long as the model takes. It asks outside of
   any transaction and commits only while the lease is its own: memories, the last turn read and the messages' outcomes
   in one step.
2. A pause that never comes is not waited for longer than `LONGEST_PAUSE` times the debounce.
3. What fails is tried again after growing pauses, `MOST_TRIES` times; its reason stands in the messages' statuses until
   a try succeeds, or for good. A new turn in the conversation begins the tries anew.
4. Of a conversation that was brought the turns to be read are named by their keys: its person may want memories of some
   of its snapshots alone, and a turn that was edited is read again. One edited while the model reads has a new key, and
   what the model made of the old one is dropped.
5. Statuses are told after the commit; ``remembered.noted`` finds those that a dead worker has not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import anyio
import msgspec
import structlog

from app.chat.lifecycle import Lifecycle, Note
from app.database import Database
from app.errors import ExtractionFailed, Unavailable, UpstreamFailed
from app.memory import remembered
from app.memory.conversations import said_still, turns_of
from app.memory.extract import Extractor
from app.memory.memories import Memories
from app.memory.records import lock
from app.memory.remembered import Outcome, Remembered
from app.memory.search import Search
from app.memory.types import Draft, Memory, Origin, Owner, StoredTurn, Turn

LEASE = timedelta(seconds=45)
RENEW_S = 15.0
LONGEST_PAUSE = 10
MOST_TURNS = 200
"""Turns one call reads; what is left comes with the next."""
MOST_TRIES = 10
PAUSES = tuple(timedelta(seconds=s) for s in (10, 60, 600, 3_600))
EXISTING = 20
QUERY_CHARACTERS = 1_000
AT_ONCE = 4
POLL_S = 1.0

log = structlog.get_logger(__name__)


class Claim(msgspec.Struct):
    """A conversation under lease until ``until``; ``done_to`` is the last turn that was read before, ``chosen`` are the
    keys of those that are to be read where it was brought."""

    owner: Owner
    conversation: str
    due_at: datetime
    until: datetime
    done_to: int
    chosen: list[str] | None
    tries: int
    origin: Origin


class Read(NamedTuple):
    """What a model is given to read; the number of the last turn that is done with it, or the keys of all that are."""

    turns: list[StoredTurn]
    last: int
    keys: list[str]


async def schedule(connection: Any, conversations: Sequence[tuple[Owner, str]], debounce_s: float) -> None:
    """New turns were stored: the conversations are due after a pause. In the transaction that stores them."""
    await connection.execute(
        """INSERT INTO extractions AS e (conversation, owner, due_at, since)
           SELECT g.conversation, g.owner, now() + $3::interval, now()
           FROM unnest($1::text[], $2::bigint[]) AS g (conversation, owner)
           ON CONFLICT (conversation) DO UPDATE SET
               since = coalesce(e.since, now()), tries = 0,
               due_at = least(now() + $3::interval, coalesce(e.since, now()) + $4 * $3::interval)
           WHERE e.owner = excluded.owner""",
        [conversation for _, conversation in conversations],
        [owner.id for owner, _ in conversations],
        timedelta(seconds=debounce_s),
        LONGEST_PAUSE,
    )


async def choose(connection: Any, owner: Owner, conversation: str, keys: list[str], debounce_s: float) -> None:
    """Turns of a brought conversation are to be read after a pause. In the transaction that stores them."""
    await schedule(connection, [(owner, conversation)], debounce_s)
    await connection.execute(
        "UPDATE extractions SET chosen = coalesce(chosen, '{}') || $3::text[] WHERE conversation = $1 AND owner = $2",
        conversation,
        owner.id,
        keys,
    )


def dated(drafts: list[Draft], turns: Iterable[Turn]) -> list[Draft]:
    """The drafts, true since they were said where they do not say since when."""
    said_at = {turn.key: turn.said_at for turn in turns}

    def since(draft: Draft) -> datetime | None:
        return draft.valid_from or max((said_at[key] for key in draft.turn_keys if key in said_at), default=None)

    return [msgspec.structs.replace(draft, valid_from=since(draft)) for draft in drafts]


class Extraction:
    """Extracts from the conversations that are due."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        database: Database,
        memories: Memories,
        search: Search,
        extractor: Extractor,
        kept: Remembered,
    ) -> None:
        self._lifecycle = lifecycle
        self._database = database
        self._memories = memories
        self._search = search
        self._extractor = extractor
        self._kept = kept

    async def run(self) -> None:
        """Extracts for ever, `AT_ONCE` conversations at a time."""
        async with anyio.create_task_group() as tg:
            for number in range(AT_ONCE):
                tg.start_soon(self._loop, number == 0)

    async def _loop(self, repairs: bool) -> None:
        while True:
            try:
                if repairs:
                    await self.repair()
                while await self.step():
                    pass
            except Unavailable:
                pass
            except Exception:
                log.exception("extraction.crashed")  # the outer edge of a loop that must not end
            await anyio.sleep(POLL_S)

    async def step(self) -> bool:
        """One conversation that is due, if any; False when there was none."""
        claim = await self._claim()
        if claim is None:
            return False
        read = await self._turns(claim)
        if not read.turns:
            await self._commit(claim, read, [], None)
            return True
        drafts: list[Draft] = []
        reason: str | None = "the lease was lost"
        existing = await self._existing(claim.owner, read.turns)
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._renew, claim, beside.cancel_scope)
            try:
                drafts = await self._extractor.extract(read.turns, existing)
                reason = None
            except (ExtractionFailed, UpstreamFailed) as error:
                reason = error.message or error.code
            except Exception as error:
                log.exception("extraction.crashed", conversation=claim.conversation)
                reason = type(error).__name__  # a failure like others: said, and tried again
            beside.cancel_scope.cancel()
        await self._commit(claim, read, drafts, reason)
        return True

    async def repair(self) -> None:
        """Tells the statuses that a dead worker has not told."""
        by_account: dict[str, list[Outcome]] = {}
        for account, outcome in await self._kept.unnoted():
            by_account.setdefault(account, []).append(outcome)
        for account, outcomes in by_account.items():
            await self._tell(account, outcomes)

    async def _claim(self) -> Claim | None:
        row = await self._database.fetchrow(
            """UPDATE extractions e SET claimed_until = now() + $1::interval, tries = e.tries + 1, since = NULL
               FROM owners o, conversations c
               WHERE o.id = e.owner AND c.id = e.conversation AND e.conversation = (
                   SELECT conversation FROM extractions
                   WHERE due_at <= now() AND (claimed_until IS NULL OR claimed_until <= now())
                   ORDER BY due_at FOR UPDATE SKIP LOCKED LIMIT 1
               )
               RETURNING e.conversation, e.due_at, e.claimed_until, e.done_to, e.chosen, e.tries, o.id AS owner,
                   o.account, o.user_id, c.agent_id, c.thread_id, c.source""",
            LEASE,
        )
        if row is None:
            return None
        return Claim(
            owner=Owner(row["owner"], row["account"], row["user_id"]),
            conversation=row["conversation"],
            due_at=row["due_at"],
            until=row["claimed_until"],
            done_to=row["done_to"],
            chosen=row["chosen"],
            tries=row["tries"],
            origin=Origin(
                agent_id=row["agent_id"],
                thread_id=row["thread_id"],
                source=row["source"],
                conversation=row["conversation"],
            ),
        )

    async def _renew(self, claim: Claim, asking: anyio.CancelScope) -> None:
        """Renews the lease until cancelled, and cancels the asking when it is lost."""
        while True:
            await anyio.sleep(RENEW_S)
            # never cut between the statement and its answer: the lease would be one we do not know of
            with suppress(Unavailable), anyio.CancelScope(shield=True):
                until = await self._database.fetchval(
                    """UPDATE extractions SET claimed_until = now() + $1::interval
                       WHERE conversation = $2 AND owner = $3 AND claimed_until = $4 RETURNING claimed_until""",
                    LEASE,
                    claim.conversation,
                    claim.owner.id,
                    claim.until,
                )
                if until is None:
                    asking.cancel()
                    return
                claim.until = until

    async def _turns(self, claim: Claim) -> Read:
        """The conversation's unread turns, those of messages that were deleted passed over for good."""
        async with self._database.connection() as connection:
            turns = await turns_of(
                connection,
                claim.owner,
                claim.conversation,
                after=claim.done_to if claim.chosen is None else 0,
                keys=claim.chosen,
                limit=MOST_TURNS,
            )
            there = await remembered.still_there(connection, claim.owner, _messages(turns))
        wanted = [one for one in turns if one.turn.message_id is None or one.turn.message_id in there]
        if claim.chosen is None:
            return Read(wanted, max((one.id for one in turns), default=claim.done_to), [])
        # fewer than asked for: the others were removed or edited since
        keys = [one.turn.key for one in turns] if len(turns) == MOST_TURNS else claim.chosen
        return Read(wanted, claim.done_to, keys)

    async def _existing(self, owner: Owner, turns: list[StoredTurn]) -> list[Memory]:
        query = "\n".join(one.turn.text for one in turns if one.turn.own)[-QUERY_CHARACTERS:]
        if not query:
            return []
        found = await self._search.search(owner, query, limit=EXISTING, kinds=frozenset({"memory"}))
        return [hit.memory for hit in found.hits if hit.memory is not None]

    async def _commit(self, claim: Claim, read: Read, drafts: list[Draft], reason: str | None) -> None:
        turns = read.turns
        outcomes: list[Outcome] = []
        async with self._database.transaction() as connection:
            await lock(connection, claim.owner)
            if not await self._ours(connection, claim):
                log.warning("extraction.lost", conversation=claim.conversation)
                return
            messages = await remembered.still_there(connection, claim.owner, _messages(turns))
            if reason is None:
                await self._add(connection, claim, turns, drafts, messages)
            outcomes = await remembered.extracted(connection, claim.owner, sorted(messages), reason)
            await self._settle(connection, claim, read, reason)
        say = log.info if reason is None else log.warning
        say(
            "extraction.done" if reason is None else "extraction.failed", conversation=claim.conversation, reason=reason
        )
        await self._tell(claim.owner.account, outcomes)

    async def _ours(self, connection: Any, claim: Claim) -> bool:
        until = await connection.fetchval(
            "SELECT claimed_until FROM extractions WHERE conversation = $1 AND owner = $2 FOR UPDATE",
            claim.conversation,
            claim.owner.id,
        )
        return bool(until == claim.until)

    async def _add(
        self, connection: Any, claim: Claim, turns: list[StoredTurn], drafts: list[Draft], messages: set[str]
    ) -> None:
        """Adds the drafts, each with the message it came from, but for those of messages deleted and turns edited
        meanwhile."""
        still = await said_still(connection, claim.owner, [one.turn.key for one in turns])
        said_in = {one.turn.key: one.turn.message_id for one in turns}
        places: dict[int, int] = {}
        kept: list[Draft] = []
        for place, draft in enumerate(drafts):
            sources = [said_in[key] for key in draft.turn_keys if key in said_in]
            there = [source for source in sources if source is None or source in messages]
            if (there or not sources) and still.issuperset(draft.turn_keys):
                places[place] = len(kept)
                message_id = next((source for source in there if source is not None), None)
                earlier = None if draft.supersedes_draft is None else places.get(draft.supersedes_draft)
                kept.append(msgspec.structs.replace(draft, message_id=message_id, supersedes_draft=earlier))
        await self._memories.add(
            connection,
            claim.owner,
            dated(kept, (one.turn for one in turns)),
            origin=claim.origin,
            extractor=self._extractor.name,
            source_key=f"{claim.conversation} {turns[0].id if turns else 0}",
        )

    async def _settle(self, connection: Any, claim: Claim, read: Read, reason: str | None) -> None:
        """Gives the lease back. Turns that came meanwhile have moved the row's ``due_at``: it stays."""
        again = PAUSES[min(claim.tries, len(PAUSES)) - 1] if claim.tries < MOST_TRIES else None
        await connection.execute(
            """UPDATE extractions SET claimed_until = NULL, done_to = $3, reason = $4,
                   chosen = CASE WHEN chosen IS NOT NULL
                       THEN ARRAY(SELECT k FROM unnest(chosen) k WHERE NOT k = ANY($7::text[])) END,
                   tries = CASE WHEN $4::text IS NULL OR due_at <> $5 THEN 0 ELSE tries END,
                   due_at = CASE WHEN due_at <> $5 THEN due_at
                       WHEN $4::text IS NOT NULL THEN now() + $6::interval
                       WHEN NOT chosen <@ $7::text[] THEN now()
                       WHEN chosen IS NULL
                           AND EXISTS (SELECT FROM turns t WHERE t.owner = $2 AND t.conversation = $1 AND t.id > $3)
                       THEN now() END
               WHERE conversation = $1 AND owner = $2""",
            claim.conversation,
            claim.owner.id,
            read.last if reason is None else claim.done_to,
            reason,
            claim.due_at,
            again,
            read.keys if reason is None else [],
        )

    async def _tell(self, account: str, outcomes: list[Outcome]) -> None:
        """Has the messages' statuses tell of their memories."""
        await self._lifecycle.note_remembered(
            Note(
                account=account,
                message_id=one.message_id,
                created=one.created_ms,
                status=one.status,
                memory_ids=one.memory_ids,
                error=one.reason,
            )
            for one in outcomes
        )
        if outcomes:
            await self._kept.noted(account, outcomes)


def _messages(turns: list[StoredTurn]) -> list[str]:
    return sorted({one.turn.message_id for one in turns if one.turn.message_id is not None})
