"""How a draft becomes a memory, or turns out to be one already.

Choices:

1. A memory's id is derived from its source and normalised text: adding it again from the same source changes nothing,
   even after it was edited or deleted.
2. A draft that says what a current memory says is merged into it: equal after normalising, or a cosine of ``SAME`` and
   no difference but in filler words. The cosine alone would lose facts: "my left knee hurts" has 0.97 with the right
   one, "two cats" 0.96 with three. A superseded memory is no twin: who moves back to Lyon says something new.
3. Superseding puts the draft into the chain of the memory it names, in the order of ``valid_from``: of two that
   supersede the same memory the one said later is current, whichever was stored first. On a tie it is the one stored
   last. Deleted memories keep their place in the chain, so that restoring one cannot overrule a newer one.
4. A draft made of a turn that was forgotten meanwhile is dropped: a model was still reading when it went.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime

import asyncpg
import msgspec
import numpy as np
from numpy.typing import NDArray

from app import ids
from app.memory.conversations import forgotten
from app.memory.index import Vectors, index_memories
from app.memory.records import COLUMNS, check, lock, to_json, to_memory, touch, write_event
from app.memory.types import Draft, Memory, Origin, Owner
from app.memory.words import normal, pieces

SAME = 0.95
"""The cosine from which two texts may be one memory."""
NEAREST = 5

_FILLER = re.compile(
    r"an?|the|at|in|on|of|each|every|any|really|very|so|quite|just|also|actually|truly|indeed|simply|do|does|that"
)
_WHOLE = {"'m": "am", "'re": "are", "'ve": "have", "'ll": "will", "n't": "not"}
_SHORT = re.compile(r"('m|'re|'ve|'ll|n't)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def memory_id(owner: Owner, source_key: str, text: str) -> str:
    """The id of the memory that this source makes of this text."""
    return ids.derived_id("mem", owner.account, owner.user, source_key, _plain(text))


def fingerprint(text: str) -> str:
    """Equal for texts that are equal after normalising."""
    return hashlib.sha256(_plain(text).encode()).hexdigest()


def told(text: str) -> str:
    """Equal for texts that have the same words in the same order, fillers aside."""
    words = _SHORT.sub(lambda found: f" {_WHOLE[found[1].lower()]}", text.replace("’", "'"))
    said = " ".join(word for word in _WORD.findall(words.casefold()) if not _FILLER.fullmatch(word))
    return hashlib.sha256(said.encode()).hexdigest()


def _plain(text: str) -> str:
    return normal(text) or text


async def unknown(connection: asyncpg.Connection, owner: Owner, drafts: dict[str, Draft]) -> list[str]:
    """The ids of those drafts that were never added."""
    rows = await connection.fetch("SELECT id FROM memories WHERE owner = $1 AND id = ANY($2)", owner.id, list(drafts))
    known = {row["id"] for row in rows}
    return [key for key in drafts if key not in known]


async def add(
    connection: asyncpg.Connection,
    owner: Owner,
    drafts: dict[str, Draft],
    vectors: Vectors,
    *,
    origin: Origin,
    extractor: str,
) -> tuple[list[Memory], list[str]]:
    """`Memories.make` of drafts by their memory ids, with the vectors of their texts as far as there are any."""
    await lock(connection, owner)
    known = set(drafts) - set(await unknown(connection, owner, drafts))
    gone = await forgotten(connection, owner, [key for draft in drafts.values() for key in draft.turn_keys])
    merged: dict[str, str] = {}
    new: list[str] = []
    changed = False
    for key, draft in drafts.items():
        if key in known or gone & set(draft.turn_keys):
            continue
        named = draft.supersedes and merged.get(draft.supersedes, draft.supersedes)
        replaced = await _chain(connection, owner, named, draft.valid_from) if named else []
        if twin := await _twin(connection, owner, draft, vectors, replaced):
            merged[key] = twin.id
            changed |= await _merge(connection, owner, twin, draft, replaced)
        else:
            memory = await _insert(connection, owner, key, draft, replaced, origin, extractor)
            await index_memories(connection, owner, [memory], vectors, new=True)  # the next draft may be its twin
            new.append(key)
    if changed or new:
        await touch(connection, owner)
    return await _read(connection, owner, list(drafts)), new


async def _read(connection: asyncpg.Connection, owner: Owner, keys: list[str]) -> list[Memory]:
    """Those that are there and not deleted, in the order of the ids."""
    rows = await connection.fetch(
        f"SELECT {COLUMNS} FROM memories m WHERE m.owner = $1 AND m.id = ANY($2) AND m.deleted_at IS NULL",  # noqa: S608
        owner.id,
        keys,
    )
    found = {row["id"]: to_memory(row) for row in rows}
    return [found[key] for key in keys if key in found]


async def _chain(connection: asyncpg.Connection, owner: Owner, start: str, since: datetime | None) -> list[Memory]:
    """The memory and what superseded it, one after the other; deleted ones too. Empty when there is none such.

    Where the memory is younger than ``since`` (by default now) it begins earlier, with what was true then.
    """
    rows = await connection.fetch(
        f"""WITH RECURSIVE said AS (
            SELECT coalesce($3, now()) AS at
        ), before AS (
            SELECT id, valid_from FROM memories WHERE owner = $1 AND id = $2
            UNION ALL
            SELECT p.id, p.valid_from FROM memories p JOIN before b ON p.superseded_by = b.id
            WHERE p.owner = $1 AND b.valid_from > (SELECT at FROM said)
        ), first AS (
            SELECT id FROM before CROSS JOIN said
            ORDER BY valid_from > at, greatest(valid_from - at, at - valid_from), id LIMIT 1
        ), linked AS (
            SELECT id, superseded_by, 0 AS depth FROM memories JOIN first USING (id)
            UNION ALL
            SELECT n.id, n.superseded_by, depth + 1 FROM memories n JOIN linked l ON n.id = l.superseded_by
            WHERE n.owner = $1)
        SELECT {COLUMNS} FROM memories m JOIN linked USING (id) WHERE m.owner = $1 ORDER BY depth""",  # noqa: S608
        owner.id,
        start,
        since,
    )
    return [to_memory(row) for row in rows]


async def _twin(
    connection: asyncpg.Connection,
    owner: Owner,
    draft: Draft,
    vectors: Vectors,
    replaced: list[Memory],
) -> Memory | None:
    """The current memory that says what the draft says. What the draft supersedes, and what is older, is none."""

    def fits(memory: Memory) -> bool:
        return not replaced or (memory.id != replaced[0].id and memory.valid_from >= replaced[0].valid_from)

    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM memories m WHERE m.owner = $1 AND m.normal = $2
        AND m.deleted_at IS NULL AND m.valid_to IS NULL ORDER BY m.created_at, m.id""",  # noqa: S608
        owner.id,
        fingerprint(draft.text),
    )
    for memory in map(to_memory, rows):
        if fits(memory):
            return memory
    vector = vectors.get(draft.text)
    if vector is None or len(pieces(draft.text)) > 1:
        return None
    for memory in await _near(connection, owner, vector, told(draft.text)):
        if fits(memory) and len(pieces(memory.text)) == 1 and told(memory.text) == told(draft.text):
            return memory
    return None


async def _near(connection: asyncpg.Connection, owner: Owner, vector: NDArray[np.float32], words: str) -> list[Memory]:
    """The nearest of the memories that have the same words, or are so old that nobody noted which they have."""
    rows = await connection.fetch(
        f"""SELECT {COLUMNS} FROM (
            SELECT u.memory, u.embedding <=> $2::text::vector AS distance
            FROM memories c JOIN units u ON u.memory = c.id AND u.owner = $1
            WHERE c.owner = $1 AND (c.told = $6 OR c.told IS NULL) AND c.deleted_at IS NULL AND c.valid_to IS NULL
            AND u.embedding IS NOT NULL AND vector_dims(u.embedding) = $3
            ORDER BY distance LIMIT $4) near
        JOIN memories m ON m.id = near.memory WHERE m.owner = $1 AND near.distance <= $5
        ORDER BY near.distance, m.id""",  # noqa: S608
        owner.id,
        str(vector.tolist()),
        len(vector),
        NEAREST,
        1 - SAME,
        words,
    )
    return [to_memory(row) for row in rows]


async def _merge(
    connection: asyncpg.Connection, owner: Owner, twin: Memory, draft: Draft, replaced: list[Memory]
) -> bool:
    """Lets the twin stand for the draft: its turns count as sources, the greater importance holds. Whether it changed
    anything."""
    keys = _joined(twin.turn_keys, draft.turn_keys)
    categories = _joined(twin.categories, draft.categories)
    importance = max(twin.importance, draft.importance)
    grows = (keys, categories, importance) != (twin.turn_keys, twin.categories, twin.importance)
    ends = bool(replaced) and replaced[0].superseded_by is None and replaced[0].valid_to is None
    if grows:
        row = await connection.fetchrow(
            f"""UPDATE memories m SET turn_keys = $3, categories = $4, importance = $5, updated_at = clock_timestamp()
            WHERE m.owner = $1 AND m.id = $2 RETURNING {COLUMNS}""",  # noqa: S608
            owner.id,
            twin.id,
            keys,
            categories,
            importance,
        )
        await write_event(connection, owner, "updated", twin, to_memory(row))
    if ends:
        await _close(connection, owner, replaced[0], twin)
    return grows or ends


async def _insert(
    connection: asyncpg.Connection,
    owner: Owner,
    key: str,
    draft: Draft,
    replaced: list[Memory],
    origin: Origin,
    extractor: str,
) -> Memory:
    since = draft.valid_from or await connection.fetchval("SELECT now()")
    older = [memory for memory in replaced if memory.valid_from <= since]
    later = replaced[len(older)] if len(older) < len(replaced) else None
    row = await connection.fetchrow(
        f"""INSERT INTO memories AS m (id, owner, text, normal, type, categories, importance, agent_id, thread_id,
            source, conversation, message_id, turn_keys, extractor, metadata, valid_from, valid_to, superseded_by, told,
            created_at, updated_at)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, at, at
        FROM clock_timestamp() at RETURNING {COLUMNS}""",  # noqa: S608
        key,
        owner.id,
        draft.text,
        fingerprint(draft.text),
        draft.type,
        draft.categories,
        draft.importance,
        origin.agent_id,
        origin.thread_id,
        origin.source,
        origin.conversation,
        draft.message_id or origin.message_id,
        draft.turn_keys,
        extractor,
        to_json(draft.metadata),
        since,
        later.valid_from if later else None,
        later.id if later else None,
        told(draft.text),
    )
    memory = to_memory(row)
    await write_event(connection, owner, "created", None, memory)
    if older:
        await _close(connection, owner, older[-1], memory)
    return memory


async def _close(connection: asyncpg.Connection, owner: Owner, older: Memory, newer: Memory) -> None:
    """Ends what ``newer`` supersedes, where it began."""
    ended = min(older.valid_to or newer.valid_from, newer.valid_from)
    row = await connection.fetchrow(
        f"""UPDATE memories m SET valid_to = $3, superseded_by = $4, updated_at = clock_timestamp()
        WHERE m.owner = $1 AND m.id = $2 RETURNING {COLUMNS}""",  # noqa: S608
        owner.id,
        older.id,
        ended,
        newer.id,
    )
    await write_event(connection, owner, "superseded", older, to_memory(row))


def distinct(owner: Owner, drafts: list[Draft], source_key: str) -> dict[str, Draft]:
    """The drafts by the ids they would have, each once, ``supersedes_draft`` as an id in ``supersedes``.

    Raises ValidationFailed for one that no memory can be.
    """
    keys: list[str] = []
    found: dict[str, Draft] = {}
    for place, given in enumerate(drafts):
        draft = msgspec.structs.replace(given, text=given.text.strip())
        check(
            text=draft.text,
            type=draft.type,
            categories=draft.categories,
            importance=draft.importance,
            metadata=draft.metadata,
        )
        keys.append(memory_id(owner, source_key, draft.text))
        earlier = draft.supersedes_draft
        if earlier is not None and 0 <= earlier < place and keys[earlier] != keys[place]:
            draft = msgspec.structs.replace(draft, supersedes=keys[earlier])
        if twin := found.get(keys[place]):
            draft = msgspec.structs.replace(twin, turn_keys=_joined(twin.turn_keys, draft.turn_keys))
        found[keys[place]] = draft
    return found


def _joined(one: list[str], other: list[str]) -> list[str]:
    return list(dict.fromkeys(one + other))
