"""Slack's workspace export: a zip with ``users.json``, lists of channels, and a folder of days for each channel.

The shape is in Slack's help centre ("How to read Slack data exports"), the marks in texts in its reference of mrkdwn.

Choices:

1. One conversation for each channel, group or direct message. Replies in threads stand among the others, by their time.
2. What was edited is told as it was last; what was deleted is not.
3. Left out: joins, topics and all other subtypes that nobody said, and unfurled links. A bot that says nothing in its
   text says it in its attachments.
4. Without a name for the account's person, only the one human of a workspace can be it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from app.integrations.exports.fields import (
    Malformed,
    anything,
    attachment,
    items,
    label,
    moment,
    own_id,
    record,
    records,
    text,
    together,
    within,
)
from app.integrations.exports.source import Gathered, Item, Person, Source, no_such_files, problem
from app.integrations.types import Message, Problem, Unreadable
from app.integrations.zips import Archive, in_order, is_zip

_DAY = re.compile(r"(.*/)?([^/]+)/[0-9]{4}-[0-9]{2}-[0-9]{2}\.json")
_USERS = ("users.json", "org_users.json")
_CHANNELS = ("channels.json", "groups.json", "mpims.json", "dms.json")
_SAID = frozenset({None, "me_message", "thread_broadcast", "reply_broadcast", "file_share", "bot_message"})
_MARKUP = re.compile(r"<([^<>]*)>|&(amp|lt|gt);")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">"}
_SLACKBOT = "USLACKBOT"


class _User(NamedTuple):
    name: str
    names: tuple[str, ...]
    bot: bool


class _Channel(NamedTuple):
    id: str
    title: str | None


def looks_like_export(names: Iterable[str]) -> bool:
    """Whether a zip with these paths is such an export: lists of channels, and days."""
    names = list(names)
    listed = any(name.rsplit("/", 1)[-1] in _CHANNELS for name in names)
    return listed and any(_DAY.fullmatch(name) for name in names)


def read(source: Source) -> Iterator[Item]:
    """One conversation for each folder of days."""
    if not is_zip(source.data):
        raise Unreadable("WRONG_FORMAT", "A Slack export is a zip.")
    archive = Archive(source.data)
    days: dict[str, list[str]] = {}
    for name in in_order(archive.names):
        if found := _DAY.fullmatch(name):
            days.setdefault(f"{found[1] or ''}{found[2]}", []).append(name)
    if not days:
        raise no_such_files(archive)
    workspace = _Workspace(source.me)
    yield from workspace.learn(archive)
    for folder, names in days.items():
        yield from _Folder(workspace, folder.rsplit("/", 1)[-1]).items(archive, names)


class _Workspace:
    """Who and what the ids in messages mean."""

    def __init__(self, me: Person) -> None:
        self.me = me
        self.users: dict[str, _User] = {}
        self.folders: dict[str, _Channel] = {}
        self._channel_names: dict[str, str] = {}

    def learn(self, archive: Archive) -> Iterator[Problem]:
        """Reads the lists; one that cannot be read is a problem, and its ids stay ids."""
        wanted = (*_USERS, *_CHANNELS)
        paths = [name for name in archive.names if name.rsplit("/", 1)[-1] in wanted and not _DAY.fullmatch(name)]
        for path in sorted(paths, key=lambda path: wanted.index(path.rsplit("/", 1)[-1])):
            try:
                entries = records(anything(archive.read(path)))
            except Malformed as why:
                yield problem(path, "DAMAGED", f"“{path}” {why}.")
                continue
            except Unreadable as error:
                yield problem(path, error.code, error.message)
                continue
            for entry in entries:
                if path.rsplit("/", 1)[-1] in _USERS:
                    self._user(entry)
                else:
                    self._channel(entry)

    def _user(self, entry: dict[str, Any]) -> None:
        number, profile = label(entry.get("id")), within(entry.get("profile"))
        if not number:
            return
        told = [profile.get("display_name"), profile.get("real_name"), entry.get("real_name"), entry.get("name")]
        names = tuple(name for name in map(label, told) if name)
        bot = entry.get("is_bot") is True or number == _SLACKBOT
        self.users[number] = _User(names[0] if names else number, (number, *names), bot)

    def _channel(self, entry: dict[str, Any]) -> None:
        number, name = label(entry.get("id")), label(entry.get("name"))
        if not number:
            return
        listed = entry.get("members")
        unnamed = name is None or name.startswith("mpdm-")
        people = [self.name_of(m) for m in listed if isinstance(m, str)] if unnamed and isinstance(listed, list) else []
        if name:
            self._channel_names[number] = name
        title = ", ".join(people) if people else f"#{name}" if name else None
        self.folders[name or number] = _Channel(own_id(number, "slack"), label(title))

    def name_of(self, user: str) -> str:
        known = self.users.get(user)
        return known.name if known else user

    @cached_property
    def lone_human(self) -> bool:
        return sum(not user.bot for user in self.users.values()) == 1

    def plain(self, words: str) -> str:
        """Text without Slack's marks: people and channels by name, links with their words, entities as characters."""
        return _MARKUP.sub(self._mark, words)

    def _mark(self, found: re.Match[str]) -> str:
        if found[2]:
            return _ENTITIES[found[2]]
        target, _, words = (_MARKUP.sub(_entity, part) for part in found[1].partition("|"))
        match target[:1]:
            case "@":
                return f"@{words or self.name_of(target[1:])}"
            case "#":
                return f"#{words or self._channel_names.get(target[1:], target[1:])}"
            case "!":
                return words if words.startswith("@") or "^" in target else f"@{words or target[1:]}"
            case "":
                return found[0]
        if not words or words == target or target.startswith(("mailto:", "tel:")):
            return words or target
        return f"{words} ({target})"


def _entity(found: re.Match[str]) -> str:
    return _ENTITIES[found[2]] if found[2] else found[0]


class _Folder:
    """One channel while it is read."""

    def __init__(self, workspace: _Workspace, folder: str) -> None:
        self._workspace = workspace
        self._channel = workspace.folders.get(folder) or _Channel(own_id(folder, "slack", folder), label(folder))
        self._gathered = Gathered(self._channel.id)
        self._written: dict[str, dict[str, Any]] = {}

    def items(self, archive: Archive, names: list[str]) -> Iterator[Item]:
        for name in names:
            try:
                raws = items(archive.read(name))
            except Malformed as why:
                self._gathered.problem(name, f"“{name}” {why}.", "DAMAGED")
                continue
            except Unreadable as error:
                self._gathered.problem(name, error.message, error.code)
                continue
            for place, raw in enumerate(raws):
                try:
                    self._take(f"{name}/{place}", record(raw))
                except Malformed as why:
                    self._gathered.problem(f"{name}/{place}", f"A message {why}.")
        for number, fields in sorted(self._written.items(), key=_when):
            try:
                message = self._message(number, fields)
            except Malformed as why:
                self._gathered.problem(f"{self._channel.id}/{number}", f"A message {why}.")
            else:
                if message:
                    self._gathered.messages.append(message)
        yield from self._gathered.items(self._channel.title)

    def _take(self, place: str, fields: dict[str, Any]) -> None:
        """Keeps a message under its time, which is its id in the channel; what edits or deletes one does so."""
        subtype = fields.get("subtype")
        if subtype == "message_changed":
            edited = within(fields.get("message"))
            self._written[_time(edited) or place] = edited
        elif subtype == "message_deleted":
            self._written.pop(_time({"ts": fields.get("deleted_ts")}) or "", None)
        else:
            self._written.setdefault(_time(fields) or place, fields)

    def _message(self, number: str, fields: dict[str, Any]) -> Message | None:
        kind, subtype = fields.get("type"), fields.get("subtype")
        if not isinstance(kind, str):
            raise Malformed("has no type")
        if kind != "message" or not (subtype is None or (isinstance(subtype, str) and subtype in _SAID)):
            return None
        if fields.get("hidden") is True:
            return None
        speaker = label(fields.get("user"))
        user = self._workspace.users.get(speaker or "")
        bot = subtype == "bot_message" or (user.bot if user else speaker == _SLACKBOT or bool(fields.get("bot_id")))
        said = together(self._words(fields, bot), *_files(fields))
        if not said:
            return None
        profile = within(fields.get("user_profile"))
        names = [profile.get("display_name"), profile.get("real_name"), fields.get("username")]
        names.append(within(fields.get("bot_profile")).get("name"))
        told = [name for name in map(label, names) if name]
        return Message(
            id=number if _time(fields) else own_id(None, self._channel.id, number, said),
            role="assistant" if bot else "user",
            text=said,
            said_at=moment(fields.get("ts")),
            name=user.name if user else told[0] if told else speaker,
            mine=not bot and self._is_own(user, [*told, speaker]),
        )

    def _is_own(self, user: _User | None, names: list[str | None]) -> bool:
        if self._workspace.me.known:
            return self._workspace.me.is_one_of(*(user.names if user else ()), *names)
        return user is not None and self._workspace.lone_human

    def _words(self, fields: dict[str, Any], bot: bool) -> str:
        words = self._workspace.plain(text(fields.get("text")))
        if words.strip() or not bot:
            return words
        parts = [part.get("text") or part.get("fallback") for part in records(fields.get("attachments"))]
        return together(*(self._workspace.plain(text(part)) for part in parts))


def _time(fields: dict[str, Any]) -> str | None:
    """The message's time as Slack writes it, ``1700000000.000100``; None where it is no time."""
    written = fields.get("ts")
    return written if isinstance(written, str) and moment(written) and written[0].isdigit() else None


def _when(entry: tuple[str, dict[str, Any]]) -> float:
    at = moment(entry[1].get("ts"))
    return at.timestamp() if at else 0.0


def _files(fields: dict[str, Any]) -> Iterator[str]:
    for file in records(fields.get("files")):
        yield attachment(label(file.get("name")) or label(file.get("title")), mime=file.get("mimetype"))
