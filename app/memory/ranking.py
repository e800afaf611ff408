"""BM25 and the fusion of both legs, over arrays: one place for each unit, in no order. Pure.

Choices:

1. Scores are fused, not ranks: each leg is scaled to 0–1 over all units looked at, then 0.65 of the keywords' and 0.35
   of the vectors'. Measured on LoCoMo, recall at 10: keywords 0.73, vectors 0.44, fused 0.76; ranks fused lose to
   keywords alone.
2. PostgreSQL finds the rows and numpy does the sums: as one statement they took three times as long.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.5
KEYWORDS = 0.65
"""Share of the keyword leg in the fused score; the vectors have the rest."""

Numbers = NDArray[np.float64]
Ids = NDArray[np.int64]


class Fused(NamedTuple):
    """A unit as both legs saw it; None where one did not find it."""

    score: float
    unit: int
    keyword: float | None
    distance: float | None


class Units(NamedTuple):
    """What is ranked: ids, each once, and the lengths of their windows."""

    ids: Ids
    lengths: Numbers

    def places(self, ids: Ids) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where these stand among the units, and which of them do at all."""
        if not len(self.ids):
            return np.zeros(len(ids), np.intp), np.zeros(len(ids), np.bool_)
        order = np.argsort(self.ids)
        found = np.minimum(np.searchsorted(self.ids, ids, sorter=order), len(order) - 1)
        places = order[found]
        return places, self.ids[places] == ids


class Postings(NamedTuple):
    """Where the query's terms occur: the number of the term, the unit, and its count there."""

    terms: NDArray[np.int64]
    units: Ids
    counts: Numbers


def bm25(units: Units, postings: Postings) -> Numbers:
    """A score for each unit; 0 where no term occurs. Postings of other units are left out, in the statistics too."""
    places, known = units.places(postings.units)
    places, numbers, counts = places[known], postings.terms[known], postings.counts[known]
    if not len(places):
        return np.zeros(len(units.ids))
    found_in = np.bincount(numbers)
    rarity = np.log(1 + (len(units.ids) - found_in + 0.5) / (found_in + 0.5))
    relative = units.lengths[places] / max(float(units.lengths.mean()), 1e-9)
    scores = rarity[numbers] * counts * (K1 + 1) / (counts + K1 * (1 - B + B * relative))
    summed: Numbers = np.bincount(places, weights=scores, minlength=len(units.ids)).astype(np.float64)
    return summed


def fused(ids: Ids, scores: Numbers, distances: Numbers, share: float, most: int) -> list[Fused]:
    """The best units: ``share`` of the keywords' scores and the rest of the vectors', each brought to 0–1.

    A score of 0 and a distance of NaN mean that the leg did not find the unit.
    """
    near = ~np.isnan(distances)
    totals = np.zeros(len(ids))
    if scores.any():
        totals += scores * ((share if near.any() else 1.0) / scores.max())
    if near.any():
        behind = distances[near] - distances[near].min()
        totals[near] += (1 - behind / (behind.max() or 1.0)) * (1 - share)  # one alone is the nearest
    found = np.flatnonzero((scores > 0) | near)
    best = found[np.lexsort((-ids[found], -totals[found]))[:most]]
    columns = (column[best].tolist() for column in (totals, ids, scores, distances))
    return [
        Fused(total, unit, score or None, None if math.isnan(distance) else distance)
        for total, unit, score, distance in zip(*columns, strict=True)
    ]
