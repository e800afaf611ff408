"""Reads an export of any chat platform, and tells which platform's it is.

Choices:

1. What goes wrong before the first conversation is held back: an export without one readable conversation is
   `Unreadable`, not a list of problems.
2. A person named by the caller whom the export does not know is a problem of its own: else nothing would be theirs and
   nobody would know why.
3. Detecting reads the outermost level and one conversation, and is never sure: it says what a file looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from datetime import UTC, tzinfo

from app.integrations.exports import chatgpt, claude, discord, slack, telegram, whatsapp
from app.integrations.exports.fields import Malformed, Raw, first_character, items, members
from app.integrations.exports.source import Item, Person, Source, problem
from app.integrations.types import Conversation, Problem, Unreadable
from app.integrations.zips import Archive, in_order, is_zip

READERS: dict[str, Callable[[Source], Iterator[Item]]] = {
    "chatgpt": chatgpt.read,
    "claude": claude.read,
    "telegram": telegram.read,
    "whatsapp": whatsapp.read,
    "slack": slack.read,
    "discord": discord.read,
}
PLATFORMS = tuple(READERS)
NAMES = {
    "chatgpt": "ChatGPT",
    "claude": "Claude",
    "telegram": "Telegram",
    "whatsapp": "WhatsApp",
    "slack": "Slack",
    "discord": "Discord",
}
PEEKED_FILES = 20
"""So many files of a zip are looked into to tell whose it is."""


def read_export(
    platform: str, data: bytes, *, name: str = "", me: str | None = None, zone: tzinfo = UTC
) -> Iterator[Conversation | Problem]:
    """The conversations of an export of ``platform`` (one of `PLATFORMS`), and a problem for each item not read.

    ``name`` is the file's name; ``me`` the account's person, by name or id; ``zone`` that of times written without
    one (WhatsApp, old Telegram). Raises `Unreadable` at the first step, or at the end when nothing came out. One
    conversation may come in several parts under the same id, where the export has it in several files.
    """
    if platform not in READERS:
        raise Unreadable("UNKNOWN_PLATFORM", f"There is no reader for it; there are: {', '.join(PLATFORMS)}.")
    if not data:
        raise Unreadable("EMPTY", "The file is empty.")
    name = name.replace("\x00", "").encode(errors="replace").decode()
    person = Person(me)
    held: list[Problem] = []
    found = False
    for item in READERS[platform](Source(data, name, person, zone)):
        if isinstance(item, Problem) and not found:
            held.append(item)
            continue
        if not found:
            found = True
            yield from held
        yield item
    if not found:
        raise _nothing(platform, held, data, name)
    if person.known and not person.met and platform not in ("chatgpt", "claude"):
        yield problem(
            "me", "SPEAKER_NOT_FOUND", "Nobody of that name speaks in this export: no facts are drawn from it."
        )


def _nothing(platform: str, held: list[Problem], data: bytes, name: str) -> Unreadable:
    looks = detect(data, name)
    if looks not in (None, platform):
        return Unreadable(
            "WRONG_FORMAT", f"This is no export of {NAMES[platform]}; it looks like one of {NAMES[str(looks)]}."
        )
    if held:
        return Unreadable(held[0].code, f"Nothing could be read. {held[0].message}")
    return Unreadable("EMPTY", "Nothing was said in this export.")


def detect(data: bytes, name: str = "") -> str | None:
    """The platform an export looks like by its bytes, or by its ``name`` as WhatsApp gives it; None when like none."""
    try:
        found = _of_zip(data) if is_zip(data) else _of_file(data)
    except (Unreadable, Malformed):
        return None
    return found or ("whatsapp" if whatsapp.title_of(name) else None)


def _of_zip(data: bytes) -> str | None:
    archive = Archive(data)
    names = in_order(archive.names)
    if slack.looks_like_export(names):
        return "slack"
    jsons = [name for name in names if name.lower().endswith(".json")]
    jsons.sort(key=lambda name: name.count("/"))
    texts = [name for name in names if name.lower().endswith(".txt")]
    for name in jsons[:PEEKED_FILES] + texts[:PEEKED_FILES]:
        try:
            found = _of_file(archive.read(name))
        except (Unreadable, Malformed):
            continue
        if found:
            return found
    return None


def _of_file(data: bytes) -> str | None:
    if first_character(data) in (b"[", b"{"):
        try:
            return _of_json(data)
        except Malformed:
            pass  # a chat of an iPhone begins with a bracket as well
    return "whatsapp" if whatsapp.looks_like_chat(data) else None


def _of_json(data: bytes) -> str | None:
    if first_character(data) == b"[":
        return _of_first(items(data))
    top = members(data)
    if "conversations" in top:
        return _of_first(items(top["conversations"]))
    return "telegram" if "chats" in top else _of_keys(top)


def _of_first(elements: list[Raw]) -> str | None:
    return _of_keys(members(elements[0])) if elements else None


def _of_keys(keys: Container[str]) -> str | None:
    """By the keys of the file's object, or of the first in its list."""
    for platform, marks in _MARKS.items():
        if all(mark in keys for mark in marks):
            return platform
    return None


_MARKS = {
    "chatgpt": ["mapping"],
    "claude": ["chat_messages"],
    "telegram": ["messages", "type", "id"],
    "discord": ["messages", "channel", "guild"],
}
