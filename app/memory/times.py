"""Time expressions in a sentence: whether they make it an event, and the moment they mean.

Choices:

1. A moment is given only where the words allow one reading, seen from the time they were said: "yesterday", "in May
   2024", "last May" said in November. "03/04/2025", "last summer" and "last Monday" said on a Wednesday make an event
   without a moment. An expression of a week, month or year means its beginning.
2. A moment is never after the time it was said: plans ("next week") are events, but true from when they were said.
3. "Since 2019" begins a state, and "every Monday" repeats: neither is an event.
4. Times are in UTC, for the speaker's own zone is not known.
"""

# ruff: noqa: SIM905 - a long list of words reads better as text

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

_Meaning = Callable[[re.Match[str], str, datetime], datetime | None]

MONTHS = "january february march april may june july august september october november december".split()
_SHORT = {name[:3]: n for n, name in enumerate(MONTHS, 1)} | {"sept": 9}
_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_NUMBERS = {
    word: n for n, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)
} | {"a": 1, "an": 1, "a couple of": 2}

_MONTH = rf"(?P<month>{'|'.join(MONTHS)}|{'|'.join(_SHORT)})\b\.?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"

_REPEATED = re.compile(
    rf"\b(?:every|each|always|usually|often|sometimes|never|weekly|daily|monthly|yearly|annually|birthday|born|"
    rf"(?:{'|'.join(_DAYS)}|weekend|morning|evening|night)s)\b"
)
_FUTURE = re.compile(
    r"\b(?:will|shall|won't|going to|gonna|plan(?:s|ning)? to|tomorrow|next|upcoming|soon|am \w+ing|are \w+ing)\b|"
    r"\w'(?:ll|m \w+ing|re \w+ing)\b"
)
_PAST = re.compile(
    r"\b(?:was|were|had|did|didn't|wasn't|went|got|came|saw|met|made|took|gave|ate|ran|won|lost|left|bought|sold|built|"
    r"broke|began|became|drove|fell|felt|flew|found|forgot|gave|grew|heard|held|hurt|kept|knew|learnt|let|paid|put|"
    r"quit|read|rode|said|sang|sat|sent|slept|spent|spoke|stood|swam|taught|told|thought|understood|wore|wrote|"
    r"\w{2,}ed)\b"
)
_SINCE = re.compile(r"\bsince\s+$")

_ISO = re.compile(r"\b(?P<year>(?:19|20)\d\d)-(?P<month>[01]\d)-(?P<day>[0-3]\d)\b")
_DAY_MONTH = re.compile(rf"\b{_DAY}(?: of)? {_MONTH}(?:,? {_YEAR})?\b")
_MONTH_DAY = re.compile(rf"\b{_MONTH} {_DAY}\b(?:,? {_YEAR}\b)?")
_MONTH_YEAR = re.compile(rf"\b{_MONTH}(?: of)?,? {_YEAR}\b")
_LAST_MONTH_NAME = re.compile(rf"\blast (?P<month>{'|'.join(MONTHS)})\b")
_IN_MONTH = re.compile(rf"\b(?:in|since|back in) (?:early |late |mid-?)?(?P<month>{'|'.join(MONTHS)})\b(?! \d)")
_IN_YEAR = re.compile(rf"\b(?:in|since|back in|during) (?:early |late |mid-?)?{_YEAR}\b")
_AGO = re.compile(
    r"\b(?P<count>\d{1,3}|a couple of|an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve) "
    r"(?P<unit>minute|hour|day|week|month|year)s? ago\b"
)
_NAMED = re.compile(
    r"\b(?:(?P<before>the day before yesterday)|(?P<yesterday>yesterday|last night)|"
    r"last (?P<unit>week|month|year|weekend))\b"
)
_WEEKDAY = re.compile(rf"\b(?P<how>last|on) (?P<name>{'|'.join(_DAYS)})\b")
_VAGUE = re.compile(
    r"\b(?:today|tonight|tomorrow|earlier|just now|this (?:morning|afternoon|evening|week|weekend|month|year|spring|"
    r"summer|autumn|fall|winter)|(?:last|next|the other) (?:day|night|time|week|weekend|month|year|spring|summer|"
    r"autumn|"
    rf"fall|winter|christmas|easter|{'|'.join(_DAYS)}|{'|'.join(MONTHS)})|(?:few|several|some|many|couple of) "
    r"(?:minutes|hours|days|weeks|months|years) ago|\d{1,2}/\d{1,2}/(?:\d{4}|\d\d)|"
    r"at \d{1,2}(?::\d\d)? ?(?:am|pm)|(?:minutes|hours|days|weeks|months|years) ago)\b"
)


class When(msgspec.Struct, frozen=True):
    """``event``: something that happened or will. ``at``: since when it is true, where the words say it."""

    event: bool = False
    at: datetime | None = None


def when(sentence: str, said_at: datetime) -> When:
    """What the time expressions of ``sentence`` say, heard at ``said_at``."""
    text = " ".join(sentence.lower().replace("’", "'").split())
    now = said_at.astimezone(UTC)
    if _REPEATED.search(text):
        return When()
    for pattern, meaning in _MEANINGS:
        found = pattern.search(text)
        if found is None:
            continue
        state = found[0].startswith("since ") or bool(_SINCE.search(text[: found.start()]))
        at = _read(meaning, found, text, now)
        return When(not state, at if at is not None and at <= now else None)
    return When(bool(_VAGUE.search(text)))


def is_relative(sentence: str) -> bool:
    """Whether its time is only understood from when it was said: "yesterday", "last May", "on 3 March"."""
    text = " ".join(sentence.lower().replace("’", "'").split())
    if _REPEATED.search(text):
        return False
    dated = [pattern.search(text) for pattern, _ in _MEANINGS]
    fixed = any(found and "year" in found.re.groupindex and found["year"] for found in dated)
    return bool(_VAGUE.search(text)) or (any(dated) and not fixed)


def _read(meaning: _Meaning, found: re.Match[str], text: str, now: datetime) -> datetime | None:
    try:
        return meaning(found, text, now)
    except (ValueError, OverflowError):
        return None  # no such day: "31 June"


def _date(found: re.Match[str], text: str, now: datetime) -> datetime | None:
    month = found["month"]
    number = int(month) if month.isdigit() else _SHORT[month[:3]]
    day = int(found["day"]) if "day" in found.re.groupindex else 1
    if found["year"]:
        return datetime(int(found["year"]), number, day, tzinfo=UTC)
    if _FUTURE.search(text) or not (_PAST.search(text) or found.string[: found.start()].endswith("since ")):
        return None
    this_year = datetime(now.year, number, day, tzinfo=UTC)
    return this_year if this_year <= now else this_year.replace(year=now.year - 1)


def _last_month_name(found: re.Match[str], _text: str, now: datetime) -> datetime | None:
    number = _SHORT[found["month"][:3]]
    back = (now.month - number) % 12 or 12
    if back == 1:
        return None  # said in June: this year's May or last year's
    return datetime(now.year - (number >= now.month), number, 1, tzinfo=UTC)


def _in_month(found: re.Match[str], text: str, now: datetime) -> datetime | None:
    number = _SHORT[found["month"][:3]]
    if _FUTURE.search(text) or not (_PAST.search(text) or found[0].startswith("since ")) or number == now.month:
        return None
    return datetime(now.year - (number > now.month), number, 1, tzinfo=UTC)


def _in_year(found: re.Match[str], _text: str, _now: datetime) -> datetime | None:
    return datetime(int(found["year"]), 1, 1, tzinfo=UTC)


def _ago(found: re.Match[str], _text: str, now: datetime) -> datetime | None:
    count = _NUMBERS.get(found["count"]) or int(found["count"])
    match found["unit"]:
        case "minute" | "hour" as unit:
            return now - timedelta(**{f"{unit}s": count})
        case "day":
            return _midnight(now - timedelta(days=count))
        case "week":
            return _midnight(now - timedelta(weeks=count))
        case "month":
            months = now.year * 12 + now.month - 1 - count
            return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
        case _:
            return datetime(now.year - count, 1, 1, tzinfo=UTC)


def _named(found: re.Match[str], _text: str, now: datetime) -> datetime | None:
    today = _midnight(now)
    if found["before"]:
        return today - timedelta(days=2)
    if found["yesterday"]:
        return today - timedelta(days=1)
    match found["unit"]:
        case "week":
            return today - timedelta(days=now.weekday() + 7)
        case "weekend":
            return None if now.weekday() >= 5 else today - timedelta(days=now.weekday() + 2)
        case "month":
            return (today.replace(day=1) - timedelta(days=1)).replace(day=1)
        case _:
            return today.replace(year=now.year - 1, month=1, day=1)


def _weekday(found: re.Match[str], text: str, now: datetime) -> datetime | None:
    back = (now.weekday() - _DAYS.index(found["name"])) % 7 or 7
    if found["how"] == "last":
        return _midnight(now - timedelta(days=back)) if back > now.weekday() else None
    if _FUTURE.search(text) or not _PAST.search(text):
        return None
    return _midnight(now - timedelta(days=back))


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


_MEANINGS: list[tuple[re.Pattern[str], _Meaning]] = [
    (_ISO, _date),
    (_DAY_MONTH, _date),
    (_MONTH_DAY, _date),
    (_MONTH_YEAR, _date),
    (_LAST_MONTH_NAME, _last_month_name),
    (_AGO, _ago),
    (_NAMED, _named),
    (_WEEKDAY, _weekday),
    (_IN_MONTH, _in_month),
    (_IN_YEAR, _in_year),
]
