"""From candidates to an order: pure, explained, and the same for the same input.

Each leg's scores are folded to memories (the best chunk counts) and counted from the leg's floor: for sparse 0, for
dense and graph the weakest candidate and 0. Turns of a conversation lend a share of theirs to their neighbours, an
answer takes more from the question before it. What is highest in a leg is worth 1; legs are weighed by their
shares, boosts come on top, and the whole is divided by the most there could be, so that a score lies in 0..1. A leg
that found nothing gives its share to the others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

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
    """What each piece counts for; see `RecallWeights` for what they are. Version 3.

    `verbatim` is what a memory gains that says the query word for word: more than all that others can gain.
    """

    version: int = 3
    verbatim: float = 3.0
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

    `words` is the fingerprint of the whole query. `walked` is where a walk through the graph ended up, by first point;
    where there is any, it decides the order.
    """

    speakers: frozenset[str] = frozenset()
    times: tuple[tuple[int, int], ...] = ()
    words: int = 0
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


@dataclass(slots=True)
class _Leg:
    """One leg's view of the memories: raw scores and the best points, and what they are worth from 0 to 1.

    `own` is the worth of a memory's own score, `lent` what its neighbours add.
    """

    raw: dict[str, float]
    best: dict[str, str]
    own: dict[str, float] = field(default_factory=dict)
    lent: dict[str, float] = field(default_factory=dict)
    ascending: list[float] = field(default_factory=list)

    def rank(self, head: str) -> int:
        """How a memory did in this leg: one more than the number of better ones."""
        if not self.ascending:
            self.ascending = sorted(self.raw.values())
        return 1 + len(self.ascending) - bisect_right(self.ascending, self.raw[head])


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
    """All candidates of one recall, weighed. Every one of them passes here on every recall: plain loops, no objects."""

    def __init__(self, found: Candidates, activations: Mapping[str, float], weights: Weights, hints: Hints) -> None:
        self._looks = found.looks
        self._weights = weights
        self._hints = hints
        lenders: Lenders = _lenders(found.looks, weights.neighbours) if weights.neighbours else ()
        self._legs = {
            DENSE: _leg(found.dense, -inf, lenders, weights),
            SPARSE: _leg(found.sparse, 0.0, lenders, weights),
            GRAPH: _leg(list(activations.items()), 0.0, (), weights),
        }
        self._shares = _shares({name for name, leg in self._legs.items() if leg.raw}, weights)
        self._boosts = {name: weight for name, weight in self._offered() if weight}
        self._most = 1.0 + sum(self._boosts.values())
        self._furthest = max(hints.walked.values(), default=0.0)

    def best(self, limit: int) -> list[Ranked]:
        """The first `limit`."""
        scores = self._scores()
        best = sorted(scores, key=lambda head: (-scores[head], head))[:limit]
        return [self._ranked(head) for head in best]

    def _offered(self) -> Iterator[tuple[str, float]]:
        """The boosts that can tell these candidates apart, with their weights."""
        weights = self._weights
        said = any(look.words == self._hints.words for look in self._looks.values()) if self._hints.words else False
        yield "verbatim", weights.verbatim if said else 0.0
        yield "speaker", weights.speaker if self._hints.speakers else 0.0
        yield "statement", weights.statement if any(look.asks for look in self._looks.values()) else 0.0
        yield "date", weights.date if self._hints.times else 0.0
        yield from (("recency", weights.recency), ("importance", weights.importance))
        yield "confidence", weights.confidence

    def _scores(self) -> dict[str, float]:
        scores = dict.fromkeys(self._hints.walked, 0.0)
        for name, share in self._shares.items():
            leg = self._legs[name]
            for worth in (leg.own, leg.lent):
                for head, each in worth.items():
                    scores[head] = scores.get(head, 0.0) + share * each
        boosts, looks = self._boosts, self._looks
        for head in scores if boosts else ():
            if head in looks:
                for name, fit in self._fits(looks[head]):
                    scores[head] += boosts[name] * fit
        if not self._furthest:
            return {head: score / self._most for head, score in scores.items()}
        return {head: self._walked(head) + (1 - WALKED_SHARE) * score / self._most for head, score in scores.items()}

    def _walked(self, head: str) -> float:
        return WALKED_SHARE * self._hints.walked.get(head, 0.0) / self._furthest

    def _fits(self, look: Look) -> list[tuple[str, float]]:
        """How far each boost applies, from 0 to 1; those that do not are left out."""
        boosts, hints = self._boosts, self._hints
        fits: list[tuple[str, float]] = []
        if "verbatim" in boosts and look.words == hints.words:
            fits.append(("verbatim", 1.0))
        if "speaker" in boosts and not hints.speakers.isdisjoint(look.speaker.split()):
            fits.append(("speaker", 1.0))
        if "statement" in boosts and not look.asks:
            fits.append(("statement", 1.0))
        if "date" in boosts and any(start <= look.at < end for start, end in hints.times):
            fits.append(("date", 1.0))
        if "recency" in boosts:
            age = max(hints.now - look.at, 0) / DAY
            fits.append(("recency", float(0.5 ** min(age / self._weights.half_life_days, 1_000.0))))
        if "importance" in boosts:
            fits.append(("importance", look.importance))
        if "confidence" in boosts:
            fits.append(("confidence", look.confidence))
        return fits

    def _parts(self, head: str) -> dict[str, float]:
        scale = (1 - WALKED_SHARE if self._furthest else 1.0) / self._most
        legs = {name: (scale * share, self._legs[name]) for name, share in self._shares.items()}
        parts = {name: share * leg.own[head] for name, (share, leg) in legs.items() if head in leg.own}
        lent = sum(share * leg.lent.get(head, 0.0) for share, leg in legs.values())
        if lent:
            parts[NEIGHBOURS] = lent
        if look := self._looks.get(head):
            parts |= {name: scale * self._boosts[name] * fit for name, fit in self._fits(look)}
        if head in self._hints.walked:
            parts[WALK] = self._walked(head)
        return parts

    def _ranked(self, head: str) -> Ranked:
        legs = {name: leg for name, leg in self._legs.items() if head in leg.raw}
        parts = self._parts(head)
        texts = [name for name in (DENSE, SPARSE) if name in legs]
        strongest = max(texts, key=lambda name: parts.get(name, 0.0), default=None)
        return Ranked(
            head=head,
            score=min(sum(parts.values()), 1.0),
            parts=parts,
            raw={name: leg.raw[head] for name, leg in legs.items()},
            normalised={name: leg.own[head] for name, leg in legs.items()},
            ranks={name: leg.rank(head) for name, leg in legs.items()},
            chunk=chunk_number(legs[strongest].best[head]) if strongest else 0,
        )


Lenders = Sequence[tuple[str, str, float]]
"""Who takes of whom, and how much."""


def _lenders(looks: Mapping[str, Look], scale: float) -> Lenders:
    """Turns of one conversation that stand beside each other, by their places in it."""
    at = {look.place: (head, look) for head, look in looks.items() if look.place and look.speaker}
    lenders: list[tuple[str, str, float]] = []
    for place, (head, look) in at.items():
        for step, share in LENT:
            other = at.get(place + step)
            if other is not None:
                answers = step == -1 and other[1].inquires and other[1].speaker != look.speaker
                lenders.append((head, other[0], scale * (share + ANSWERED if answers else share)))
    return lenders


def _leg(found: Sequence[Scored], floor: float, lenders: Lenders, weights: Weights) -> _Leg:
    raw: dict[str, float] = {}
    best: dict[str, str] = {}
    for point, score in found:
        head = first_of(point)
        if score > raw.get(head, -inf):
            raw[head], best[head] = score, point
    leg = _Leg(raw, best)
    if raw and weights.fusion == "rrf":
        leg.own = _by_rank(raw)
    elif raw:
        lowest = min(raw.values())
        _from_floor(leg, lowest if floor == -inf else min(floor, lowest), lenders)
    return leg


def _from_floor(leg: _Leg, floor: float, lenders: Lenders) -> None:
    own = {head: score - floor for head, score in leg.raw.items()}
    total, lent = dict(own), dict[str, float]()
    for taker, giver, share in lenders:
        if amount := share * own.get(giver, 0.0):
            lent[taker] = lent.get(taker, 0.0) + amount
            total[taker] = total.get(taker, 0.0) + amount
    high = max(total.values())
    if high <= 0:
        leg.own = dict.fromkeys(own, 1.0)
        return
    leg.own = {head: score / high for head, score in own.items()}
    leg.lent = {head: amount / high for head, amount in lent.items()}


def _by_rank(raw: Mapping[str, float]) -> dict[str, float]:
    best_first = sorted(raw, key=lambda head: (-raw[head], head))
    return {head: (RRF_K + 1) / (RRF_K + place) for place, head in enumerate(best_first, 1)}


def _shares(present: set[str], weights: Weights) -> dict[str, float]:
    text = {DENSE: weights.dense, SPARSE: 1.0 - weights.dense}
    text = {name: weight for name, weight in text.items() if name in present}
    if len(text) == 1:
        text = dict.fromkeys(text, 1.0)
    graph = 0.0 if GRAPH not in present else weights.graph if text else 1.0
    shares = {**{name: weight * (1.0 - graph) for name, weight in text.items()}, GRAPH: graph}
    return {name: share for name, share in shares.items() if share}
