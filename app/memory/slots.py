"""What a sentence says about the few things of which a person has one at a time: residence, employer, name, …

Choices:

1. Only plain present-tense statements fill a slot, by a short list of patterns. What they miss is kept beside the old
   memory, which costs little; a wrong match would retire a memory that is still true.
2. "I live in Germany" does not end "I live in Berlin", nor "I'm a teacher" "I'm a musician": residence, employer and
   job give way only to a statement that says it changed ("moved", "now", "new").
"""

# ruff: noqa: SIM905 - a long list of words reads better as text

from __future__ import annotations

import re

import msgspec

_BREAKS = re.compile(
    r"\b(?:but|came back|went back|returned|temporar\w+|used to|part-?time|also|as well|too|sometimes|on (?:the )?"
    r"weekends?|for (?:a|an|one|two|three|the|my|our|\d+) (?:day|night|week|weekend|month|summer|holiday|semester|trip)"
    r"\w*)\b",
    re.IGNORECASE,
)
_CHANGED = re.compile(
    r"\b(?:now|no longer|any ?more|new|changed?|became|become|switched|started|joined|moved|relocated|quit|left|lost|"
    r"promoted|got|just|recently|instead)\b",
    re.IGNORECASE,
)


def _value(name: str) -> str:
    """A group of that name up to the next mark or to words that begin something else."""
    return (
        rf"(?P<{name}>[^,.;:!?()]{{2,60}}?)(?=\s*(?:[,.;:!?()]|$|\b(?:and|since|because|with|where|which|as|now|"
        rf"right now|"
        r"these days|last|this|in \d{4}|for \w+ years?|a (?:week|month|year) ago|two|three|yesterday|today|"
        r"at the moment|currently)\b))"
    )


_NOW = r"(?:(?:now|currently|just|recently|finally|only|already) )?"
_RESIDENCE = re.compile(
    rf"\b(?:i|we) {_NOW}(?:live|reside) {_NOW}(?:in|at|near) {_value('value')}|"
    rf"\b(?:i am|we are|i'm|we're) {_NOW}(?:living|based|settled) {_NOW}(?:in|at|near) {_value('based')}|"
    rf"\b(?:i|we)(?: have|'ve)? {_NOW}(?:moved|relocated) (?:back |over |house |from [^,.;]{{2,40}} )?to "
    rf"{_value('moved')}",
    re.IGNORECASE,
)
_NO_PLACE = re.compile(
    r"^(?:an?|another|my|our|the (?:sofa|couch|garden|kitchen|next|back|front|other|left|right|top|bottom|team|night|"
    r"office|day|point|topic)|hope|fear|peace|it|that|this|something|stop|start|see|live|work|be|get|help)\b",
    re.IGNORECASE,
)
_EMPLOYER = re.compile(
    rf"\bi(?:'m| am)? {_NOW}(?:work|working|employed) (?:{_NOW})(?:at|for|by) {_value('value')}|"
    rf"\bi(?: have|'ve)? {_NOW}(?:started (?:working )?(?:at|with)|(?:got|took|started) a (?:new )?job (?:at|"
    rf"with)) {_value('started')}|"
    rf"\bi(?: have|'ve)? {_NOW}joined {_value('joined')}",
    re.IGNORECASE,
)
_NO_EMPLOYER = re.compile(r"^(?:home|night|nights|hours|years|days|the gym|a gym|free|fun|weeks|months|least|myself)\b")
_END_OF_JOB = re.compile(
    r"\bi(?: have|'ve)? (?:just |recently |finally )?(?:quit|left|lost|resigned from|was (?:fired|laid off) from) "
    r"(?:my (?:old )?job|work)\b|\bi (?:was|got|'ve been|have been) (?:just |recently )?(?:fired|laid off|"
    r"made redundant)|\bi(?:'m| am) (?:now )?(?:unemployed|out of work|retired)\b|\bi (?:have |'ve |just |"
    r"recently )?retired\b",
    re.IGNORECASE,
)
_TITLE = (
    r"(?:[a-z-]+ ){0,3}?(?:engineer|developer|programmer|designer|teacher|nurse|doctor|lawyer|writer|manager|"
    r"consultant|analyst|scientist|student|professor|researcher|chef|cook|baker|artist|musician|accountant|"
    r"architect|journalist|director|founder|ceo|cto|electrician|plumber|carpenter|pilot|driver|photographer|"
    r"translator|editor|therapist|psychologist|dentist|pharmacist|vet|veterinarian|barista|waiter|waitress|farmer|"
    r"gardener|librarian|salesperson|recruiter|producer|actor|actress|banker|economist|lecturer|freelancer|intern|"
    r"technician|mechanic|paramedic|surgeon|midwife|soldier|officer|firefighter|entrepreneur|administrator)s?"
)
_JOB = re.compile(
    rf"\bi(?: am|'m) {_NOW}(?:an?|the) (?P<value>{_TITLE})\b|"
    rf"\bi {_NOW}work {_NOW}as (?:an?|the) {_value('role')}|"
    rf"\bi(?: have|'ve)? {_NOW}(?:became|become|been promoted to|got promoted to|was promoted to) "
    rf"(?:an?|the)? ?(?P<new>{_TITLE})\b|"
    r"\bmy (?:new |current )?job (?:is|title is) (?:an?|as an?)? ?(?P<title>[^,.;:!?]{2,50})",
    re.IGNORECASE,
)
_NAMES = r"[^\W\d_][\w'-]*(?: (?!and\b|but\b|i\b|so\b|now\b|since\b)[^\W\d_][\w'-]*){0,3}"
_NAME = re.compile(
    rf"\bmy (?:new |full |first |real )?name(?: is|'s) (?:now )?(?P<value>{_NAMES})|"
    rf"\bi(?: have|'ve)? changed my (?:first |full )?name to (?P<new>{_NAMES})|"
    rf"\bi(?: am|'m) (?:now )?called (?P<called>{_NAMES})|"
    r"^(?:please |just |you can )*call me (?P<call>[^\W\d_][\w'-]*)",
    re.IGNORECASE,
)
_NO_NAME = re.compile(r"^(?:not|on|in|when|later|back|old|crazy|if|something)\b", re.IGNORECASE)
_MARITAL = re.compile(
    r"\b(?:i am|i'm|we are|we're) (?:now |still |currently |newly |happily )?(?P<value>single|married|divorced|engaged|"
    r"widowed|separated)\b|\b(?:i|we)(?: have|'ve)? (?:just |recently |finally )?(?:got|gotten|been|became) "
    r"(?P<got>married|divorced|engaged|widowed|separated)\b",
    re.IGNORECASE,
)
_AGE = re.compile(
    r"\bi(?: am|'m) (?:now |already )?(?P<value>\d{1,3})(?: years? old| now)?(?=\s*(?:[,.;!]|$|\band\b))|"
    r"\bi (?:just |recently )?turned (?P<turned>\d{1,3})\b",
    re.IGNORECASE,
)
_FAVOURITE = re.compile(
    r"\bmy (?:new |current |all-time )?favou?rite (?P<thing>[\w -]{2,40}?) (?:is|are|has become|is now) "
    r"(?:now )?(?P<value>[^,.;:!?]{1,60})",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:no longer|not|don't|doesn't|isn't|am not|aren't|never)\b.*\bany ?more\b|\bno longer\b|"
    r"\b(?:i|we)(?: have|'ve)? (?:just |recently |finally )?(?:stopped|quit|gave up|given up)\b",
    re.IGNORECASE,
)
_PATTERNS = [
    ("residence", _RESIDENCE, _NO_PLACE),
    ("employer", _EMPLOYER, _NO_EMPLOYER),
    ("job", _JOB, None),
    ("name", _NAME, _NO_NAME),
    ("marital", _MARITAL, None),
    ("age", _AGE, None),
    ("favourite", _FAVOURITE, None),
]
_CHANGE_MUST_SHOW = frozenset({"residence", "employer", "job"})
_NOW_AFTER = re.compile(r"\s*(?:right )?(?:now|these days|instead)\b", re.IGNORECASE)
_NOW_BEFORE = re.compile(r"\b(?:now|these days|nowadays)\W*$", re.IGNORECASE)
LOOKED_AT = 1_000
"""Characters of a memory: one that somebody made of a whole page fills no slot."""
_PROBES = {
    "residence": "I live in, I moved to",
    "employer": "I work at, I work for, I joined",
    "job": "I am a, I work as, my job",
    "name": "My name is, call me",
    "marital": "I am married, single, engaged, divorced",
    "age": "I am years old",
}
_STOP = frozenset(
    "i we my our me us am is are was were be been do does did don't doesn't isn't aren't have has had a an the to "
    "of in at on for with and or no not longer any more anymore now just recently stopped quit gave given up "
    "finally anymore "
    "as it its that this so because 'm 've 're i'm i've we're never since".split()
)


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` of the slot and its ``value``, lowercased; "" where the statement only says that it is over."""

    name: str
    value: str
    changed: bool = False
    whole: bool = False
    """The sentence says nothing else."""

    @property
    def probe(self) -> str:
        """What to search for to find the memory that filled the slot before."""
        name, _, thing = self.name.partition(":")
        return _PROBES.get(name) or f"My favourite {thing} is"


def slots(sentence: str) -> list[Slot]:
    """The slots a sentence fills or empties; usually none."""
    text = _plain(sentence)
    if _BREAKS.search(text):
        return []
    found = []
    if _END_OF_JOB.search(text):
        found += [Slot(name=name, value="", changed=True) for name in ("employer", "job")]
    if _NEGATED.search(text):
        return found
    for name, pattern, never in _PATTERNS:
        match = pattern.search(text)
        groups = match.groupdict() if match else {}
        value = next((v for key, v in groups.items() if v and key != "thing"), "").strip()
        if not match or not value or (never and never.search(value)):
            continue
        if (name == "residence" or groups.get("joined")) and not _is_name(value, text):
            continue
        thing = f":{match['thing'].strip().lower()}" if name == "favourite" else ""
        found.append(_slot(name + thing, value, match, text))
    return found


def _slot(name: str, value: str, match: re.Match[str], text: str) -> Slot:
    before, after = text[: match.start()], text[match.end() :]
    changed = _CHANGED.search(match[0]) or _NOW_AFTER.match(after) or _NOW_BEFORE.search(before)
    whole = not re.sub(r"\W|\b(?:now|right|these days)\b", "", before + after)
    return Slot(name=name, value=value.lower(), changed=bool(changed), whole=whole)


def _is_name(value: str, text: str) -> bool:
    """A name, as its capital shows; where nothing is capitalised, a word or two may be one."""
    if text != text.lower():
        return value[0].isupper() or (value.startswith("the ") and value[4:5].isupper())
    return len(value.split()) <= 2 and not value.startswith("the ")


def fills(new: Slot, old: Slot) -> bool:
    """Whether ``new`` puts another value where ``old`` had one."""
    if new.name != old.name or not old.value or new.value == old.value:
        return False
    if new.name == "name" and set(new.value.split()) & set(old.value.split()):
        return False  # "Ana", "Ana Costa": one says more
    return new.changed or new.name not in _CHANGE_MUST_SHOW


def ends(sentence: str) -> bool:
    """Whether it says that something is no longer so."""
    return bool(_NEGATED.search(_plain(sentence)))


def is_ended_by(statement: str, ending: str) -> bool:
    """Whether ``ending`` ("I no longer eat meat") ends ``statement`` ("I eat meat"): it names nothing else."""
    if ends(statement):
        return False
    about = {_stem(word) for word in re.findall(r"[\w'-]+", _plain(ending).lower()) if word not in _STOP}
    known = {_stem(word) for word in re.findall(r"[\w'-]+", _plain(statement).lower()) if word not in _STOP}
    return bool(about) and about <= known


def _stem(word: str) -> str:
    """Enough to see that "smoking", "smoke" and "smokes" are one: not a stemmer."""
    word = word.removesuffix("'s")
    for suffix in ("ing", "es", "ed", "s", "e"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word.removesuffix(suffix)
    return word


def _plain(sentence: str) -> str:
    return " ".join(sentence[:LOOKED_AT].replace("’", "'").split())
