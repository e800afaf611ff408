"""Reddit's archive: a zip of tables.

Choices:

1. Read are posts, comments, private messages and chats; votes, saved posts and what Reddit logged are left out.
2. The tables called headers hold the same rows without their texts and are left out.
3. The account's name stands among the statistics; without it no message is the person's own.
"""

from __future__ import annotations

from app.integrations.social.rows import Row, all_rows, made_id, table, when
from app.integrations.social.types import Item, Items
from app.integrations.zips import Archive

FILES = {"posts.csv", "comments.csv", "messages.csv", "messages_archive.csv", "chat_history.csv", "post_votes.csv"}
_GONE = {"[deleted]", "[removed]"}


def read(archive: Archive) -> Items:
    statistics = all_rows(archive, "statistics.csv", "statistic")
    owner = next((row.get("value", "") for row in statistics if row["statistic"].lower() == "account name"), "")
    yield from table(archive, "posts.csv", "id", post)
    yield from table(archive, "comments.csv", "id", comment)
    for name in ("messages.csv", "messages_archive.csv"):
        yield from table(archive, name, "id", lambda row: _message(row, owner))
    yield from table(archive, "chat_history.csv", "message_id", lambda row: _chat(row, owner))


def _said(text: str) -> str:
    return "" if text in _GONE else text


def _required(row: Row, column: str) -> str:
    if not row[column]:
        raise ValueError("it has no id")
    return row[column]


def post(row: Row) -> Item | None:
    """The item of a row of posts; None for one without words. Raises ValueError for one without an id."""
    title, body = _said(row.get("title", "")), _said(row.get("body", ""))
    text = "\n\n".join(part for part in (title, body) if part)
    link = row.get("url", "")
    if text and link.startswith("http") and link != row.get("permalink"):
        text = f"{text}\n{link}"
    if not text:
        return None
    return Item(
        id=f"post-{_required(row, 'id')}",
        kind="post",
        text=text,
        said_at=when(row.get("date", "")),
        url=row.get("permalink") or None,
        title=_place(row),
    )


def comment(row: Row) -> Item | None:
    """As `post`, of a row of comments."""
    if not (text := _said(row.get("body", ""))):
        return None
    return Item(
        id=f"comment-{_required(row, 'id')}",
        kind="comment",
        text=text,
        said_at=when(row.get("date", "")),
        url=row.get("permalink") or None,
        title=_place(row),
    )


def _place(row: Row) -> str | None:
    subreddit = row.get("subreddit", "")
    return f"r/{subreddit.removeprefix('r/')}" if subreddit else None


def _message(row: Row, owner: str) -> Item | None:
    if not (text := _said(row.get("body", ""))):
        return None
    return Item(
        id=f"message-{_required(row, 'id')}",
        kind="message",
        text=text,
        said_at=when(row.get("date", "")),
        url=row.get("permalink") or None,
        title=row.get("subject") or f"{row.get('from', '')} to {row.get('to', '')}",
        mine=_is(owner, row.get("from", "")),
    )


def _chat(row: Row, owner: str) -> Item | None:
    if not (text := _said(row.get("message", ""))):
        return None
    created = row.get("created_at", "")
    return Item(
        id=f"chat-{row['message_id']}" if row["message_id"] else made_id("message", created, text),
        kind="message",
        text=text,
        said_at=when(created),
        title=row.get("channel_name") or None,
        mine=_is(owner, row.get("username", "")),
    )


def _is(owner: str, name: str) -> bool:
    return bool(owner) and name.removeprefix("u/").casefold() == owner.removeprefix("u/").casefold()
