"""WhatsApp's export of one chat: a text file, alone or in its zip. Nobody documents it; it differs by phone and region.

iOS writes ``[31/12/2023, 22:15:03] Ann: text``, Android ``31/12/2023, 22:15 - Ann: text``; a line that begins with no
time goes on with the message before it.

Choices:

1. The order of day, month and year is decided once, over the whole file (`DateOrder`). Where nothing in the file
   decides it, that is told as a problem: the times may be wrong, the words are not.
2. Times have no zone. They are taken as of ``Source.zone``, UTC unless the caller names another.
3. Ids come from the time as written, who, what, and which of several alike: an export that begins later, as WhatsApp
   keeps only so many messages, has the same ids.
4. Left out: lines without a sender, and on iOS what begins with the mark of the app's own words (U+200E) and is neither
   an attachment nor a place or a poll.
5. A lone speaker whose name is the chat's is the other person.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from typing import NamedTuple

from app.ids import derived_id
from app.integrations.exports.fields import attachment, label, together
from app.integrations.exports.source import Document, Gathered, Item, Source
from app.integrations.types import Message, Problem, Unreadable

HEAD_BYTES = 64_000
"""So much of a file is looked at to tell whether it is a chat."""

_MARKS = "\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff"
_DATE = r"(\d{1,4})\s?([./-])\s?(\d{1,2})\s?\2\s?(\d{1,4})\.?"
_TIME = r"(?:([^\W\d]{1,5})\s?)?(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?(?:\s?([AaPp])\.?\s?[Mm]\.?)?"
_IOS = re.compile(rf"[{_MARKS}]*\[{_DATE}[,،]?\s{{1,2}}{_TIME}\]\s?(.*)", re.DOTALL)
_ANDROID = re.compile(rf"[{_MARKS}]*{_DATE}[,،]?\s{{1,2}}{_TIME}\s[-–]\s(.*)", re.DOTALL)
_REST = 10
_AFTERNOON = frozenset({"下午", "午後", "오후"})
_MORNING = frozenset({"上午", "午前", "오전"})
_SENDER = re.compile(r"([^:\n“”\"]{1,120}):(?=\s|\Z)")
_ATTACHED = re.compile("(?:\\A|\u200e)<[^<>:\n]{1,40}: ([^<>\n]{1,200})>")
_BESIDE = re.compile(r"([^\n]{1,200}\.\w{2,5}) \(([^()\n]{1,40})\)")
_BESIDE_WORDS = frozenset(
    {"file attached", "datei angehängt", "archivo adjunto", "fichier joint", "file allegato", "arquivo anexado"}
)
_OMITTED = re.compile(
    r"<?(?:(image|video|audio|sticker|gif|document|contact card|video note|media) omitted"
    r"|medien ausgeschlossen|multimedia omitido|médias? omis|media omessi|(?:arquivo de )?mídia oculta)>?",
    re.IGNORECASE,
)
_OMITTED_DOCUMENT = re.compile(r"([^\n•]{1,200}) • [^\n]{0,100}document omitted", re.IGNORECASE)
_DELETED = re.compile(r"(?:this message was deleted|you deleted this message)\.?", re.IGNORECASE)
_EDITED = re.compile(r"\s?\u200e?<this message was edited>\s*\Z", re.IGNORECASE)
_APP_CONTENT = re.compile(r"(?:(?:live )?location|poll|standort|umfrage|ubicación|encuesta)\b", re.IGNORECASE)
_MARK = re.compile(f"[{_MARKS}]")
_BLANKS = " \t\r\n\u00a0\u202f\u200e\u200f\u202a\u202b\u202c\u202d\u202e\ufeff"
_ISOLATES = re.compile("[\u2066-\u2069]")
_TITLE = re.compile(
    r"(?:\w+ (?:d[eo] )?)?whatsapp(?:[ -]+chat)?[ -]+(?:(?:with|mit|con|avec|com) )?(?!chat\Z)(.+?)(?: ?\(\d+\))?",
    re.IGNORECASE,
)
_BOT = "Meta AI"


class Line(NamedTuple):
    """One message as written: the three numbers of its date and what is between them, its time (hour to 23, minute,
    second), both as they stand there, what follows, and the half of the day if one is named ("a", "P")."""

    date: tuple[int, int, int]
    separator: str
    time: tuple[int, int, int]
    written: str
    rest: str
    half: str


class DateOrder(NamedTuple):
    """Where year, month and day stand in the file's dates, and why. ``certain`` when the file proves it."""

    places: tuple[int, int, int]
    name: str
    because: str
    certain: bool


_YMD, _DMY, _MDY = (0, 1, 2), (2, 1, 0), (2, 0, 1)
_ORDER_NAMES = {_YMD: "year, month, day", _DMY: "day, month, year", _MDY: "month, day, year"}


def looks_like_chat(data: bytes) -> bool:
    """Whether a message begins in the first lines of the file."""
    return any(_header(line) for line in _text(data[:HEAD_BYTES]).split("\n", 20)[:20])


def read(source: Source) -> Iterator[Item]:
    """The conversation of each chat's file."""
    found = False
    for document in source.documents(_is_named_as_chat, lambda name: name.lower().endswith(".txt")):
        if isinstance(document, Problem):
            found = True
            yield document
        elif looks_like_chat(document.data):
            found = True
            yield from _conversation(document, source)
    if not found:
        raise Unreadable("WRONG_FORMAT", "This is no WhatsApp chat: no line begins with a date and a time.")


def _is_named_as_chat(name: str) -> bool:
    """Other texts in the zip were sent in the chat."""
    last = name.rsplit("/", 1)[-1].lower()
    return last == "_chat.txt" or (last.endswith(".txt") and title_of(last) is not None)


def _conversation(document: Document, source: Source) -> Iterator[Item]:
    lines = list(_lines(_text(document.data)))
    order = decide_order(lines)
    title = title_of(document.name) or title_of(source.name)
    gathered = Gathered(derived_id("imp", "whatsapp", title or lines[0].written, "" if title else lines[0].rest))
    alike: Counter[str] = Counter()
    humans: set[str] = set()
    for line in _whole(lines, order, source.zone):
        sender = _SENDER.match(line.rest)
        name = label(_MARK.sub("", sender[1]).lstrip("~ \u202f\u00a0")) if sender else None
        said = _said(line.rest[sender.end() :]) if sender else ""
        if not name or not said:
            continue
        number = derived_id("imp", gathered.id, line.written, name, said)
        alike[number] += 1
        if bot := name == _BOT:
            own = False
        else:
            humans.add(name)
            own = source.me.is_one_of(name) if source.me.known else name != title
        gathered.messages.append(
            Message(
                id=number if alike[number] == 1 else derived_id("imp", number, str(alike[number])),
                role="assistant" if bot else "user",
                text=said,
                said_at=_moment(line, order, source.zone),
                name=name,
                mine=own,
            )
        )
    if not source.me.known:
        gathered.only_if_alone(len(humans))
    if not order.certain and gathered.messages:
        gathered.problem(
            document.label,
            f"Dates are read as {order.name}: {order.because}. If that is wrong, so are the times.",
            "DATE_ORDER_ASSUMED",
        )
    yield from gathered.items(title)


def title_of(name: str) -> str | None:
    """Whom the chat is with, by the name of its file: ``WhatsApp Chat with Ann.txt``, ``WhatsApp Chat - Ann.zip``."""
    stem = re.sub(r"\.(?:txt|zip)\Z", "", name.rsplit("/", 1)[-1], flags=re.IGNORECASE)
    found = _TITLE.fullmatch(stem)
    return label(found[1]) if found else None


def _text(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\x00", "")


def _header(line: str) -> Line | None:
    found = _IOS.match(line) or _ANDROID.match(line)
    if not found:
        return None
    first, separator, second, third, word, hour, minute, seconds, half, _ = found.groups()
    half = "P" if word in _AFTERNOON else "A" if word in _MORNING else half or ""
    hours = int(hour) % 12 + (12 if half in "pP" else 0) if half else int(hour)
    return Line(
        date=(int(first), int(second), int(third)),
        separator=separator,
        time=(hours, int(minute), int(seconds or 0)),
        written=line[: found.start(_REST)].strip(),
        rest=line[found.start(_REST) :],
        half=half,
    )


def _lines(text: str) -> Iterator[Line]:
    """What begins with a date and a time, each with the lines that follow it; what stands before the first is none."""
    begun: Line | None = None
    more: list[str] = []
    for written in text.split("\n"):
        line = _header(written)
        if line is None:
            more.append(written)
            continue
        if begun:
            yield begun._replace(rest="\n".join([begun.rest, *more]))
        begun, more = line, []
    if begun:
        yield begun._replace(rest="\n".join([begun.rest, *more]))


def _whole(lines: list[Line], order: DateOrder, zone: tzinfo) -> Iterator[Line]:
    """A line whose date there is none such in this order was pasted into the message before it."""
    begun: Line | None = None
    more: list[str] = []
    for line in lines:
        if begun is not None and not _moment(line, order, zone):
            more.append(f"{line.written} {line.rest}")
            continue
        if begun:
            yield begun._replace(rest="\n".join([begun.rest, *more]))
        begun, more = line, []
    if begun:
        yield begun._replace(rest="\n".join([begun.rest, *more]))


def _moment(line: Line, order: DateOrder, zone: tzinfo) -> datetime | None:
    year, month, day = (line.date[place] for place in order.places)
    try:
        at = datetime(year + 2000 if year < 100 else year, month, day, *line.time, tzinfo=zone)
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def decide_order(lines: list[Line]) -> DateOrder:
    """The order in which most dates exist; of several such, the one in which time goes backwards least often (chats are
    exported in the order they were said); then what the way of writing tells; else day, month, year."""
    dates = list(dict.fromkeys(line.date for line in lines))
    orders = [_YMD] if sum(date[0] > 31 for date in dates) * 2 > len(dates) else [_DMY, _MDY]
    valid = {order: sum(_exists(date, order) for date in dates) for order in orders}
    best = [order for order in orders if valid[order] == max(valid.values())]
    if len(best) == 1:
        return _chosen(best[0], "a date exists in this order alone", certain=True)
    back = {order: _steps_back(dates, order) for order in best}
    if len(set(back.values())) > 1:
        least = min(best, key=back.__getitem__)
        return _chosen(least, "in the other order the chat would jump back in time", certain=True)
    if lines and lines[0].separator != "/":
        return _chosen(_DMY, f"dates are written with “{lines[0].separator}”", certain=True)
    if any(line.half in ("A", "P") for line in lines if line.half):
        return _chosen(_MDY, "every date fits both orders, and times are written with AM and PM", certain=False)
    return _chosen(_DMY, "every date fits both orders", certain=False)


def _chosen(order: tuple[int, int, int], because: str, *, certain: bool) -> DateOrder:
    return DateOrder(order, _ORDER_NAMES[order], because, certain)


def _exists(date: tuple[int, int, int], order: tuple[int, int, int]) -> bool:
    year, month, day = (date[place] for place in order)
    try:
        datetime(year + 2000 if year < 100 else year, month, day, tzinfo=UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _steps_back(dates: list[tuple[int, int, int]], order: tuple[int, int, int]) -> int:
    told = [tuple(date[place] for place in order) for date in dates]
    return sum(later < earlier for earlier, later in pairwise(told))


def _said(rest: str) -> str:
    """What a message says, "" for the app's own words."""
    words = _EDITED.sub("", rest.strip())
    by_app = words.startswith("\u200e")
    files = [attachment(name) for name in _ATTACHED.findall(words)]
    words = _ISOLATES.sub("", _leading(_ATTACHED.sub("\n", words)))
    if files:
        return together("\n".join(filter(None, map(_leading, words.split("\n")))), *files)
    head, _, caption = words.partition("\n")
    if (found := _BESIDE.fullmatch(head)) and (by_app or found[2].lower() in _BESIDE_WORDS):
        return together(attachment(found[1]), caption)
    if found := _OMITTED.fullmatch(words):
        return attachment(kind=(found[1] or "media").lower())
    if by_app and (found := _OMITTED_DOCUMENT.fullmatch(words)):
        return attachment(found[1])
    if (by_app and not _APP_CONTENT.match(words)) or _DELETED.fullmatch(words):
        return ""
    return words


def _leading(words: str) -> str:
    """``words`` without marks of direction and blanks around them."""
    return words.lstrip(_BLANKS).rstrip()
