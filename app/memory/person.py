"""First-person statements told about somebody: "I live in Lyon" as "They live in Lyon".

Choices:

1. ``They`` for one person: nothing is known of gender, and the verbs stay as they are but for "am" and "was".
2. Told over is only what stays unambiguous and true. Sentences that address somebody, quote, or have another plural
   that "they" could mean are quoted as they were said; and so is what has words we do not know how to turn.
"""

from __future__ import annotations

import re

from app.memory.slots import slots
from app.memory.statements import without_opener

_ADDRESSED = re.compile(
    r"\b(?:you|your|yours|they|their|them|theirs|themselves|let's|and was|or was|but was)\b|[\"“”«»`]|\bus\b"
)
_SUBJECT = re.compile(r"\b(?:i|we)\b")
_PLURAL = re.compile(
    r"\b(?!(?:is|was|has|does|this|yes|as|its|us|always|sometimes|perhaps|besides|news|bus|gas|less|across)\b)"
    r"(?:[a-z]{2,}[a-rt-z]s|people|children|men|women|parents|kids)\b"
)
_FIRST = re.compile(r"\b(?:i|i'm|i've|i'd|i'll|me|my|mine|myself|am|we|we're|we've|we'd|we'll|our|ours|ourselves)\b")
_NEW_SENTENCE = re.compile(r"(?<=[.!?] )the(?=y|ir)")
_ADVERB = r"((?: (?:also|still|just|never|always|already|really|once|not|only|\w{2,}ly))*)"
_TURNS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern, re.IGNORECASE), told)
    for pattern, told in (
        (r"\bmy name's\b", "their name is"),
        (r"\b(?:i'm|we're)(?!\w)", "they are"),
        (r"\b(?:i've|we've)(?!\w)", "they have"),
        (r"\b(?:i'll|we'll)(?!\w)", "they will"),
        (r"\b(?:i'd|we'd)(?!\w)", "they'd"),
        (rf"\bi{_ADVERB} am\b", r"they\1 are"),
        (rf"\bi{_ADVERB} was\b", r"they\1 were"),
        (rf"\bi{_ADVERB} wasn't(?!\w)", r"they\1 weren't"),
        (r"\b(?:i|we)\b", "they"),
        (r"\bam\b", "are"),
        (r"\b(?:my|our)\b", "their"),
        (r"\bme\b", "them"),
        (r"\b(?:mine|ours)\b", "theirs"),
        (r"\b(?:myself|ourselves)\b", "themselves"),
    )
]  # fmt: skip


def told(statement: str) -> str:
    """The statement in the third person, as a sentence; quoted where it cannot be told safely."""
    said = " ".join(without_opener(statement.replace("’", "'")).split()).strip(" *_-")
    lowered = said.lower()
    named = slots(said) if lowered.startswith("call me") else []
    if named:
        return _sentence(f"they go by {said[len('call me ') :]}")
    if not _FIRST.search(lowered):
        return _sentence(said)
    if not _is_plain(lowered):
        return quoted(statement)
    for pattern, other in _TURNS:
        said = pattern.sub(other, said)
    if _FIRST.search(said.lower()):
        return quoted(statement)
    return _sentence(_NEW_SENTENCE.sub(lambda found: found[0].capitalize(), said))


def quoted(statement: str) -> str:
    """In the person's own words."""
    words = " ".join(statement.split()).strip().replace('"', "'").rstrip(".")
    return f'In their own words: "{words}."' if words[-1:] not in "!?…" else f'In their own words: "{words}"'


def _is_plain(text: str) -> bool:
    """Whether "they" could mean nobody else."""
    if _ADDRESSED.search(text):
        return False
    subjects = [found.start() for found in _SUBJECT.finditer(text)]
    late = [start for start in subjects if start > 0]
    return not (late and _PLURAL.search(text[: late[-1]]))


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text[-1:] in ".!?…" else f"{text}."
