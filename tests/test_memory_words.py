"""Terms, normal forms and pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.memory.words import PIECE_WORDS, WORD_CHARS, normal, pieces, terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dances", "dancing"),
        ("stopped", "stopping"),
        ("berries", "berry"),
        ("Café", "CAFÉ"),
        ("Gina’s", "gina"),
        ("classes", "class"),
        ("loved", "love"),
        ("ﬁnd", "find"),
    ],
)
def test_forms_of_a_word_are_one_term(one: str, other: str) -> None:
    assert terms(one) == terms(other) != []


@pytest.mark.parametrize(("one", "other"), [("bus", "bu"), ("thing", "th"), ("2023", "2024"), ("Köln", "Koln")])
def test_other_words_stay_apart(one: str, other: str) -> None:
    assert terms(one) != terms(other)


def test_stop_words_go_and_repeats_stay() -> None:
    assert terms("What is the name of the dog, the dog?") == ["nam", "dog", "dog"]
    assert terms("the of and") == []


def test_scripts_without_spaces_are_cut_into_pairs() -> None:
    assert terms("東京都に") == ["東京", "京都", "都に"]
    assert terms("狐") == ["狐"]


def test_normal_form_ignores_case_punctuation_and_spacing() -> None:
    assert normal("  I LIVE,  in Lyon! ") == normal("i live in lyon")
    assert normal("I live in Lyon") != normal("I live in Porto")


@given(st.text(max_size=4_000))
def test_pieces_lose_no_word_and_are_short(text: str) -> None:
    found = pieces(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(len(piece.split()) <= PIECE_WORDS for piece in found)


def test_pieces_are_cut_between_sentences() -> None:
    sentence = "word " * 59 + "end."
    assert pieces(" ".join([sentence] * 3)) == [f"{sentence} {sentence}", sentence]
    assert [len(piece.split()) for piece in pieces("word " * 400)] == [160, 160, 80]
    assert max(map(len, pieces("x" * 10_000))) <= PIECE_WORDS * WORD_CHARS


@given(st.text(max_size=200))
def test_any_text_has_terms_that_can_be_stored(text: str) -> None:
    assert all(term and "\x00" not in term and len(term) <= 64 for term in terms(text))
