"""What a reader reads from, and what it gathers: shared by all platforms.

Choices:

1. Who "me" is: the name or id the caller gives. Without it a platform that knows whose account it is says so; else a
   lone human is taken for that person, and of several nobody is.
2. A conversation in which nothing was said is left out.
3. At most ``PROBLEMS`` problems of one conversation are told one by one; the rest is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

import msgspec

from app.ids import derived_id
from app.integrations.exports.fields import Malformed, Raw, first_character, items, members, record, whole
from app.integrations.types import Conversation, Message, Problem, Unreadable
from app.integrations.zips import Archive, in_order, is_zip

PROBLEMS = 100

ITEM_ID_CHARACTERS = 300
MESSAGE_CHARACTERS = 600

Item = Conversation | Problem


def problem(item_id: str, code: str, message: str) -> Problem:
    """A problem whose words may come from the input: within bounds, and without the NULs no database takes."""
    return Problem(item_id=_told(item_id, ITEM_ID_CHARACTERS), code=code, message=_told(message, MESSAGE_CHARACTERS))


def _told(words: str, most: int) -> str:
    return words if len(words) <= most and words.isprintable() else _UNPRINTABLE.sub("", words[:most]) or "export"


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Document(NamedTuple):
    """One file of an export. ``name`` is its path in the zip, or the name it was uploaded under."""

    name: str
    data: bytes

    @property
    def label(self) -> str:
        return self.name or "export"


class Person:
    """Whose account it is, by name or id as somebody wrote it. ``met`` once a speaker was that person."""

    def __init__(self, named: str | None) -> None:
        self.named = (named or "").strip()
        self.met = False
        self._key = _key(self.named)

    @property
    def known(self) -> bool:
        return bool(self._key)

    def is_one_of(self, *names: str | None) -> bool:
        found = self.known and any(_key(name) == self._key for name in names if name)
        self.met |= found
        return found


def _key(name: str) -> str:
    return " ".join(name.casefold().split()).lstrip("@~ ")


class Source(NamedTuple):
    """The bytes of an export. ``zone`` is that of times the platform writes without one."""

    data: bytes
    name: str
    me: Person
    zone: tzinfo = UTC

    def documents(self, *wanted: Callable[[str], bool]) -> Iterator[Document | Problem]:
        """The file itself, or those of the zip that are ``wanted`` by name, in its order: of several kinds the first
        there are any of. `Unreadable` if there are none."""
        if not is_zip(self.data):
            yield Document(self.name, self.data)
            return
        archive = Archive(self.data)
        kinds = ([name for name in in_order(archive.names) if fits(name)] for fits in wanted)
        names = next(filter(None, kinds), None)
        if names is None:
            raise no_such_files(archive)
        for name in names:
            try:
                document = Document(name, archive.read(name))
            except Unreadable as error:
                yield problem(name, error.code, error.message)
            else:
                yield document

    def conversations(self, files: re.Pattern[str], mark: str, one: Callable[[Raw], Iterator[Item]]) -> Iterator[Item]:
        """What ``one`` makes of each conversation in the ``files``: lists of objects that have the member ``mark``."""
        for document in self.documents(lambda name: files.fullmatch(name) is not None):
            if isinstance(document, Problem):
                yield document
                continue
            try:
                raws = _listed(document.data, mark)
            except Malformed as why:
                yield bad_file(document, why)
                continue
            for place, raw in enumerate(raws):
                try:
                    yield from one(raw)
                except Malformed as why:
                    yield bad_conversation(f"{document.label}/{place}", why)


def _listed(data: bytes, mark: str) -> list[Raw]:
    """The conversations of a list, of ``{"conversations": […]}``, or the one that is the file."""
    if first_character(data) != b"{":
        return items(data)
    top = members(data)
    if mark in top:
        return [whole(data)]
    if "conversations" in top:
        return items(top["conversations"])
    raise Malformed("is not such an export")


def no_such_files(archive: Archive) -> Unreadable:
    return archive.lacks("WRONG_FORMAT", "This zip holds no file of such an export.")


class Gathered:
    """The messages of one conversation and what went wrong with others."""

    def __init__(self, id: str) -> None:  # noqa: A002 - the field's own name
        self.id = id
        self.messages: list[Message] = []
        self._problems: list[Problem] = []
        self._untold = 0

    def read(self, raws: Iterable[Raw], made: Callable[[dict[str, Any]], Message | None]) -> None:
        """Adds what ``made`` makes of each; None is left out, `Malformed` becomes a problem."""
        for place, raw in enumerate(raws):
            try:
                message = made(record(raw))
            except Malformed as why:
                self.problem(f"{self.id}/{place}", f"A message {why}.")
            else:
                if message is not None:
                    self.messages.append(message)

    def only_if_alone(self, humans: int) -> None:
        """Of several humans, none of whom is known to be the account's person, nobody is."""
        if humans != 1:
            self.messages = [msgspec.structs.replace(m, mine=False) if m.mine else m for m in self.messages]

    def problem(self, item_id: str, message: str, code: str = "BAD_MESSAGE") -> None:
        if len(self._problems) < PROBLEMS:
            self._problems.append(problem(item_id, code, message))
        else:
            self._untold += 1

    def items(
        self, title: str | None, created_at: datetime | None = None, updated_at: datetime | None = None
    ) -> Iterator[Item]:
        """The conversation, unless nothing was said in it, then its problems. Times are by default its messages'."""
        messages = _distinct(self.messages)
        if messages:
            times = [message.said_at for message in messages if message.said_at]
            yield Conversation(
                id=self.id,
                title=title,
                created_at=created_at or min(times, default=None),
                updated_at=updated_at or max(times, default=None),
                messages=messages,
            )
        yield from self._problems
        if self._untold:
            yield problem(self.id, "BAD_MESSAGE", f"{self._untold:,} more messages were not read.")


def _distinct(messages: list[Message]) -> list[Message]:
    """Each id once: the same message twice is one, another under its id gets one of its own."""
    found: dict[str, Message] = {}
    for message in messages:
        first = found.setdefault(message.id, message)
        if first is not message and first.text != message.text:
            other = msgspec.structs.replace(message, id=derived_id("imp", message.id, message.text))
            found.setdefault(other.id, other)
    return list(found.values())


def bad_conversation(item_id: str, why: Malformed) -> Problem:
    return problem(item_id, "BAD_CONVERSATION", f"A conversation {why}.")


def bad_file(document: Document, why: Malformed) -> Problem:
    return problem(document.label, "DAMAGED", f"“{document.label}” {why}.")
