"""Routes of a user's profile: its sections, the bio in its forms, what the person wrote themselves, privacy.

PROTOCOL.md, Profiles.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Response, get, patch
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta

from app.database import Database
from app.errors import NotFound
from app.memory.bio import FORMATS, STYLES, Format, Style
from app.memory.conversations import ensure_owner, find_owner
from app.memory.profile import (
    BIO_CHARACTERS,
    CATEGORIES_NEEDED,
    MEMORIES_NEEDED,
    SECTIONS,
    Bio,
    Profile,
    Profiles,
)
from app.memory.types import CATEGORIES, Category, Owner, Privacy
from app.web.answers import Success
from app.web.guard import caller_of
from app.web.memory_bodies import Name
from app.web.parse import Query
from app.web.person import USER, AnyRequest, PersonRoutes
from app.web.reply import envelope, json_reply

PATH = "/v1/users/profile"
TAGS = ["profile"]
READ: dict[str, Any] = {"scope": "profile:read", "rate": "requests"}
WRITE: dict[str, Any] = {"scope": "profile:write", "rate": "requests"}
LISTED = ", ".join(CATEGORIES)

_SOME = {"type": "string", "maxLength": 256}
SHOW = READ | {
    "answer": Success[Profile],
    "query": {
        "include": {**_SOME, "description": f"of {', '.join(SECTIONS)}, with commas between; all by default"},
        "category": {"type": "string", "enum": list(CATEGORIES)},
        "refresh": {"type": "boolean", "default": False, "description": "make the bio anew"},
    }
    | USER,
}
BIO = READ | {
    "answer": Success[Bio],
    "query": {
        "format": {"type": "string", "enum": list(FORMATS), "default": "full"},
        "style": {"type": "string", "enum": list(STYLES), "default": "narrative"},
        "exclude_categories": {**_SOME, "description": f"left out, with commas between: {LISTED}"},
        "refresh": {"type": "boolean", "default": False},
    }
    | USER,
}

Errors = list[tuple[str, str]]


class EditBio(msgspec.Struct, kw_only=True):
    """Either ``bio``, the person's own words, or ``regenerate: true``, with the format and style to make it in."""

    bio: Annotated[str, Meta(min_length=1, max_length=BIO_CHARACTERS, pattern=r"^[^\x00]*$")] | None = None
    regenerate: bool = False
    format: Format = "full"
    style: Style = "narrative"
    user_id: Name | None = None


class EditPrivacy(msgspec.Struct, kw_only=True):
    """What is given is changed. Excluded categories stay out of bio, traits, insights and numbers; with
    ``memories_from_history`` memories are drawn from what the person says in conversations brought from elsewhere."""

    include_private: bool | None = None
    exclude_categories: Annotated[list[Category], Meta(max_length=len(CATEGORIES))] | None = None
    memories_from_history: bool | None = None
    user_id: Name | None = None


class ProfileRoutes(PersonRoutes):
    """The handlers and what they share."""

    def __init__(self, database: Database, profiles: Profiles, max_body_bytes: int) -> None:
        super().__init__(database, max_body_bytes)
        self.profiles = profiles

    async def find(self, request: AnyRequest, user: str | None = None) -> tuple[str, Owner | None]:
        """Whom the request is about, and their owner if anything was ever remembered about them."""
        name = await self.whose(request, user)
        return name, await find_owner(self.database, caller_of(request.scope).account, name)

    async def make(self, request: AnyRequest, user: str | None) -> Owner:
        """Whom the request is about, from now on known."""
        name = await self.whose(request, user)
        async with self.database.transaction() as connection:
            return await ensure_owner(connection, caller_of(request.scope).account, name)

    def handlers(self) -> list[HTTPRouteHandler]:
        """The Litestar handlers."""
        return [*self._reading(), *self._changing()]

    def _reading(self) -> list[HTTPRouteHandler]:
        routes = self

        @get(PATH, opt=SHOW, operation_id="getProfile", tags=TAGS)
        async def show(request: AnyRequest) -> Response[bytes]:
            """What memories show about a user: bio, categories, insights, numbers and traits."""
            query = Query(request.scope)
            include = query.several("include", SECTIONS) or list(SECTIONS)
            category = query.choice("category", CATEGORIES)
            refresh = query.flag("refresh")
            query.check()
            name, owner = await routes.find(request)
            if owner is None:
                raise NotFound("profile", "nothing is remembered of this user", user_id=name)
            profile = await routes.profiles.profile(owner, include=include, category=category, refresh=refresh)
            sections = {section: getattr(profile, section) for section in include}
            return json_reply(envelope({"user_id": name, **sections}))

        @get(f"{PATH}/bio", opt=BIO, operation_id="getBio", tags=TAGS)
        async def bio(request: AnyRequest) -> Response[bytes]:
            """A user's bio. Kept, and made anew when memories changed and it is over a day old."""
            query = Query(request.scope)
            form, style = query.choice("format", FORMATS) or "full", query.choice("style", STYLES) or "narrative"
            excluded = query.several("exclude_categories", CATEGORIES)
            refresh = query.flag("refresh")
            query.check()
            name, owner = await routes.find(request)
            if owner is None:
                raise _too_little(name)
            made = await routes.profiles.bio(
                owner, format=form, style=style, exclude_categories=excluded, refresh=refresh
            )
            return json_reply(envelope(made))

        @get(
            f"{PATH}/privacy",
            opt=READ | {"query": USER, "answer": Success[Privacy]},
            operation_id="getPrivacy",
            tags=TAGS,
        )
        async def privacy(request: AnyRequest) -> Response[bytes]:
            """What stays out of a user's profile, and whether memories are drawn from what is brought."""
            _, owner = await routes.find(request)
            return json_reply(envelope(await routes.profiles.privacy(owner) if owner else Privacy()))

        return [show, bio, privacy]

    def _changing(self) -> list[HTTPRouteHandler]:
        routes = self

        @patch(
            f"{PATH}/bio",
            opt=WRITE | {"body": EditBio, "example": {"regenerate": True}, "query": USER, "answer": Success[Bio]},
            status_code=200,
            operation_id="editBio",
            tags=TAGS,
        )
        async def edit(request: AnyRequest) -> Response[bytes]:
            """Set the bio in the person's own words, which then stands; or drop those and have one made."""
            body, headers = await routes.body(request, EditBio, _bio_problems)
            if body.bio is not None:
                made = await routes.profiles.edit_bio(await routes.make(request, body.user_id), body.bio)
                return json_reply(envelope(made), headers=headers)
            name, owner = await routes.find(request, body.user_id)
            if owner is None:
                raise _too_little(name)
            made = await routes.profiles.regenerate_bio(owner, format=body.format, style=body.style)
            return json_reply(envelope(made), headers=headers)

        @patch(
            f"{PATH}/privacy",
            opt=WRITE
            | {"body": EditPrivacy, "example": {"include_private": False}, "query": USER, "answer": Success[Privacy]},
            status_code=200,
            operation_id="editPrivacy",
            tags=TAGS,
        )
        async def edit_privacy(request: AnyRequest) -> Response[bytes]:
            """Say what stays out of the profile, whose bios are then made anew, and what memories are drawn from."""
            body, headers = await routes.body(request, EditPrivacy, _privacy_problems)
            owner = await routes.make(request, body.user_id)
            settings = await routes.profiles.set_privacy(
                owner,
                include_private=body.include_private,
                exclude_categories=None if body.exclude_categories is None else list(body.exclude_categories),
                memories_from_history=body.memories_from_history,
            )
            return json_reply(envelope(settings), headers=headers)

        return [edit, edit_privacy]


def _bio_problems(body: EditBio) -> Errors:
    if (body.bio is None) != body.regenerate:
        return [("bio", "give either bio or regenerate: true")]
    return [("bio", "must not be blank")] if body.bio is not None and not body.bio.strip() else []


def _privacy_problems(body: EditPrivacy) -> Errors:
    if all(given is None for given in (body.include_private, body.exclude_categories, body.memories_from_history)):
        return [("body", "give include_private, exclude_categories or memories_from_history")]
    return []


def _too_little(user: str) -> NotFound:
    """For somebody nothing is remembered of: the counts are zero."""
    return NotFound(
        "bio",
        f"a bio needs {MEMORIES_NEEDED} memories in {CATEGORIES_NEEDED} categories; so far there are 0 in 0",
        details={
            "memories": 0,
            "categories": 0,
            "memories_needed": MEMORIES_NEEDED,
            "categories_needed": CATEGORIES_NEEDED,
        },
        user_id=user,
    )
