"""LinkedIn's API for taking one's own data along (Member Data Portability), which the archive's tables come from.

Choices:

1. The API gives the rows of the archive's tables, divided into domains and those into pages; they are read like the
   archive's. A domain that has nothing answers 404, and so does the page after the last.
2. Of a link to the next page only the position is taken: the token goes nowhere else.
3. Who the member is, is asked the way any application asks (OpenID Connect). A token for one's own data alone does not
   permit it; then the profile tells.
4. All pages of skills become one page: they are one item.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec

from app.integrations.documents.text import one_line, tidy
from app.integrations.exports.fields import Raw, items, members, record
from app.integrations.social import linkedin
from app.integrations.social.api.ask import BAD, Asker, shaped
from app.integrations.social.api.types import MOST_PAGES, Found, Page
from app.integrations.social.rows import Row
from app.integrations.social.types import Item, ItemKind
from app.integrations.types import Problem, Unreadable

VERSION = "202312"

_POSITION = re.compile(r"[0-9]{1,9}")
_PROFILE, _SKILLS, _INBOX = "PROFILE", "SKILLS", "INBOX"
_ITEMS: dict[str, tuple[ItemKind, Callable[[Row], Item | None]]] = {
    _PROFILE: ("profile", linkedin.profile),
    "POSITIONS": ("position", linkedin.position),
    "EDUCATION": ("education", linkedin.education),
    "MEMBER_SHARE_INFO": ("post", linkedin.share),
    "ALL_COMMENTS": ("comment", linkedin.comment),
}
DOMAINS = (_PROFILE, "POSITIONS", "EDUCATION", _SKILLS, "MEMBER_SHARE_INFO", "ALL_COMMENTS", _INBOX)


class _User(msgspec.Struct):
    name: str = ""
    given_name: str = ""
    family_name: str = ""


class _Link(msgspec.Struct):
    rel: str = ""
    href: str = ""


class _Paging(msgspec.Struct):
    links: list[_Link] = []


class _Slice(msgspec.Struct):
    """One page of a domain. ``following`` is where the next one begins."""

    rows: list[Row]
    problems: list[Problem]
    following: int | None


def limit(headers: httpx.Headers, now: float) -> float | None:
    """LinkedIn tells nothing before it refuses."""
    return None


class LinkedInApi:
    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._name: str | None = None

    async def authenticate(self) -> str:
        if self._name is None:
            name = await self._from_openid()
            if not name:
                profile = await self._slice(_PROFILE, 0)
                name = linkedin.full_name(profile.rows[0]) if profile.rows else ""
            self._name = name
        return self._name or "a LinkedIn member"

    async def discover(self) -> list[Found]:
        await self.authenticate()
        kinds: dict[str, ItemKind] = {domain: kind for domain, (kind, _) in _ITEMS.items()}
        kinds |= {_SKILLS: "skills", _INBOX: "message"}
        return [Found(kinds[domain], None) for domain in DOMAINS]

    async def pages(self, cursor: str | None = None) -> AsyncIterator[Page]:
        await self.authenticate()
        domain, start = _place(cursor) if cursor is not None else (_PROFILE, 0)
        found = cursor is not None
        for _ in range(MOST_PAGES):
            page = await self._page(domain, start)
            found = found or bool(page.items or page.problems)
            if page.cursor is None and not found:
                raise Unreadable("EMPTY", "LinkedIn has no data of this account ready. It may take it some minutes.")
            yield page
            if page.cursor is None:
                return
            domain, start = _place(page.cursor)
        raise self._asker.bad_answer("pages without end")

    async def _from_openid(self) -> str:
        """The member's name, empty when the token does not permit asking for it."""
        try:
            answer = await self._asker.ask("/v2/userinfo")
        except Unreadable as refused:
            if refused.code != "FORBIDDEN":
                raise
            return ""
        try:
            user = shaped(msgspec.json.encode(answer), _User)
        except BAD:
            raise self._asker.bad_answer("no user") from None
        return one_line(f"{user.given_name} {user.family_name}") or one_line(user.name)

    async def _page(self, domain: str, start: int) -> Page:
        part = await self._slice(domain, start)
        page = Page(items=[], problems=part.problems, cursor=_cursor(domain, part.following))
        if domain == _SKILLS:
            rows = part.rows
            while part.following is not None:
                part = await self._slice(domain, part.following)
                rows += part.rows
                page.problems.extend(part.problems)
            return Page(items=list(linkedin.skills(rows)), problems=page.problems, cursor=_cursor(domain, None))
        read = _ITEMS[domain][1] if domain in _ITEMS else lambda row: linkedin.message(row, self._name or "")
        for number, row in enumerate(part.rows, 1):
            try:
                item = read(row)
            except ValueError as failure:
                place = f"{domain}:{start}:{number}"
                bad = f"Row {number} of page {start} of {domain}: {failure}."
                page.problems.append(Problem(item_id=place, code="BAD_ROW", message=bad))
                continue
            if item is not None:
                page.items.append(item)
        return page

    async def _slice(self, domain: str, start: int) -> _Slice:
        query = {"q": "criteria", "domain": domain} | ({"start": str(start)} if start else {})
        answer = await self._asker.look("/rest/memberSnapshotData", query)
        if answer is None:
            return _Slice([], [], None)
        try:
            elements = [members(element) for element in items(answer.get("elements", b"[]"))]
            rows = [row for element in elements for row in items(element.get("snapshotData", b"[]"))]
            links = shaped(answer.get("paging", b"{}"), _Paging).links
        except BAD:
            raise self._asker.bad_answer("a page that is none") from None
        following = next((_start(link.href) for link in links if link.rel == "next"), None)
        if following is not None and following <= start:
            raise self._asker.bad_answer("the same page again")
        part = _Slice([], [], following)
        for number, raw in enumerate(rows, 1):
            try:
                part.rows.append(_row(raw))
            except BAD:
                place = f"{domain}:{start}:{number}"
                part.problems.append(Problem(item_id=place, code="BAD_ROW", message=f"A row of {domain} is damaged."))
        return part


def _row(raw: Raw) -> Row:
    """A row as the archive's tables have it: columns in lower case, each a text, those that are missing empty."""
    written = msgspec.convert(record(raw), dict[str, str | int | float | bool | None])
    return defaultdict(str, {key.strip().lower(): tidy(str(value or "")) for key, value in written.items()})


def _start(href: str) -> int | None:
    """The position a link leads to; None when it tells none."""
    try:
        written = parse_qs(urlsplit(href).query).get("start", [""])[0]
    except ValueError:
        return None
    return int(written) if _POSITION.fullmatch(written) else None


def _cursor(domain: str, following: int | None) -> str | None:
    if following is not None:
        return f"{domain}:{following}"
    later = DOMAINS[DOMAINS.index(domain) + 1 :]
    return f"{later[0]}:0" if later else None


def _place(cursor: str) -> tuple[str, int]:
    domain, _, start = cursor.partition(":")
    if domain not in DOMAINS or not _POSITION.fullmatch(start):
        raise Unreadable("BAD_CURSOR", "This is no place in the pages of LinkedIn.")
    return domain, int(start)
