"""BM25 and fusion over arrays: what is left out, and what the legs bring together."""

from __future__ import annotations

import numpy as np
import pytest

from app.memory.ranking import Fused, Postings, Units, bm25, fused


def test_fusion_adds_what_the_legs_found_each_brought_to_one() -> None:
    no = float("nan")
    found = fuse({1: (8.0, 0.9), 2: (4.0, 0.1), 3: (0.0, 0.5), 4: (0.0, no)}, 10)
    assert [(one.unit, one.keyword, one.distance) for one in found] == [(2, 4.0, 0.1), (1, 8.0, 0.9), (3, None, 0.5)]
    assert [one.score for one in found] == pytest.approx([0.6 * 0.5 + 0.4, 0.6, 0.4 * 0.5])
    assert [one.unit for one in fuse({1: (8.0, no), 2: (4.0, no)}, 1)] == [1]
    assert fuse({5: (2.0, no)}, 10)[0].score == 1.0
    assert fuse({}, 10) == []
    assert fuse({7: (0.0, 0.4)}, 10)[0].score == pytest.approx(0.4), "alone, it is the nearest"


def fuse(legs: dict[int, tuple[float, float]], most: int) -> list[Fused]:
    """By unit, its score and its distance."""
    scores, distances = zip(*legs.values(), strict=True) if legs else ((), ())
    return fused(np.array(list(legs), np.int64), np.array(scores, float), np.array(distances, float), 0.6, most)


def test_postings_of_units_that_take_no_part_count_nowhere() -> None:
    units = Units(np.array([9, 3]), np.array([2.0, 2.0]))
    alone = Postings(np.array([0, 1]), np.array([3, 9]), np.array([1.0, 1.0]))
    beside = Postings(np.array([0, 0, 0, 1]), np.array([3, 4, 99, 9]), np.array([1.0, 5.0, 5.0, 1.0]))
    assert bm25(units, beside).tolist() == bm25(units, alone).tolist()
    assert bm25(units, Postings(np.array([0]), np.array([4]), np.array([1.0]))).tolist() == [0.0, 0.0]
    nothing = np.array([], np.int64)
    assert bm25(Units(nothing, np.array([])), alone).tolist() == []
    assert bm25(units, Postings(nothing, nothing, np.array([]))).tolist() == [0.0, 0.0]
