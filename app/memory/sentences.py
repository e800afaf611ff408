"""What of a turn its speaker says in their own words, sentence by sentence.

Choices:

1. What was pasted is not said: code, block quotes, recalled memories, whatever follows a request such as "Translate
   this:" or a letter's "Dear …,". The whole turn stays stored and searchable; only no memory is drawn from it.
2. Sentences are split by hand-written rules, not by a model: they must be the same at every redelivery.
3. Every scan is linear in the turn's length: a turn may be megabytes of anything.
"""

# ruff: noqa: SIM905 - a long list of words reads better as text

from __future__ import annotations

import re

from app.memory.recall import without_recalled

SENTENCE_CHARACTERS = 500
"""Longer ones are no plain statements: lists without full stops, tables, prose of somebody else."""

_FENCE = re.compile(r"^\s{0,3}(```|~~~)")
_BULLET = re.compile(r"^\s{0,12}(?:[-*•–]|\d{1,3}[.)])\s+")
_PASTED = re.compile(
    r"\b(?:translat|summari[sz]|re-?writ|rephras|paraphras|proof-?read|correct|edit|improv|review|analy[sz]e|classify|"
    r"shorten|polish|format|convert|explain|respond|repl(?:y|ies)|answer|continue|complete|extract)\w*\b|"
    r"\b(?:following|this (?:text|email|e-mail|letter|message|essay|story|article|paragraph|sentence|poem|code|"
    r"conversation|transcript|post|review)|below|letter|email|e-mail|quote|transcript|example)\b",
    re.IGNORECASE,
)
_LETTER = re.compile(r"^\s*(?:dear|subject:|to whom)\b[^.!?]{0,80}[,:]?\s*$", re.IGNORECASE)
_OWN = re.compile(r"(?:i|my|we|our)\b", re.IGNORECASE)
_END = re.compile(r"[.!?…]+[\"'”’)\]]{0,3}\s+")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st vs etc eg ie e.g i.e a.m p.m am. no nos approx dept est fig inc ltd co jr sr u.s u.k jan feb "
    "mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun".split()
)
_ABBREVIATIONS_AT_ENDS = frozenset("etc a.m p.m u.s u.k inc ltd co jr sr no am.".split())
_STARTS = re.compile(r"(?:I|My|We|Our|The|It|He|She|They|This|That|But|And|So)\b")


def own_sentences(text: str) -> list[str]:
    """The sentences of ``text`` that are its speaker's own words, as written, in their order."""
    found: list[str] = []
    for paragraph in _paragraphs(without_recalled(text)):
        for sentence in _split(paragraph):
            head, colon, _ = sentence[:200].partition(":")
            if colon and _PASTED.search(head) and not _OWN.match(head):
                return found
            if len(sentence) <= SENTENCE_CHARACTERS:
                found.append(sentence)
    return found


def sentences(text: str) -> list[str]:
    """Every sentence of ``text``, whoever's words they are."""
    return [sentence for line in text.splitlines() for sentence in _split(_BULLET.sub("", line).strip())]


def _paragraphs(text: str) -> list[str]:
    """Lines of own words; one that a line break cut in the middle of a sentence is whole again."""
    found: list[str] = []
    fenced, fresh = "", True
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if fence and (not fenced or fence[1] == fenced):
            fenced, fresh = ("" if fenced else fence[1]), True
            continue
        bullet = _BULLET.match(line)
        if fenced or line.lstrip().startswith(">") or (line.startswith(("    ", "\t")) and not bullet):
            fresh = True
            continue
        if _LETTER.match(line):
            break
        said = line[bullet.end() if bullet else 0 :].strip()
        if said and found and not fresh and not bullet and said[0].islower() and found[-1][-1] not in ".!?…:":
            if len(found[-1]) <= SENTENCE_CHARACTERS:
                found[-1] += f" {said}"
        elif said:
            found.append(said)
        fresh = not said
    return found


def _split(paragraph: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(paragraph):
        if _is_end(paragraph, start, end):
            found.append(paragraph[start : end.end()].strip())
            start = end.end()
    found.append(paragraph[start:].strip())
    return [sentence for sentence in found if sentence]


def _is_end(paragraph: str, start: int, end: re.Match[str]) -> bool:
    if end[0][0] != "." or end[0].startswith(".."):
        return True
    before = paragraph[max(start, end.start() - 12) : end.start()].rsplit(None, 1)
    word = before[-1].strip("(\"'").lower() if before else ""
    new_start = bool(_STARTS.match(paragraph, end.end()))
    if word in _ABBREVIATIONS:
        return word in _ABBREVIATIONS_AT_ENDS and new_start
    if len(word) == 1 and word.isalpha() and word != "i":
        return new_start
    return True
