"""X's API, version 2: who the token's user is, and the user's posts, newest first.

Choices:

1. Links and pictures are undone from the entities of the text that is used: a long post has a text and entities of its
   own beside the cut ones.
2. The API gives the latest 3,200 posts; what is older is in the archive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import msgspec

from app.integrations.documents.text import one_line
from app.integrations.exports.fields import Raw, items
from app.integrations.social import twitter
from app.integrations.social.api.ask import BAD, Asker, number, shaped
from app.integrations.social.api.types import LONGEST_CURSOR, MOST_PAGES, Found, Page
from app.integrations.social.types import Item
from app.integrations.types import Problem, Unreadable

MOST_POSTS = 3_200
PAGE = 100

_USER = {"user.fields": "description,entities,location,public_metrics,url"}
_POSTS = {"max_results": str(PAGE), "tweet.fields": "created_at,entities,note_tweet"}
_POSTS_BEGIN = "posts:"
_WINDOWS = ("x-rate-limit", "x-user-limit-24hour", "x-app-limit-24hour")
_Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,30}\Z")]
_Name = Annotated[str, msgspec.Meta(pattern=r"^\w{1,50}\Z")]


class _Link(msgspec.Struct):
    url: str = ""
    expanded_url: str = ""
    media_key: str | None = None


class _Entities(msgspec.Struct):
    urls: list[_Link] = []


class _Note(msgspec.Struct):
    text: str = ""
    entities: _Entities = msgspec.field(default_factory=_Entities)


class _Post(msgspec.Struct):
    id: _Id
    text: str = ""
    created_at: str = ""
    entities: _Entities = msgspec.field(default_factory=_Entities)
    note_tweet: _Note = msgspec.field(default_factory=_Note)


class _Metrics(msgspec.Struct):
    tweet_count: int | None = None


class _Pointers(msgspec.Struct):
    url: _Entities = msgspec.field(default_factory=_Entities)
    description: _Entities = msgspec.field(default_factory=_Entities)


class _User(msgspec.Struct):
    id: _Id
    username: _Name
    name: str = ""
    description: str = ""
    location: str = ""
    url: str = ""
    entities: _Pointers = msgspec.field(default_factory=_Pointers)
    public_metrics: _Metrics = msgspec.field(default_factory=_Metrics)


class _Meta(msgspec.Struct):
    next_token: Annotated[str, msgspec.Meta(max_length=LONGEST_CURSOR - 10)] | None = None


class _Error(msgspec.Struct):
    detail: str = ""
    title: str = ""
    resource_id: str = ""


def limit(headers: httpx.Headers, now: float) -> float | None:
    """Each window tells what remains in it and, as a time, when the next one begins."""
    used_up = [window for window in _WINDOWS if number(headers.get(f"{window}-remaining")) == 0]
    resets = [number(headers.get(f"{window}-reset")) for window in used_up]
    return max((max(0.0, reset - now) for reset in resets if reset is not None), default=None)


class XApi:
    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._user: _User | None = None

    async def authenticate(self) -> str:
        return f"@{(await self._me()).username}"

    async def discover(self) -> list[Found]:
        total = (await self._me()).public_metrics.tweet_count
        return [Found("profile", 1), Found("post", None if total is None else min(total, MOST_POSTS))]

    async def pages(self, cursor: str | None = None) -> AsyncIterator[Page]:
        user = await self._me()
        if cursor is None:
            cursor = _POSTS_BEGIN
            yield Page(items=_profile(user), problems=[], cursor=cursor)
        elif not cursor.startswith(_POSTS_BEGIN):
            raise Unreadable("BAD_CURSOR", "This is no place in the pages of X.")
        for _ in range(MOST_PAGES):
            page = await self._posts(user, cursor.removeprefix(_POSTS_BEGIN))
            yield page
            if page.cursor is None:
                return
            cursor = page.cursor
        raise self._asker.bad_answer("pages without end")

    async def _me(self) -> _User:
        if self._user is None:
            answer = await self._asker.ask("/2/users/me", _USER)
            try:
                self._user = shaped(answer["data"], _User)
            except (KeyError, *BAD):
                raise self._asker.bad_answer("no user") from None
        return self._user

    async def _posts(self, user: _User, at: str) -> Page:
        query = _POSTS | ({"pagination_token": at} if at else {})
        answer = await self._asker.ask(f"/2/users/{user.id}/tweets", query)
        try:
            posts = items(answer.get("data", b"[]"))
            token = shaped(answer.get("meta", b"{}"), _Meta).next_token
        except BAD:
            raise self._asker.bad_answer("a page that is none") from None
        if token is not None and token == at:
            raise self._asker.bad_answer("the same page again")
        page = Page(
            items=[], problems=_problems(answer.get("errors")), cursor=f"{_POSTS_BEGIN}{token}" if token else None
        )
        for position, raw in enumerate(posts, 1):
            read = _read(raw, user, f"{_POSTS_BEGIN}{at}:{position}")
            if isinstance(read, Problem):
                page.problems.append(read)
            elif read is not None:
                page.items.append(read)
        return page


def _profile(user: _User) -> list[Item]:
    website = next((link.expanded_url for link in user.entities.url.urls if link.expanded_url), user.url)
    bio = twitter.said(user.description, _links(user.entities.description))
    item = twitter.profile(user.name, user.username, bio, user.location, website)
    return [item] if item else []


def _read(raw: Raw, user: _User, place: str) -> Item | Problem | None:
    try:
        post = shaped(raw, _Post)
    except BAD:
        return Problem(item_id=place, code="BAD_ROW", message="A post cannot be read.")
    is_long = post.note_tweet.text and not post.text.startswith("RT @")
    whole = post.note_tweet if is_long else post
    return twitter.post(post.id, twitter.said(whole.text, _links(whole.entities)), post.created_at, user.username)


def _links(entities: _Entities) -> list[tuple[str, str]]:
    return [(link.url, "" if link.media_key else link.expanded_url or link.url) for link in entities.urls]


def _problems(raw: Raw | None) -> list[Problem]:
    """What the platform says it left out of a page."""
    try:
        errors = shaped(raw, list[_Error]) if raw is not None else []
    except BAD:
        return []
    return [
        Problem(
            item_id=one_line(error.resource_id, 100) or "posts",
            code="LEFT_OUT",
            message=one_line(error.detail or error.title, 300) or "X left something out.",
        )
        for error in errors
    ]
