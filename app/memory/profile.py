"""A person's profile: bio, categories, traits, insights and numbers, all made from current memories.

Choices:

1. A bio is kept with a fingerprint of each memory it was made from, and made anew once one of them was edited,
   superseded or deleted: what a person had forgotten does not live on in their bio. For new memories it is made anew
   only when it is a day old.
2. What the person wrote themselves stands until they ask for another: for every format and style, though not where
   categories are to be left out, which cannot be done to words of theirs.
3. Excluded categories never reach the composing code or a model: statements are narrowed in SQL. A memory of several
   categories is left out if any of them is excluded.
4. Where the model fails the composed bio is given and says so; the model is asked again `RETRY` later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import structlog

from app import outbox
from app.database import Database
from app.errors import NotFound, ValidationFailed
from app.llm.types import Model
from app.memory import bio, bio_writer, insights
from app.memory import profile_data as data
from app.memory.bio import FORMATS, STYLES, Format, Style
from app.memory.memories import Memories
from app.memory.types import CATEGORIES, Owner, Privacy

MEMORIES_NEEDED = 5
CATEGORIES_NEEDED = 2
MAX_AGE = timedelta(hours=24)
RETRY = timedelta(minutes=10)
KEPT_BIOS = 32
"""Formats, styles and exclusions kept for one person; the oldest goes first."""
BIO_CHARACTERS = 6_000
SECTIONS = ("bio", "categories", "insights", "stats", "traits")

log = structlog.get_logger(__name__)

Maker = Literal["composed", "model", "user"]


class Bio(msgspec.Struct, kw_only=True):
    """A bio and who made it. ``reason``: why the model that is configured did not."""

    bio: str
    format: str
    style: str
    made_by: Maker
    model: str | None = None
    reason: str | None = None
    memories: int
    categories: list[str]
    generated_at: datetime


class Kept(msgspec.Struct, kw_only=True):
    """A bio as it is stored, with the memories that are in it: a hash of the text of each, by id."""

    bio: Bio
    sources: dict[str, str]


class Bios(msgspec.Struct, kw_only=True):
    """The column ``owners.bio``."""

    edited: Bio | None = None
    made: dict[str, Kept] = {}


class Profile(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The sections that were asked for; the others are None. ``bio`` is None too where there is too little for one."""

    user_id: str
    bio: Bio | None = None
    categories: list[data.CategoryView] | None = None
    traits: list[insights.Trait] | None = None
    insights: list[insights.Insight] | None = None
    stats: data.Stats | None = None


class _State(msgspec.Struct):
    bios: Bios
    privacy: Privacy
    changed_at: datetime | None


class Profiles:
    """The profiles of one database. Owns ``owners.bio`` and ``owners.privacy``.

    Every method raises `Unavailable` when the server does not serve. ``model`` writes bios where there is one.
    """

    def __init__(self, database: Database, memories: Memories, model: Model | None) -> None:
        self._db = database
        self._memories = memories
        self._model = model

    async def profile(
        self,
        owner: Owner,
        *,
        include: Collection[str] = SECTIONS,
        category: str | None = None,
        refresh: bool = False,
    ) -> Profile:
        """The sections in ``include``, of one category where one is given (the bio is always of all).

        Raises ValidationFailed.
        """
        wrong = [name for name in include if name not in SECTIONS]
        if wrong:
            raise ValidationFailed([("include", f"must be of {', '.join(SECTIONS)}")])
        _check_categories("category", [category] if category else [])
        state = await self._state(owner)
        excluded = state.privacy.excluded()
        shown = await data.strongest(self._db, owner, excluded, [category] if category else CATEGORIES)
        found = Profile(user_id=owner.user)
        if "bio" in include:
            try:
                found.bio = await self.bio(owner, refresh=refresh)
            except NotFound:
                found.bio = None
        if "categories" in include:
            counts = await data.counts(self._db, owner, excluded)
            found.categories = [data.view(name, counts[name], shown) for name in counts if category in (None, name)]
        if "traits" in include:
            found.traits = insights.traits(shown, excluded)
        if "insights" in include:
            changes = [] if category else await data.changes(self._db, owner, excluded)
            found.insights = insights.insights(shown, changes, excluded, datetime.now(UTC))
        if "stats" in include:
            found.stats = await data.stats(self._db, owner, excluded)
        return found

    async def bio(
        self,
        owner: Owner,
        *,
        format: str = "full",  # noqa: A002 - the query parameter's name
        style: str = "narrative",
        exclude_categories: Collection[str] = (),
        refresh: bool = False,
    ) -> Bio:
        """The bio, kept or made now. Raises NotFound (BIO_NOT_FOUND, with the counts) and ValidationFailed."""
        form, tone = _checked(format, style)
        _check_categories("exclude_categories", exclude_categories)
        state = await self._state(owner)
        if state.bios.edited is not None and not exclude_categories:
            return state.bios.edited
        hidden = state.privacy.excluded()
        key = _key(form, tone, hidden | frozenset(exclude_categories))
        kept = state.bios.made.get(key)
        if kept is not None and not refresh and await self._holds(owner, kept, state.changed_at):
            return kept.bio
        made = await self._make(owner, hidden, form, tone, self._model, exclude_categories)
        await self._keep(owner, key, made)
        return made.bio

    async def stored_bio(self, owner: Owner) -> str | None:
        """The bio that goes with search results: what is kept, else composed now; never asks a model."""
        state = await self._state(owner)
        if state.bios.edited is not None:
            return state.bios.edited.bio
        excluded = state.privacy.excluded()
        key = _key("full", "narrative", excluded)
        kept = state.bios.made.get(key)
        if kept is not None and await self._is_true(owner, kept):
            return kept.bio.bio
        try:
            made = await self._make(owner, excluded, "full", "narrative", None)
        except NotFound:
            return None
        await self._keep(owner, key, made)
        return made.bio.bio

    async def edit_bio(self, owner: Owner, text: str) -> Bio:
        """Takes the person's own words. Raises ValidationFailed."""
        text = text.strip()
        if not text or len(text) > BIO_CHARACTERS:
            raise ValidationFailed([("bio", f"must have 1 to {BIO_CHARACTERS} characters")])
        if "\x00" in text:
            raise ValidationFailed([("bio", "may not contain the NUL character")])
        edited = Bio(
            bio=text,
            format="full",
            style="narrative",
            made_by="user",
            memories=0,
            categories=[],
            generated_at=datetime.now(UTC),
        )
        await self._change_bios(owner, lambda bios: msgspec.structs.replace(bios, edited=edited), told="bio")
        return edited

    async def regenerate_bio(
        self,
        owner: Owner,
        *,
        format: str = "full",  # noqa: A002
        style: str = "narrative",
    ) -> Bio:
        """Drops what the person wrote, and every bio kept, and makes one. Raises as `bio` does, changing nothing."""
        form, tone = _checked(format, style)
        excluded = (await self._state(owner)).privacy.excluded()
        made = await self._make(owner, excluded, form, tone, self._model)
        await self._change_bios(owner, lambda _: Bios(made={_key(form, tone, excluded): made}), told="bio")
        return made.bio

    async def privacy(self, owner: Owner) -> Privacy:
        return (await self._state(owner)).privacy

    async def set_privacy(
        self,
        owner: Owner,
        *,
        include_private: bool | None = None,
        exclude_categories: list[str] | None = None,
        memories_from_history: bool | None = None,
    ) -> Privacy:
        """Changes what is given; the settings as they are then. Bios that show more go. Raises ValidationFailed."""
        _check_categories("exclude_categories", exclude_categories or [])
        async with self._db.transaction() as connection:
            row = await connection.fetchrow("SELECT privacy, bio FROM owners WHERE id = $1 FOR NO KEY UPDATE", owner.id)
            if row is None:
                raise _nobody(owner)
            settings = msgspec.json.decode(row["privacy"], type=Privacy)
            before = settings.excluded()
            if include_private is not None:
                settings.include_private = include_private
            if exclude_categories is not None:
                settings.exclude_categories = list(dict.fromkeys(exclude_categories))
            if memories_from_history is not None:
                settings.memories_from_history = memories_from_history
            bios = _bios(row["bio"])
            if settings.excluded() != before:
                bios = Bios(edited=bios.edited)
            await connection.execute(
                "UPDATE owners SET privacy = $2, bio = $3 WHERE id = $1", owner.id, _json(settings), _json(bios)
            )
            await _tell(connection, owner, "privacy")
        return settings

    async def _make(
        self,
        owner: Owner,
        hidden: frozenset[str],
        form: Format,
        style: Style,
        model: Model | None,
        exclude: Collection[str] = (),
    ) -> Kept:
        """A bio made now. ``hidden`` categories do not exist; ``exclude`` is only left out. Raises NotFound."""
        now = datetime.now(UTC)  # before reading: what changes from here on is newer than the bio
        counts = await data.counts(self._db, owner, hidden)
        total = (await data.stats(self._db, owner, hidden)).memories
        excluded = hidden | frozenset(exclude)
        memories = await data.strongest(self._db, owner, excluded, CATEGORIES)
        if total < MEMORIES_NEEDED or len(counts) < CATEGORIES_NEEDED or not memories:
            raise _too_little(owner, total, len(counts))
        text, sources, reason = "", list[str](), None
        if model is not None:
            try:
                text, sources = await bio_writer.write(
                    model, memories, form=form, style=style, excluded=excluded, on=now
                )
            except bio_writer.WritingFailed as error:
                reason = str(error)
                log.warning("profile.model_failed", model=model.name, reason=reason)
        by_model = bool(text)
        if not by_model:
            text = bio.compose(memories, form=form, style=style, excluded=excluded, on=now)
            sources = bio.used(memories, form, excluded)
        if not text:
            raise _too_little(owner, total, len(counts))
        told = [memory for memory in memories if memory.id in set(sources)]
        named = {bio.category_of(memory, excluded) for memory in told}
        return Kept(
            bio=Bio(
                bio=text,
                format=form,
                style=style,
                made_by="model" if by_model else "composed",
                model=model.name if model is not None and by_model else None,
                reason=reason,
                memories=len(sources),
                categories=[name for name in counts if name in named],
                generated_at=now,
            ),
            sources={memory.id: _hash(memory.text) for memory in told},
        )

    async def _holds(self, owner: Owner, kept: Kept, changed_at: datetime | None) -> bool:
        age = datetime.now(UTC) - kept.bio.generated_at
        if self._model is not None and kept.bio.made_by == "composed" and age > RETRY:
            return False
        if changed_at is not None and changed_at > kept.bio.generated_at and age > MAX_AGE:
            return False
        return await self._is_true(owner, kept)

    async def _is_true(self, owner: Owner, kept: Kept) -> bool:
        """Whether every memory in it is still current and reads the same."""
        texts = await data.texts(self._db, owner, kept.sources)
        return {key: _hash(text) for key, text in texts.items()} == kept.sources

    async def _keep(self, owner: Owner, key: str, made: Kept) -> None:
        def add(bios: Bios) -> Bios:
            rest = {k: v for k, v in bios.made.items() if k != key}
            newest = sorted(rest, key=lambda k: rest[k].bio.generated_at)[-(KEPT_BIOS - 1) :]
            return Bios(edited=bios.edited, made={k: rest[k] for k in newest} | {key: made})

        await self._change_bios(owner, add)

    async def _change_bios(
        self, owner: Owner, change: Callable[[Bios], Bios], *, told: Literal["", "bio"] = ""
    ) -> None:
        """``told``: what of the profile the account is told to have changed."""
        async with self._db.transaction() as connection:
            row = await connection.fetchrow("SELECT bio FROM owners WHERE id = $1 FOR NO KEY UPDATE", owner.id)
            if row is None:
                raise _nobody(owner)
            await connection.execute(
                "UPDATE owners SET bio = $2 WHERE id = $1", owner.id, _json(change(_bios(row["bio"])))
            )
            if told:
                await _tell(connection, owner, told)

    async def _state(self, owner: Owner) -> _State:
        row = await self._db.fetchrow("SELECT bio, privacy, changed_at FROM owners WHERE id = $1", owner.id)
        if row is None:
            raise _nobody(owner)
        return _State(_bios(row["bio"]), msgspec.json.decode(row["privacy"], type=Privacy), row["changed_at"])


async def _tell(connection: Any, owner: Owner, changed: Literal["bio", "privacy"]) -> None:
    """Has the account be told that a person's profile was changed on purpose; what it says is theirs to ask for."""
    data = {"user_id": owner.user, "changed": changed}
    await outbox.tell(connection, owner.account, owner.user, "profile.updated", data)


def _checked(form: str, style: str) -> tuple[Format, Style]:
    errors = []
    if form not in FORMATS:
        errors.append(("format", f"must be one of {', '.join(FORMATS)}"))
    if style not in STYLES:
        errors.append(("style", f"must be one of {', '.join(STYLES)}"))
    if errors:
        raise ValidationFailed(errors)
    return form, style  # type: ignore[return-value]  # checked


def _check_categories(field: str, names: Collection[str]) -> None:
    if not set(names) <= set(CATEGORIES):
        raise ValidationFailed([(field, f"must be of {', '.join(CATEGORIES)}")])


def _key(form: str, style: str, excluded: Collection[str]) -> str:
    return f"{form}/{style}/{','.join(sorted(excluded))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bios(stored: str | None) -> Bios:
    return Bios() if stored is None else msgspec.json.decode(stored, type=Bios)


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


def _too_little(owner: Owner, memories: int, categories: int) -> NotFound:
    said = f"a bio needs {MEMORIES_NEEDED} memories in {CATEGORIES_NEEDED} categories, not {memories} in {categories}"
    if memories >= MEMORIES_NEEDED and categories >= CATEGORIES_NEEDED:
        said = "nothing that is remembered fits this format and the categories left"
    return NotFound(
        "bio",
        said,
        details={
            "memories": memories,
            "categories": categories,
            "memories_needed": MEMORIES_NEEDED,
            "categories_needed": CATEGORIES_NEEDED,
        },
        user_id=owner.user,
    )


def _nobody(owner: Owner) -> NotFound:
    return NotFound("profile", "nothing is remembered of this user", user_id=owner.user)
