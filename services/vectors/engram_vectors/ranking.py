"""From candidates to an order: pure, explained, and the same for the same input.

Each leg's scores are folded to memories (the best chunk counts) and counted from the leg's floor: for sparse 0, for
dense and graph the weakest candidate and 0. Turns of a conversation lend a share of theirs to their neighbours, an
answer takes more from the question before it. What is highest in a leg is worth 1; legs are weighed by their
shares, boosts come on top, and the whole is divided by the most there could be, so that a score lies in 0..1. A leg
that found nothing gives its share to the others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

from engram_vectors.looks import Look
from engram_vectors.points import chunk_number, first_of
from engram_vectors.ports import Candidates, Scored

DENSE, SPARSE, GRAPH, NEIGHBOURS, WALK = "dense", "sparse", "graph", "neighbours", "walk"

LENT = ((-2, 0.3), (-1, 0.3), (1, 0.3))
"""What a turn takes of its neighbours' scores, by their place before or after it."""
ANSWERED = 0.4
"""What it takes besides of the turn before it, where another speaker asks something there."""
RRF_K = 60
"""Cormack, Clarke and Buettcher 2009."""
DAY = 86_400 * 1_000_000
WALKED_SHARE = 0.99
"""What the walk through the graph decides; the rest breaks its ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each piece counts for; see `RecallWeights` for what they are. Version 2."""

    version: int = 2
    dense: float = 0.45
    fusion: Literal["min-max", "rrf"] = "min-max"
    neighbours: float = 1.0
    speaker: float = 0.35
    statement: float = 0.12
    date: float = 0.05
    graph: float = 0.0
    recency: float = 0.0
    importance: float = 0.0
    confidence: float = 0.0
    half_life_days: float = 30.0
    first_person: bool = True
    diversity: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the query says besides its words: speakers it names (words in lower case), times (microseconds).

    `walked` is where a walk through the graph ended up, by first point; where there is any, it decides the order.
    """

    speakers: frozenset[str] = frozenset()
    times: tuple[tuple[int, int], ...] = ()
    now: int = 0
    walked: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A memory, by its first point, with where its score (the sum of `parts`) comes from; `chunk` matched best."""

    head: str
    score: float
    parts: dict[str, float]
    raw: dict[str, float]
    normalised: dict[str, float]
    ranks: dict[str, int]
    chunk: int


class _Worth(NamedTuple):
    own: float
    lent: float


@dataclass(frozen=True, slots=True)
class _Leg:
    """One leg's view of the memories: raw scores, what they are worth from 0 to 1, and the best points."""

    raw: dict[str, float]
    worth: dict[str, _Worth]
    best: dict[str, str]

    def rank(self, head: str) -> int:
        """How a memory did in this leg: one more than the number of better ones."""
        ascending = sorted(self.raw.values())
        return 1 + len(ascending) - bisect_right(ascending, self.raw[head])


def rank(
    found: Candidates,
    activations: Mapping[str, float],
    weights: Weights,
    limit: int,
    hints: Hints = Hints(),  # frozen
) -> list[Ranked]:
    """The best memories, highest score first, equal scores by id. `activations` is the graph's, by first point."""
    return Ranking(found, activations, weights, hints).best(limit)


class Ranking:
    """All candidates of one recall, weighed."""

    def __init__(self, found: Candidates, activations: Mapping[str, float], weights: Weights, hints: Hints) -> None:
        self._looks = found.looks
        self._weights = weights
        self._hints = hints
        lenders = _lenders(found.looks, weights.neighbours) if weights.neighbours else {}
        self._legs = {
            DENSE: _leg(found.dense, -inf, lenders, weights),
            SPARSE: _leg(found.sparse, 0.0, lenders, weights),
            GRAPH: _leg(list(activations.items()), 0.0, {}, weights),
        }
        self._shares = _shares({name for name, leg in self._legs.items() if leg.raw}, weights)
        self._boosts = tuple(_boosts(weights, hints, found.looks.values()))
        self._most = 1.0 + sum(weight for _, weight in self._boosts)
        self._furthest = max(hints.walked.values(), default=0.0)

    def best(self, limit: int) -> list[Ranked]:
        """The first `limit`."""
        scores = {head: self._score(head) for head in self._heads()}
        best = sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))[:limit]
        return [self._ranked(head) for head, _ in best]

    def _heads(self) -> set[str]:
        heads: set[str] = set(self._hints.walked)
        for name, leg in self._legs.items():
            if self._shares.get(name):
                heads.update(leg.worth)
        return heads

    def _score(self, head: str) -> float:
        score = 0.0
        for name, share in self._shares.items():
            worth = self._legs[name].worth.get(head)
            if worth is not None:
                score += share * (worth.own + worth.lent)
        look = self._looks.get(head)
        if look is not None:
            score += sum(weight * self._fits(name, look) for name, weight in self._boosts)
        score /= self._most
        if self._furthest:
            walked = self._hints.walked.get(head, 0.0) / self._furthest
            score = WALKED_SHARE * walked + (1 - WALKED_SHARE) * score
        return score

    def _fits(self, boost: str, look: Look) -> float:
        """How far a boost applies, from 0 to 1."""
        match boost:
            case "speaker":
                return float(not self._hints.speakers.isdisjoint(look.speaker.split()))
            case "statement":
                return float(not look.asks)
            case "date":
                return float(any(start <= look.at < end for start, end in self._hints.times))
            case "recency":
                age = max(self._hints.now - look.at, 0) / DAY
                return float(0.5 ** min(age / self._weights.half_life_days, 1_000.0))
            case "importance":
                return look.importance
        return look.confidence

    def _parts(self, head: str) -> dict[str, float]:
        parts: dict[str, float] = {}
        lent = 0.0
        for name, leg in self._legs.items():
            share = self._shares.get(name, 0.0)
            worth = leg.worth.get(head)
            if worth is not None and share:
                lent += share * worth.lent
                if head in leg.raw:
                    parts[name] = share * worth.own
        look = self._looks.get(head)
        boosts = {name: weight * self._fits(name, look) for name, weight in self._boosts} if look else {}
        parts |= {name: part for name, part in {NEIGHBOURS: lent, **boosts}.items() if part}
        scale = (1 - WALKED_SHARE if self._furthest else 1.0) / self._most
        parts = {name: scale * part for name, part in parts.items()}
        if self._furthest and head in self._hints.walked:
            parts[WALK] = WALKED_SHARE * self._hints.walked[head] / self._furthest
        return parts

    def _ranked(self, head: str) -> Ranked:
        legs = {name: leg for name, leg in self._legs.items() if head in leg.raw}
        parts = self._parts(head)
        texts = [name for name in (DENSE, SPARSE) if name in legs]
        strongest = max(texts, key=lambda name: parts.get(name, 0.0), default=None)
        return Ranked(
            head=head,
            score=sum(parts.values()),
            parts=parts,
            raw={name: leg.raw[head] for name, leg in legs.items()},
            normalised={name: leg.worth[head].own for name, leg in legs.items()},
            ranks={name: leg.rank(head) for name, leg in legs.items()},
            chunk=chunk_number(legs[strongest].best[head]) if strongest else 0,
        )


def _lenders(looks: Mapping[str, Look], scale: float) -> dict[str, list[tuple[str, float]]]:
    """Who takes how much of whom: turns of one conversation, by their places in it."""
    at = {look.place: head for head, look in looks.items() if look.place and look.speaker}
    lenders: dict[str, list[tuple[str, float]]] = {}
    for place, head in at.items():
        from_whom = [(other, scale * share) for step, share in LENT if (other := at.get(place + step)) is not None]
        before = at.get(place - 1)
        if before is not None and looks[before].inquires and looks[before].speaker != looks[head].speaker:
            from_whom.append((before, scale * ANSWERED))
        if from_whom:
            lenders[head] = from_whom
    return lenders


def _leg(
    found: Sequence[Scored], floor: float, lenders: Mapping[str, Sequence[tuple[str, float]]], weights: Weights
) -> _Leg:
    raw: dict[str, float] = {}
    best: dict[str, str] = {}
    for point, score in found:
        head = first_of(point)
        if score > raw.get(head, -inf):
            raw[head], best[head] = score, point
    if not raw:
        return _Leg(raw, {}, best)
    if weights.fusion == "rrf":
        return _Leg(raw, dict(_by_rank(raw)), best)
    lowest = min(raw.values())
    floor = lowest if floor == -inf else min(floor, lowest)
    return _Leg(raw, _from_floor(raw, floor, lenders), best)


def _from_floor(
    raw: Mapping[str, float], floor: float, lenders: Mapping[str, Sequence[tuple[str, float]]]
) -> dict[str, _Worth]:
    own = {head: score - floor for head, score in raw.items()}
    lent = {
        head: sum(share * own[other] for other, share in from_whom if other in own)
        for head, from_whom in lenders.items()
    }
    heads = own.keys() | {head for head, amount in lent.items() if amount}
    high = max(own.get(head, 0.0) + lent.get(head, 0.0) for head in heads)
    if high <= 0:
        return dict.fromkeys(raw, _Worth(1.0, 0.0))
    return {head: _Worth(own.get(head, 0.0) / high, lent.get(head, 0.0) / high) for head in heads}


def _by_rank(raw: Mapping[str, float]) -> Iterator[tuple[str, _Worth]]:
    best_first = sorted(raw, key=lambda head: (-raw[head], head))
    for place, head in enumerate(best_first, 1):
        yield head, _Worth((RRF_K + 1) / (RRF_K + place), 0.0)


def _shares(present: set[str], weights: Weights) -> dict[str, float]:
    text = {DENSE: weights.dense, SPARSE: 1.0 - weights.dense}
    text = {name: weight for name, weight in text.items() if name in present}
    if len(text) == 1:
        text = dict.fromkeys(text, 1.0)
    graph = 0.0 if GRAPH not in present else weights.graph if text else 1.0
    shares = {**{name: weight * (1.0 - graph) for name, weight in text.items()}, GRAPH: graph}
    return {name: share for name, share in shares.items() if share}


def _boosts(weights: Weights, hints: Hints, looks: Iterable[Look]) -> Iterator[tuple[str, float]]:
    """The boosts that can tell these candidates apart, with their weights."""
    if hints.speakers and weights.speaker:
        yield "speaker", weights.speaker
    if weights.statement and any(look.asks for look in looks):
        yield "statement", weights.statement
    if hints.times and weights.date:
        yield "date", weights.date
    for name in ("recency", "importance", "confidence"):
        if weight := getattr(weights, name):
            yield name, weight
