"""Reddit's API: whose token it is, and what that account has posted and commented, newest first.

Choices:

1. A post or comment is made a row as the archive has it, and read like one.
2. Reddit lists the latest thousand of each; what is older is in the archive.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

import httpx
import msgspec

from app.integrations.documents.text import tidy
from app.integrations.exports.fields import Raw, anything
from app.integrations.social import reddit
from app.integrations.social.api.ask import BAD, Asker, number, shaped
from app.integrations.social.api.types import MOST_PAGES, Found, Page
from app.integrations.social.types import Item
from app.integrations.types import Problem, Unreadable

PAGE = 100
SITE = "https://www.reddit.com"

_LISTINGS = ("submitted", "comments")
_KINDS = {"submitted": "t3", "comments": "t1"}
_NAME = re.compile(r"[0-9A-Za-z_-]{1,50}")
_Fullname = Annotated[str, msgspec.Meta(pattern=r"^[\w-]{1,50}\Z")]


class _Thing(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=r"^\w{1,30}\Z")]
    created_utc: float = 0.0
    permalink: str = ""
    subreddit: str = ""
    title: str = ""
    selftext: str = ""
    url: str = ""
    body: str = ""


class _Child(msgspec.Struct):
    kind: str
    data: msgspec.Raw


class _Listing(msgspec.Struct):
    children: list[msgspec.Raw]
    after: _Fullname | None = None


def limit(headers: httpx.Headers, now: float) -> float | None:
    """The window tells what remains in it, a number with a fraction, and in how many seconds it ends."""
    left, reset = number(headers.get("x-ratelimit-remaining")), number(headers.get("x-ratelimit-reset"))
    return None if left is None or left >= 1 or reset is None else max(0.0, reset)


class RedditApi:
    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._name = ""

    async def authenticate(self) -> str:
        return f"u/{await self._me()}"

    async def discover(self) -> list[Found]:
        await self._me()
        return [Found("post", None), Found("comment", None)]

    async def pages(self, cursor: str | None = None) -> AsyncIterator[Page]:
        name = await self._me()
        listing, _, after = ("submitted:" if cursor is None else cursor).partition(":")
        if listing not in _LISTINGS:
            raise Unreadable("BAD_CURSOR", "This is no place in the pages of Reddit.")
        for _ in range(MOST_PAGES):
            page = await self._page(name, listing, after)
            yield page
            if page.cursor is None:
                return
            listing, _, after = page.cursor.partition(":")
        raise self._asker.bad_answer("pages without end")

    async def _me(self) -> str:
        if not self._name:
            answer = await self._asker.ask("/api/v1/me", {"raw_json": "1"})
            if "name" not in answer:  # the token of an application, without a user
                raise Unreadable("FORBIDDEN", "The access token is not one of a Reddit user.")
            name = anything(answer["name"])
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise self._asker.bad_answer("no user")
            self._name = name
        return self._name

    async def _page(self, name: str, listing: str, after: str) -> Page:
        query = {"limit": str(PAGE), "raw_json": "1"} | ({"after": after} if after else {})
        answer = await self._asker.ask(f"/user/{name}/{listing}", query)
        try:
            listed = msgspec.json.decode(answer["data"], type=_Listing)
        except (KeyError, *BAD):
            raise self._asker.bad_answer("a page that is none") from None
        if listed.after is not None and listed.after == after:
            raise self._asker.bad_answer("the same page again")
        page = Page(items=[], problems=[], cursor=_next(listing, listed.after))
        for position, raw in enumerate(listed.children, 1):
            read = _read(raw, listing, f"{listing}:{after}:{position}")
            if isinstance(read, Problem):
                page.problems.append(read)
            elif read is not None:
                page.items.append(read)
        return page


def _next(listing: str, after: str | None) -> str | None:
    if after:
        return f"{listing}:{after}"
    following = _LISTINGS[_LISTINGS.index(listing) + 1 :]
    return f"{following[0]}:" if following else None


def _read(raw: Raw, listing: str, place: str) -> Item | Problem | None:
    try:
        child = msgspec.json.decode(raw, type=_Child)
        if child.kind != _KINDS[listing]:
            return None
        thing = shaped(child.data, _Thing)
        created = datetime.fromtimestamp(thing.created_utc, UTC).isoformat() if thing.created_utc > 0 else ""
    except (*BAD, OverflowError, OSError, ValueError):
        return Problem(item_id=place, code="BAD_ROW", message="A post or comment cannot be read.")
    row = {
        "id": thing.id,
        "date": created,
        "permalink": f"{SITE}{thing.permalink}" if thing.permalink.startswith("/") else thing.permalink,
        "subreddit": thing.subreddit,
        "title": tidy(thing.title),
        "url": thing.url,
        "body": tidy(thing.selftext or thing.body),
    }
    return reddit.post(row) if listing == "submitted" else reddit.comment(row)
