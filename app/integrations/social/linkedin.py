"""LinkedIn's archive: a zip of tables.

Choices:

1. Read are what the person says (posts, comments, messages) and states of themselves (profile, positions, education,
   skills). Left out are connections, contacts and what LinkedIn concluded: about others, or said by nobody.
2. Of the profile, address, birth date and postal code are left out: they serve no conversation.
3. Lines inside posts are written with a quote at their end and the next one's beginning, which are taken out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from app.integrations.documents import html
from app.integrations.documents.text import tidy
from app.integrations.social.rows import Row, all_rows, first_row, made_id, table, when
from app.integrations.social.types import Item, Items
from app.integrations.zips import Archive

FILES = {"profile.csv", "positions.csv", "education.csv", "skills.csv", "shares.csv", "comments.csv", "messages.csv"}
_HTML = re.compile(r"</?(?:p|br|div|span|a|strong|em|ul|li)\b[^<>]{0,500}>", re.IGNORECASE)


def read(archive: Archive) -> Items:
    owner = full_name(first_row(archive, "profile.csv", "first name"))
    yield from table(archive, "profile.csv", "first name", profile)
    yield from table(archive, "positions.csv", "company name", position)
    yield from table(archive, "education.csv", "school name", education)
    yield from skills(all_rows(archive, "skills.csv", "name"))
    yield from table(archive, "shares.csv", "sharecommentary", share)
    yield from table(archive, "comments.csv", "message", comment)
    yield from table(archive, "messages.csv", "content", lambda row: message(row, owner))


# Each of these takes rows of the table it is named after, columns in lower case, and raises ValueError for a row that
# says nothing. LinkedIn's API gives the same rows.


def full_name(row: Row) -> str:
    return f"{row.get('first name', '')} {row.get('last name', '')}".strip()


def profile(row: Row) -> Item | None:
    said = {
        "Name": full_name(row),
        "Headline": row.get("headline"),
        "Industry": row.get("industry"),
        "Location": row.get("geo location"),
        "Websites": row.get("websites"),
        "Summary": row.get("summary"),
    }
    text = "\n".join(f"{label}: {value}" for label, value in said.items() if value)
    return Item(id="profile", kind="profile", text=text, title=full_name(row) or None) if text else None


def _span(started: str, finished: str) -> str:
    if not started:
        return f"until {finished}" if finished else ""
    return f"{started} – {finished or 'present'}"


def position(row: Row) -> Item | None:
    title, company = row.get("title", ""), row["company name"]
    what = " at ".join(part for part in (title, company) if part)
    if not what:
        raise ValueError("neither a title nor a company")
    span = _span(row.get("started on", ""), row.get("finished on", ""))
    line = ", ".join(part for part in (what, row.get("location", ""), span) if part)
    text = "\n".join(part for part in (line, row.get("description", "")) if part)
    return Item(
        id=made_id("position", title, company, row.get("started on", "")), kind="position", text=text, title=what
    )


def education(row: Row) -> Item | None:
    school, degree = row["school name"], row.get("degree name", "")
    what = ", ".join(part for part in (degree, school) if part)
    if not what:
        raise ValueError("neither a school nor a degree")
    started, finished = row.get("start date", ""), row.get("end date", "")
    span = " – ".join(part for part in (started, finished) if part)
    line = ", ".join(part for part in (what, span) if part)
    text = "\n".join(part for part in (line, row.get("activities", ""), row.get("notes", "")) if part)
    return Item(id=made_id("education", school, degree, started), kind="education", text=text, title=what)


def skills(rows: Iterable[Row]) -> Iterator[Item]:
    names = [row["name"] for row in rows if row["name"]]
    if names:
        yield Item(id="skills", kind="skills", text=f"Skills: {', '.join(names)}")


def share(row: Row) -> Item | None:
    text = tidy(row["sharecommentary"].replace('"\n"', "\n"))
    if not text:
        return None  # shared without a word
    if shared := row.get("sharedurl"):
        text = f"{text}\n{shared}"
    link = row.get("sharelink", "")
    return Item(
        id=made_id("post", link, row.get("date", ""), text),
        kind="post",
        text=text,
        said_at=when(row.get("date", "")),
        url=link or None,
    )


def comment(row: Row) -> Item | None:
    text = tidy(row["message"].replace('"\n"', "\n"))
    if not text:
        return None
    link = row.get("link", "")
    return Item(
        id=made_id("comment", link, row.get("date", ""), text),
        kind="comment",
        text=text,
        said_at=when(row.get("date", "")),
        url=link or None,
    )


def message(row: Row, owner: str) -> Item | None:
    text = row["content"]
    if _HTML.search(text):
        text = html.plain(text)
    if not text or row.get("is message draft", "").lower() in {"yes", "true"}:
        return None
    sender, conversation = row.get("from", ""), row.get("conversation id", "")
    return Item(
        id=made_id("message", conversation, row.get("date", ""), sender, text),
        kind="message",
        text=text,
        said_at=when(row.get("date", "")),
        title=row.get("conversation title") or row.get("subject") or f"{sender} to {row.get('to', '')}",
        mine=bool(owner) and sender.casefold().split() == owner.casefold().split(),
    )
