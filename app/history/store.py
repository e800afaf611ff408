"""A snapshot becomes a conversation's turns: what is new is added, what was edited replaced, what is absent stays.

Choices:

1. A message is known by its id in its conversation. Its turn's key is made of that id and of what it says, so that a
   snapshot that comes again changes nothing, and a turn that was forgotten on purpose does not come back with it.
2. Each turn keeps the time of the snapshot that wrote it, and only one at least as new overwrites it: in whatever order
   snapshots come, the same is stored in the end.
3. What was drawn from the old words of an edited message is retired with them, but for the sentences that it still
   says: those are no news, and what the person had deleted of them does not come back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from app import ids
from app.history import undrawn
from app.history.snapshot import Said, Snapshot, at
from app.memory import rules
from app.memory.conversations import TURN_COLUMNS, NewTurns, forgotten, store_turns, to_turn
from app.memory.index import index_turns, texts_of
from app.memory.records import clean, to_json
from app.memory.removing import carry_over, hidden, retire
from app.memory.sentences import own_sentences
from app.memory.types import Origin, Owner, StoredTurn, Turn
from app.memory.words import normal


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot changed. ``turns``: those to be embedded; ``said``: those that are new or say something else;
    ``found``: how it differed from what was there."""

    platform: str
    found: Changes
    turns: list[StoredTurn]
    said: list[Turn]
    edited: int


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot's turns, and which of them are new to the conversation or edited (as they were, and as they are).

    ``undrawn``: keys of edited ones, as they were, that nothing was drawn from yet."""

    turns: list[Turn]
    new: list[Turn]
    edited: list[tuple[StoredTurn, Turn]]
    undrawn: set[str]


async def apply(
    connection: asyncpg.Connection, owner: Owner, conversation: str, snapshot: Snapshot, revised_at: datetime
) -> Applied:
    """Stores and indexes a snapshot. To be called in the caller's transaction, the owner locked."""
    row = await connection.fetchrow(
        "SELECT platform, external_id, created_at, updated_at FROM conversations WHERE owner = $1 AND id = $2",
        owner.id,
        conversation,
    )
    found = await changes(connection, owner, conversation, snapshot, revised_at)
    given = NewTurns(
        owner=owner,
        platform=row["platform"],
        external_id=row["external_id"],
        turns=found.new,
        origin=Origin(source=row["platform"]),
    )
    (stored,) = await store_turns(connection, [given])
    added = [one for one in stored if one.new]
    changed = await _edit(connection, owner, found.edited)
    await _revise(connection, owner, conversation, found.turns, revised_at)
    await _rename(connection, owner, conversation, snapshot, row, revised_at)
    worded = await _index(connection, owner, changed)
    return Applied(
        platform=row["platform"],
        found=found,
        turns=added + worded,
        said=[one.turn for one in added] + [turn for old, turn in changed if says_anew(old.turn, turn)],
        edited=len(worded),
    )


async def changes(
    connection: asyncpg.Connection, owner: Owner, conversation: str, snapshot: Snapshot, revised_at: datetime
) -> Changes:
    """What `apply` would find to change, but for turns that were forgotten. Changes nothing itself."""
    before = await _there(connection, owner, conversation, [clean(said.id) for said in snapshot])
    turns = _turns(snapshot, conversation, before, revised_at)
    edited = [
        (known.turn, turn)
        for turn in turns
        if (known := before.get(turn.external_id)) is not None and _edits(known, turn, revised_at)
    ]
    return Changes(
        turns=turns,
        new=[turn for turn in turns if turn.external_id not in before],
        edited=edited,
        undrawn=await undrawn.marked(connection, owner, [old.turn.key for old, _ in edited]) if edited else set(),
    )


def said_before(found: Changes) -> dict[str, list[str]]:
    """By the key of an edited turn, what its old words said of the person, normalised (`drawing.not_said_before`).

    Of one that was not drawn from nothing counts as said."""
    return {
        turn.key: []
        if old.turn.key in found.undrawn
        else sorted({normal(one.text) for one in rules.statements([old.turn])})
        for old, turn in found.edited
        if says_anew(old.turn, turn)
    }


def says_anew(old: Turn, turn: Turn) -> bool:
    """Whether an edited turn has other words, or another speaker: it turned out to be the person's own, or not to."""
    return (old.key, old.own) != (turn.key, turn.own)


def _turns(snapshot: Snapshot, conversation: str, before: dict[str | None, _Known], revised_at: datetime) -> list[Turn]:
    """The turns of a snapshot. One without a time keeps what it had, or was said when the one before it was."""
    when = at(snapshot.head.created_at) if snapshot.head.created_at else revised_at
    turns = []
    for said in snapshot:
        if said.created_at is not None:
            when = at(said.created_at)
        elif (known := before.get(clean(said.id))) is not None:
            when = known.turn.turn.said_at
        if text := clean(said.content).strip():
            turns.append(_turn(said, text, conversation, when))
    return turns


def _turn(said: Said, text: str, conversation: str, when: datetime) -> Turn:
    role: Literal["user", "assistant"] = "assistant" if said.role == "assistant" else "user"
    metadata: dict[str, Any] = {"name": clean(said.name)} if said.name else {}
    if not said.mine:
        metadata["mine"] = False
    return Turn(
        key=ids.derived_id("turn", conversation, "message", clean(said.id), role, text),
        role=role,
        text=text,
        said_at=when,
        external_id=clean(said.id),
        metadata=metadata,
    )


class _Known(msgspec.Struct, frozen=True):
    turn: StoredTurn
    revised_at: datetime | None


async def _there(
    connection: asyncpg.Connection, owner: Owner, conversation: str, wanted: list[str]
) -> dict[str | None, _Known]:
    """Those of the conversation's messages that are there, by their ids."""
    rows = await connection.fetch(
        f"""SELECT {TURN_COLUMNS}, t.revised_at FROM turns t
        WHERE t.owner = $1 AND t.conversation = $2 AND t.external_id = ANY($3)""",  # noqa: S608 - constants
        owner.id,
        conversation,
        wanted,
    )
    return {row["external_id"]: _Known(to_turn(row), row["revised_at"]) for row in rows}


def _edits(known: _Known, turn: Turn, revised_at: datetime) -> bool:
    old = known.turn.turn
    if known.revised_at is not None and known.revised_at > revised_at:
        return False
    return (old.key, old.said_at, old.metadata) != (turn.key, turn.said_at, turn.metadata)


async def _edit(
    connection: asyncpg.Connection, owner: Owner, edited: list[tuple[StoredTurn, Turn]]
) -> list[tuple[StoredTurn, Turn]]:
    """Gives turns their new words, where they stand; those that were not forgotten on purpose."""
    gone = await forgotten(connection, owner, [turn.key for _, turn in edited])
    changed = [(old, turn) for old, turn in edited if turn.key not in gone]
    if not changed:
        return []
    said_anew = [(old.turn, turn) for old, turn in changed if says_anew(old.turn, turn)]
    still = {old.key: (turn.key, _said_by(old) & _said_by(turn)) for old, turn in said_anew if old.own and turn.own}
    await carry_over(connection, owner, {key: moved for key, moved in still.items() if moved[1]})
    await retire(connection, owner, [old.key for old, _ in said_anew])
    await connection.execute(
        """UPDATE turns t SET key = g.key, role = g.role, text = g.text, said_at = g.said_at, metadata = g.metadata
        FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::jsonb[])
            AS g (id, key, role, text, said_at, metadata)
        WHERE t.owner = $1 AND t.id = g.id""",
        owner.id,
        [old.id for old, _ in changed],
        [turn.key for _, turn in changed],
        [turn.role for _, turn in changed],
        [turn.text for _, turn in changed],
        [turn.said_at for _, turn in changed],
        [to_json(turn.metadata) for _, turn in changed],
    )
    return changed


async def _index(
    connection: asyncpg.Connection, owner: Owner, changed: list[tuple[StoredTurn, Turn]]
) -> list[StoredTurn]:
    """Has search find edited turns by their new words."""
    worded = [(old.id, turn) for old, turn in changed if texts_of(old.turn) != texts_of(turn)]
    if not worded:
        return []
    unfound = await hidden(connection, owner, [turn.key for _, turn in worded])
    turns = [StoredTurn(id=row, turn=turn, new=True) for row, turn in worded if turn.key not in unfound]
    await index_turns(connection, owner, turns)
    return turns


def _said_by(turn: Turn) -> set[str]:
    return {normal(sentence) for sentence in own_sentences(turn.text)}


async def _revise(
    connection: asyncpg.Connection, owner: Owner, conversation: str, turns: list[Turn], revised_at: datetime
) -> None:
    await connection.execute(
        """UPDATE turns SET revised_at = $4 WHERE owner = $1 AND conversation = $2 AND external_id = ANY($3)
        AND (revised_at IS NULL OR revised_at < $4)""",
        owner.id,
        conversation,
        [turn.external_id for turn in turns],
        revised_at,
    )


async def _rename(
    connection: asyncpg.Connection,
    owner: Owner,
    conversation: str,
    snapshot: Snapshot,
    before: asyncpg.Record,
    revised_at: datetime,
) -> None:
    """The conversation's own title and times, of the newest snapshot."""
    head = snapshot.head
    await connection.execute(
        """UPDATE conversations SET
            title = CASE WHEN $3 THEN coalesce($4, title) ELSE title END,
            created_at = CASE WHEN $3 THEN coalesce($5, created_at) ELSE created_at END,
            updated_at = $6
        WHERE owner = $1 AND id = $2""",
        owner.id,
        conversation,
        revised_at >= before["updated_at"],
        head.title and clean(head.title),
        at(head.created_at) if head.created_at else None,
        max(revised_at, before["updated_at"]),
    )
