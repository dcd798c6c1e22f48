"""How good an order is: recall at a depth, reciprocal rank, discounted gain, each with a bootstrap interval. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from math import log2
from statistics import fmean
from typing import NamedTuple

RESAMPLED = 1_000


class Interval(NamedTuple):
    """A mean, and where 95 of 100 means of resampled questions lie."""

    mean: float
    low: float
    high: float


def recall(found: Sequence[str], answers: Set[str], depth: int) -> float:
    """The share of the answers among the first `depth`."""
    return len(answers & set(found[:depth])) / len(answers)


def reciprocal_rank(found: Sequence[str], answers: Set[str]) -> float:
    """One over the place of the first answer; 0 where there is none."""
    return next((1 / place for place, each in enumerate(found, 1) if each in answers), 0.0)


def ndcg(found: Sequence[str], answers: Set[str], depth: int = 10) -> float:
    """Discounted cumulative gain of the first `depth` over the best possible (Järvelin and Kekäläinen 2002)."""
    gain = sum(1 / log2(place + 1) for place, each in enumerate(found[:depth], 1) if each in answers)
    best = sum(1 / log2(place + 1) for place in range(1, min(len(answers), depth) + 1))
    return gain / best


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean with its bootstrap interval."""
    chance = random.Random(seed)
    means = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(RESAMPLED))
    return Interval(fmean(values), means[int(0.025 * RESAMPLED)], means[int(0.975 * RESAMPLED) - 1])
