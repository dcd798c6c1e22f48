"""From candidates to an order: pure, explained, and the same for the same input.

Each leg's scores are folded to memories (the best chunk counts) and brought to 0..1: dense and sparse by min-max
over their own candidates, graph by its largest activation. The score is their weighted sum. A leg that found
nothing gives its weight to the others, so scores of a degraded answer span 0..1 as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from engram_vectors.points import chunk_number, first_of
from engram_vectors.ports import Candidates, Scored

DENSE, SPARSE, GRAPH = "dense", "sparse", "graph"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each leg counts: `dense` of the text legs' share (sparse has the rest), `graph` of the whole."""

    version: int = 1
    dense: float = 0.5
    graph: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A memory, by its first point, with where its score (the sum of `parts`) comes from; `chunk` matched best."""

    head: str
    score: float
    parts: dict[str, float]
    raw: dict[str, float]
    ranks: dict[str, int]
    chunk: int


@dataclass(frozen=True, slots=True)
class _Leg:
    """One leg's view of the memories: raw scores, what they are worth from 0 to 1, and the best points."""

    raw: dict[str, float]
    worth: dict[str, float]
    best: dict[str, str]
    ascending: list[float]

    def rank(self, head: str) -> int:
        """How a memory did in this leg: one more than the number of better ones."""
        return 1 + len(self.ascending) - bisect_right(self.ascending, self.raw[head])


def rank(candidates: Candidates, activations: Mapping[str, float], weights: Weights, limit: int) -> list[Ranked]:
    """The best memories, highest score first, equal scores by id. `activations` is the graph's, by first point."""
    legs = {
        DENSE: _leg(candidates.dense, _min_max),
        SPARSE: _leg(candidates.sparse, _min_max),
        GRAPH: _leg(list(activations.items()), _share_of_largest),
    }
    shares = _shares({name for name, leg in legs.items() if leg.raw}, weights)
    scores: dict[str, float] = {}
    for name, leg in legs.items():
        share = shares.get(name, 0.0)
        for head, worth in leg.worth.items():
            scores[head] = scores.get(head, 0.0) + share * worth
    best = sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))[:limit]
    return [_ranked(head, legs, shares) for head, _ in best]


def _leg(found: Sequence[Scored], worth: Callable[[float, float, float], float]) -> _Leg:
    raw: dict[str, float] = {}
    best: dict[str, str] = {}
    for point, score in found:
        head = first_of(point)
        if score > raw.get(head, -inf):
            raw[head], best[head] = score, point
    ascending = sorted(raw.values())
    low, high = (ascending[0], ascending[-1]) if ascending else (0.0, 0.0)
    return _Leg(raw, {head: worth(score, low, high) for head, score in raw.items()}, best, ascending)


def _min_max(score: float, low: float, high: float) -> float:
    return (score - low) / (high - low) if high > low else 1.0


def _share_of_largest(score: float, _: float, high: float) -> float:
    return score / high if high > 0 else 0.0


def _shares(present: set[str], weights: Weights) -> dict[str, float]:
    text = {DENSE: weights.dense, SPARSE: 1.0 - weights.dense}
    text = {name: weight for name, weight in text.items() if name in present}
    if len(text) == 1:
        text = dict.fromkeys(text, 1.0)
    graph = 0.0 if GRAPH not in present else weights.graph if text else 1.0
    return {**{name: weight * (1.0 - graph) for name, weight in text.items()}, GRAPH: graph}


def _ranked(head: str, legs: Mapping[str, _Leg], shares: Mapping[str, float]) -> Ranked:
    found = {name: leg for name, leg in legs.items() if head in leg.raw}
    parts = {name: shares[name] * leg.worth[head] for name, leg in found.items()}
    strongest = max(parts, key=lambda name: -1.0 if name == GRAPH else parts[name])
    return Ranked(
        head=head,
        score=min(sum(parts.values()), 1.0),
        parts=parts,
        raw={name: leg.raw[head] for name, leg in found.items()},
        ranks={name: leg.rank(head) for name, leg in found.items()},
        chunk=chunk_number(found[strongest].best[head]),
    )
