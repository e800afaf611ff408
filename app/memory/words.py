"""Texts to what keyword search counts: terms; to what duplicates are told by; and to pieces short enough to embed.

Choices:

1. Terms are folded, lose the commonest English words and a light suffix. Each step was measured on LoCoMo (recall at
   10, windows of three turns): 0.63 as they stand, 0.65 without stop words, 0.69 with suffixes off as well.
2. Other languages lose nothing by it: their words are kept whole, and scripts without spaces are cut into pairs of
   characters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_TERM = 64
PIECE_WORDS = 160
"""About 256 tokens of the embedding model."""
WORD_CHARS = 7

_WORD = re.compile(r"[^\W_]+")
_WIDE = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_SENTENCE = re.compile(r"(?<=[.!?…。！？])\s+|\n+")
_POSSESSIVE = re.compile(r"['’]s\b")
_VOWEL = re.compile(r"[aeiouy]")
_COMMON = """
a about am an and are as at be been being but by can could d did do does for from had has have he her him his
how i if in into is it its just ll m may me might my no not of on or our re s she should so t than that the
their them then these they this those to too ve very was we were what when where which who whom whose why will
with would you your
"""
_STOP = frozenset(_COMMON.split())


def terms(text: str) -> list[str]:
    """The text's terms in order, repeats included."""
    found: list[str] = []
    for word in _WORD.findall(_POSSESSIVE.sub("", _fold(text))):
        if _WIDE.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word not in _STOP:
            found.append(_stem(word[:MAX_TERM]))
    return found


def normal(text: str) -> str:
    """The text without case, punctuation and spacing: what two texts share that say the same in the same words."""
    return " ".join(_WORD.findall(_fold(text)))


def pieces(text: str) -> list[str]:
    """The text in pieces of at most ``PIECE_WORDS`` words, cut between sentences where it can be; one at least."""
    found: list[str] = []
    held: list[str] = []
    room = PIECE_WORDS
    for part in (part for sentence in _SENTENCE.split(text) for part in _parts(sentence)):
        if held and _size(part) > room:
            found.append(" ".join(held))
            held, room = [], PIECE_WORDS
        held.append(part)
        room -= _size(part)
    return [*found, " ".join(held)] if held else found or [text]


def _size(text: str) -> int:
    """In words, or in what ordinary words would fill the space of very long ones."""
    return max(len(text.split()), len(text) // WORD_CHARS)


def _parts(sentence: str) -> list[str]:
    """A sentence without its odd spaces; one that is too long by itself in several parts."""
    found: list[str] = []
    held: list[str] = []
    most = PIECE_WORDS * WORD_CHARS
    for word in (long[i : i + most] for long in sentence.split() for i in range(0, len(long), most)):
        if held and _size(" ".join([*held, word])) > PIECE_WORDS:
            found.append(" ".join(held))
            held = []
        held.append(word)
    return [*found, " ".join(held)] if held else found


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    """A word without its commonest English endings; the same for its forms, not always a word."""
    if len(word) <= 3 or not word.isascii() or not word.isalpha():
        return word
    if word.endswith(("ies", "ied")):
        word = word[:-3] + "y"
    elif word.endswith("sses"):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        root = word.removesuffix(ending)
        if root != word and len(root) >= 3 and _VOWEL.search(root):
            doubled = root[-1] == root[-2] and root[-1] not in "lsz"
            word = root[:-1] if doubled else root
            break
    if len(word) > 3:
        word = word.removesuffix("e")
    if len(word) > 5:
        word = word.removesuffix("ly")
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word
