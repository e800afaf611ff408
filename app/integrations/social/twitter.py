"""X's archive: a zip whose ``data/*.js`` each assign one JSON array.

Choices:

1. Read are posts, direct messages and the profile; likes, deleted posts and what X concluded are left out.
2. A repost begins with ``RT @`` and is another's text. A long post stands whole among the note tweets and cut in the
   posts, under different ids: they are matched by how they begin.
3. Short links are replaced by where they lead; links that only stand for an attached picture are taken out.
4. The array is divided first, then each element is read by itself: one bad element costs itself alone.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, TypeVar

import msgspec

from app.integrations.documents.text import tidy
from app.integrations.social.rows import made_id, when
from app.integrations.social.types import Item, Items
from app.integrations.types import Problem, Unreadable
from app.integrations.zips import Archive

FILES = re.compile(r"(?:.*/)?(?:tweets?|account|profile|note-tweets?|direct-messages(?:-group)?)(?:-part\d+)?\.js")
T = TypeVar("T")
_Id = Annotated[str, msgspec.Meta(pattern=r"^[\w-]{0,100}\Z")]  # as it is stored and put into links

_BAD = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError)
_PART = re.compile(r"-part(\d+)\.js")
_MATCHED_CHARACTERS = 60  # of a long post's beginning


class _Url(msgspec.Struct):
    url: str = ""
    expanded_url: str = ""


class _Entities(msgspec.Struct):
    urls: list[_Url] = []
    media: list[_Url] = []


class _Tweet(msgspec.Struct):
    id_str: _Id = ""
    full_text: str = ""
    created_at: str = ""
    entities: _Entities = msgspec.field(default_factory=_Entities)


class _Core(msgspec.Struct):
    text: str = ""


class _Note(msgspec.Struct, rename="camel"):
    note_tweet_id: _Id = ""
    created_at: str = ""
    core: _Core = msgspec.field(default_factory=_Core)


class _Account(msgspec.Struct, rename="camel"):
    account_id: _Id = ""
    username: _Id = ""
    account_display_name: str = ""


class _Description(msgspec.Struct):
    bio: str = ""
    website: str = ""
    location: str = ""


class _Profile(msgspec.Struct):
    description: _Description = msgspec.field(default_factory=_Description)


class _MessageCreate(msgspec.Struct, rename="camel"):
    id: _Id = ""
    sender_id: _Id = ""
    text: str = ""
    created_at: str = ""


class _Conversation(msgspec.Struct, rename="camel"):
    conversation_id: _Id = ""
    messages: list[msgspec.Raw] = []


def read(archive: Archive) -> Items:
    owner = next((raw for raw in _elements(archive, "account", "account") if not isinstance(raw, Problem)), None)
    account = _Account()
    if owner is not None:
        try:
            account = msgspec.json.decode(owner[1], type=_Account)
        except _BAD:
            yield _bad(owner[0])
    yield from _profile(archive, account)
    notes: dict[str, _Note] = {}
    for note in _decoded(archive, "note-tweets?", "noteTweet", _Note):
        if isinstance(note, Problem):
            yield note
        else:
            note.core.text = tidy(note.core.text)
            notes[note.core.text[:_MATCHED_CHARACTERS]] = note
    for tweet in _decoded(archive, "tweets?", "tweet", _Tweet):
        if isinstance(tweet, Problem):
            yield tweet
        elif item := _post(tweet, account, notes):
            yield item
    for note in notes.values():
        if note.core.text:
            yield Item(
                id=f"note-{note.note_tweet_id}" if note.note_tweet_id else made_id("post", note.core.text),
                kind="post",
                text=note.core.text,
                said_at=when(note.created_at),
            )
    for conversation in _decoded(archive, "direct-messages(?:-group)?", "dmConversation", _Conversation):
        if isinstance(conversation, Problem):
            yield conversation
        else:
            yield from _messages(conversation, account)


def _profile(archive: Archive, account: _Account) -> Items:
    about = _Description()
    for found in _decoded(archive, "profile", "profile", _Profile):
        if isinstance(found, Problem):
            yield found
        else:
            about = found.description
    if item := profile(account.account_display_name, account.username, about.bio, about.location, about.website):
        yield item


def profile(name: str, username: str, bio: str, location: str, website: str) -> Item | None:
    """The item of what an account says about itself; None when that is nothing."""
    told = {
        "Name": name,
        "Username": username and f"@{username}",
        "Bio": bio,
        "Location": location,
        "Website": website,
    }
    lines = {label: tidy(html.unescape(value)) for label, value in told.items()}
    text = "\n".join(f"{label}: {value}" for label, value in lines.items() if value)
    return Item(id="profile", kind="profile", text=text, title=lines["Name"] or None) if text else None


def _post(tweet: _Tweet, account: _Account, notes: dict[str, _Note]) -> Item | None:
    cut = tidy(html.unescape(tweet.full_text))[:_MATCHED_CHARACTERS]
    if len(cut) == _MATCHED_CHARACTERS and cut in notes:
        text = notes.pop(cut).core.text
    else:
        links = [(link.url, link.expanded_url or link.url) for link in tweet.entities.urls]
        text = said(tweet.full_text, links + [(picture.url, "") for picture in tweet.entities.media])
    return post(tweet.id_str, text, tweet.created_at, account.username)


def said(text: str, links: Iterable[tuple[str, str]]) -> str:
    """What a post says: each short link replaced by where it leads, by nothing where that is a picture ("")."""
    for short, leads_to in links:
        if short:
            text = text.replace(short, leads_to)
    return tidy(html.unescape(text))


def post(post_id: str, text: str, created_at: str, username: str) -> Item | None:
    """The item of a post that says ``text``; None when that is nothing. A repost begins with ``RT @``."""
    if not text:
        return None
    repost = text.startswith("RT @")
    return Item(
        id=post_id or made_id("post", text, created_at),
        kind="repost" if repost else "post",
        text=text,
        said_at=when(created_at),
        url=f"https://x.com/{username or 'i'}/status/{post_id}" if post_id else None,
        mine=not repost,
    )


def _messages(conversation: _Conversation, account: _Account) -> Items:
    for number, raw in enumerate(conversation.messages, 1):
        try:
            event = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            if "messageCreate" not in event:
                continue  # somebody joined, left or renamed the conversation
            message = msgspec.json.decode(event["messageCreate"], type=_MessageCreate)
        except _BAD:
            yield _bad(f"conversation {conversation.conversation_id}:{number}")
            continue
        if text := tidy(html.unescape(message.text)):
            yield Item(
                id=f"message-{message.id}" if message.id else made_id("message", message.created_at, text),
                kind="message",
                text=text,
                said_at=when(message.created_at),
                title="Direct messages",
                mine=bool(account.account_id) and message.sender_id == account.account_id,
            )


def _decoded(archive: Archive, name: str, key: str, shape: type[T]) -> Iterator[T | Problem]:
    for found in _elements(archive, name, key):
        if isinstance(found, Problem):
            yield found
            continue
        try:
            yield msgspec.json.decode(found[1], type=shape)
        except _BAD:
            yield _bad(found[0])


def _elements(archive: Archive, name: str, key: str) -> Iterator[tuple[str, msgspec.Raw] | Problem]:
    """Place and value of ``key`` of each element of the files called ``name``, part by part."""
    wanted = re.compile(rf"(?:.*/)?{name}(?:-part\d+)?\.js")
    parts = {
        file: int(part[1]) if (part := _PART.search(file)) else 0 for file in archive.names if wanted.fullmatch(file)
    }
    for file in sorted(parts, key=lambda file: (parts[file], file)):
        try:
            assigned = archive.read(file)
            array = assigned[assigned.index(b"=") + 1 :].strip().removesuffix(b";")
            elements = msgspec.json.decode(array, type=list[msgspec.Raw])
        except Unreadable as failure:
            yield Problem(item_id=file, code=failure.code, message=failure.message)
            continue
        except _BAD:
            yield Problem(item_id=file, code="DAMAGED", message=f"{file} is damaged and cannot be read.")
            continue
        for number, element in enumerate(elements, 1):
            place = f"{file}:{number}"
            try:
                fields = msgspec.json.decode(element, type=dict[str, msgspec.Raw])
            except _BAD:
                yield _bad(place)
            else:
                yield place, fields.get(key, element)  # archives before 2019 had no such wrapping


def _bad(place: str) -> Problem:
    return Problem(item_id=place, code="BAD_ROW", message=f"{place} cannot be read.")
