"""From candidates to an order: pure, explained, and the same for the same input.

Each leg's scores are folded to memories (the best chunk counts) and counted from the leg's floor: for sparse 0, for
dense and graph the weakest candidate and 0. Turns of a conversation lend a share of theirs to their neighbours, an
answer takes more from the question before it. What is highest in a leg is worth 1; legs are weighed by their
shares, boosts come on top, and the whole is divided by the most there could be, so that a score lies in 0..1. A leg
that found nothing gives its share to the others. Feedback comes last, on the whole: praise is one boost more,
blame takes its share of the score away.

Every candidate passes here on every recall, so all of them are weighed at once, in arrays with a row for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engram_vectors.looks import Look
from engram_vectors.points import FIRST, PointId, chunk_number
from engram_vectors.ports import Candidates, Scored
from engram_vectors.weights import Weights

DENSE, SPARSE, GRAPH, NEIGHBOURS, WALK, FEEDBACK = "dense", "sparse", "graph", "neighbours", "walk", "feedback"

LENT = ((-2, 0.3), (-1, 0.3), (1, 0.3), (2, 0.2))
"""What a turn takes of its neighbours' scores, by their place before or after it."""
ANSWERED = 0.3
"""What it takes besides of the turn before it, where another speaker asks something there."""
RRF_K = 60
"""Cormack, Clarke and Buettcher 2009."""
DAY = 86_400 * 1_000_000
BLAME = 3.0
"""How much more blame weighs than praise; both together never more than the whole score."""
SESSION_SHIFT = 20
"""A place is the session's number times 2**20, plus a count (see `places`)."""
DOUBLINGS = 10.0
"""So many doublings of how often it was recalled speak for a memory as much as can be."""
MOST_DUPLICATES = 20
"""So many memories that say the same are named."""
WALKED_SHARE = 0.99
"""What the walk through the graph decides; the rest breaks its ties."""


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
    walked: Mapping[PointId, float] = field(default_factory=dict)


Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]
Folded = Mapping[PointId, tuple[float, PointId]]
"""The best score of each memory that a leg found, and the point that has it."""
MISSED = (-inf, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A memory, by its first point, with where its score (the sum of `parts`) comes from; `chunk` matched best.

    `same` are memories of the same words and speaker that it stands for, best first.
    """

    head: PointId
    score: float
    parts: dict[str, float]
    raw: dict[str, float]
    normalised: dict[str, float]
    ranks: dict[str, int]
    chunk: int
    same: tuple[PointId, ...] = ()


def rank(
    found: Candidates,
    activations: Mapping[PointId, float],
    weights: Weights,
    limit: int,
    hints: Hints = Hints(),  # frozen
    *,
    with_ranks: bool = True,
    fold: bool = False,
) -> list[Ranked]:
    """The best memories, highest score first, equal scores by id. `activations` is the graph's, by first point.

    Without ranks, `ranks` stay empty, which is cheaper. With `fold`, memories of the same words and speaker come once.
    """
    return Ranking(found, activations, weights, hints).best(limit, with_ranks=with_ranks, fold=fold)


class _Columns(NamedTuple):
    """The looks of all candidates; a row that was not `seen` has none."""

    place: NDArray[np.int64]
    at: NDArray[np.int64]
    asks: Flags
    inquires: Flags
    importance: Floats
    confidence: Floats
    words: NDArray[np.int64]
    speaker: NDArray[np.intp]
    feedback: Floats
    accesses: Floats
    seen: Flags
    speakers: list[str]
    """Their names, by their number in `speaker`."""


@dataclass(slots=True)
class _Leg:
    """One leg's view of the candidates: raw scores of those it `found`, and what they are worth from 0 to 1.

    `own` is the worth of a memory's own score, `lent` what its neighbours add.
    """

    best: Folded
    raw: Floats
    found: Flags
    own: Floats
    lent: Floats

    def rank(self, row: int) -> int:
        """How a memory did in this leg: one more than the number of better ones."""
        return 1 + int(np.count_nonzero(self.raw > self.raw[row]))


class Ranking:
    """All candidates of one recall, weighed; a row each, in the order of their ids."""

    def __init__(self, found: Candidates, activations: Mapping[PointId, float], weights: Weights, hints: Hints) -> None:
        dense, sparse = _folded(found.dense), _folded(found.sparse)
        graph = {head: (score, head) for head, score in activations.items()}
        self._heads = sorted({*dense, *sparse, *graph, *found.looks, *hints.walked})
        self._columns = _columns([found.looks.get(head) for head in self._heads])
        self._weights = weights
        self._hints = hints
        lenders = _lenders(self._columns, weights.neighbours) if weights.neighbours else NO_LENDERS
        legs = ((DENSE, dense, -inf, lenders), (SPARSE, sparse, 0.0, lenders), (GRAPH, graph, 0.0, NO_LENDERS))
        self._legs = {
            name: _leg(best, self._heads, floor, lending, weights) for name, best, floor, lending in legs if best
        }
        self._shares = _shares(self._legs.keys(), weights)
        self._boosts = dict(self._offered())
        self._most = 1.0 + sum(weight for weight, _ in self._boosts.values())
        self._furthest = max(hints.walked.values(), default=0.0)
        self._praise = weights.feedback if (self._columns.feedback > 0).any() else 0.0
        self._blame = min(BLAME * weights.feedback, 1.0)

    def best(self, limit: int, *, with_ranks: bool, fold: bool) -> list[Ranked]:
        """The first `limit`."""
        scores, present = self._scores()
        order = np.argsort(np.where(present, -scores, inf), kind="stable")[: np.count_nonzero(present)]
        rows = self._folded(order, limit) if fold else {int(row): () for row in order[:limit]}
        return [self._ranked(row, same, with_ranks=with_ranks) for row, same in rows.items()]

    def _folded(self, order: Rows, limit: int) -> dict[int, tuple[PointId, ...]]:
        """The first `limit` rows that say something of their own, each with those that say the same after it."""
        words = self._columns.words[order].tolist()
        if len(set(words)) == len(words):
            return dict.fromkeys(order[:limit].tolist(), ())
        speakers = self._columns.speaker[order].tolist()
        said = [
            (word, speaker) if word else (0, -row) for row, word, speaker in zip(order, words, speakers, strict=True)
        ]
        first: dict[tuple[int, int], int] = {}
        same: dict[int, list[PointId]] = {}
        for row, key in zip(order.tolist(), said, strict=True):
            better = first.setdefault(key, row)
            if better != row:
                same.setdefault(better, []).append(self._heads[row])
        return {row: tuple(same.get(row, ())[:MOST_DUPLICATES]) for row in islice(first.values(), limit)}

    def _offered(self) -> Iterator[tuple[str, tuple[float, Floats]]]:
        """The boosts that can tell these candidates apart, each with its weight and how far it fits, from 0 to 1."""
        weights, hints, columns = self._weights, self._hints, self._columns
        seen = columns.seen
        if hints.words and (said := seen & (columns.words == hints.words)).any():
            yield "verbatim", (weights.verbatim, said.astype(float))
        if weights.speaker and hints.speakers:
            named = [not hints.speakers.isdisjoint(name.split()) for name in columns.speakers]
            yield "speaker", (weights.speaker, seen * np.array(named, float)[columns.speaker])
        if weights.statement and (seen & columns.asks).any():
            yield "statement", (weights.statement, (seen & ~columns.asks).astype(float))
        if weights.date and hints.times:
            meant = [(start <= columns.at) & (columns.at < end) for start, end in hints.times]
            yield "date", (weights.date, (seen & np.logical_or.reduce(meant)).astype(float))
        if weights.recency:
            ages = np.maximum(hints.now - columns.at, 0) / DAY
            yield "recency", (weights.recency, seen * 0.5 ** np.minimum(ages / weights.half_life_days, 1_000.0))
        if weights.importance:
            yield "importance", (weights.importance, seen * columns.importance)
        if weights.confidence:
            yield "confidence", (weights.confidence, seen * columns.confidence)
        if weights.access and (columns.accesses > 0).any():
            yield "access", (weights.access, np.minimum(np.log2(1.0 + columns.accesses) / DOUBLINGS, 1.0))
        if weights.session and (company := self._company()).any():
            yield "session", (weights.session, company)

    def _company(self) -> Floats:
        """How well the others of a memory's session did: the sum of what they are worth, 1 for the best session."""
        sessions, of = np.unique(self._columns.place >> SESSION_SHIFT, return_inverse=True)
        worth = sum((share * self._legs[name].own for name, share in self._shares.items()), np.zeros(len(of)))
        others = np.bincount(of, weights=worth, minlength=len(sessions))[of] - worth
        others[self._columns.place == 0] = 0.0
        most = float(others.max(initial=0.0))
        return others / most if most > 0 else others

    def _scores(self) -> tuple[Floats, Flags]:
        """The score of every row, and which rows are in the running: found, lent to or walked to."""
        scores, present = self._unjudged()
        judged = self._columns.feedback
        praised = (scores + self._praise * np.maximum(judged, 0.0)) / (1.0 + self._praise)
        return praised * (1.0 - self._blame * np.maximum(-judged, 0.0)), present

    def _unjudged(self) -> tuple[Floats, Flags]:
        """The same without feedback."""
        scores = np.zeros(len(self._heads))
        present = np.zeros(len(self._heads), bool)
        for name, share in self._shares.items():
            leg = self._legs[name]
            scores += share * (leg.own + leg.lent)
            present |= leg.found | (leg.lent > 0)
        for weight, fit in self._boosts.values():
            scores += weight * fit
        scores /= self._most
        if not self._furthest:
            return scores, present
        walked = np.array([self._hints.walked.get(head, -1.0) for head in self._heads])
        present |= walked >= 0
        return WALKED_SHARE / self._furthest * np.maximum(walked, 0.0) + (1 - WALKED_SHARE) * scores, present

    def _parts(self, row: int) -> dict[str, float]:
        parts = {name: part / (1.0 + self._praise) for name, part in self._unjudged_parts(row).items()}
        judged = float(self._columns.feedback[row])
        if judged > 0 and self._praise:
            parts[FEEDBACK] = self._praise * judged / (1.0 + self._praise)
        elif judged < 0 and self._blame:
            parts[FEEDBACK] = self._blame * judged * sum(parts.values())
        return parts

    def _unjudged_parts(self, row: int) -> dict[str, float]:
        scale = (1 - WALKED_SHARE if self._furthest else 1.0) / self._most
        legs = {name: (scale * share, self._legs[name]) for name, share in self._shares.items()}
        parts = {name: share * float(leg.own[row]) for name, (share, leg) in legs.items() if leg.found[row]}
        lent = sum(share * float(leg.lent[row]) for share, leg in legs.values())
        if lent:
            parts[NEIGHBOURS] = lent
        parts |= {name: scale * weight * float(fit[row]) for name, (weight, fit) in self._boosts.items() if fit[row]}
        if self._heads[row] in self._hints.walked:
            parts[WALK] = WALKED_SHARE * self._hints.walked[self._heads[row]] / self._furthest
        return parts

    def _ranked(self, row: int, same: tuple[PointId, ...], *, with_ranks: bool) -> Ranked:
        legs = {name: leg for name, leg in self._legs.items() if leg.found[row]}
        parts = self._parts(row)
        texts = [name for name in (DENSE, SPARSE) if name in legs]
        strongest = max(texts, key=lambda name: parts.get(name, 0.0), default=None)
        return Ranked(
            head=self._heads[row],
            score=min(sum(parts.values()), 1.0),
            parts=parts,
            raw={name: float(leg.raw[row]) for name, leg in legs.items()},
            normalised={name: float(leg.own[row]) for name, leg in legs.items()},
            ranks={name: leg.rank(row) for name, leg in legs.items()} if with_ranks else {},
            chunk=chunk_number(legs[strongest].best[self._heads[row]][1]) if strongest else 0,
            same=same,
        )


Lenders = tuple[Rows, Rows, Floats]
"""Who takes of whom, and how much."""
NO_LENDERS: Lenders = (np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0))
UNSEEN = Look()


def _columns(looks: Sequence[Look | None]) -> _Columns:
    numbers: dict[str, int] = {}
    place, at, asks, inquires, importance, confidence, words, speaker, feedback, accesses = (
        zip(*(UNSEEN if look is None else look for look in looks), strict=True) if looks else [()] * len(UNSEEN)
    )
    return _Columns(
        np.array(place, np.int64),
        np.array(at, np.int64),
        np.array(asks, bool),
        np.array(inquires, bool),
        np.array(importance, float),
        np.array(confidence, float),
        np.array(words, np.int64),
        np.array([numbers.setdefault(name, len(numbers)) for name in speaker], np.intp),
        np.array(feedback, float),
        np.array(accesses, float),
        np.array([look is not None for look in looks], bool),
        list(numbers),
    )


def _lenders(columns: _Columns, scale: float) -> Lenders:
    """Turns of one conversation that stand beside each other, by their places in it."""
    spoken = np.array([bool(name) for name in columns.speakers], bool)
    turns = np.flatnonzero((columns.place > 0) & spoken[columns.speaker]) if spoken.any() else NO_LENDERS[0]
    if not turns.size:
        return NO_LENDERS
    turns = turns[np.argsort(columns.place[turns], kind="stable")]
    places = columns.place[turns]
    found = [_beside(columns, turns, places, step, share) for step, share in LENT]
    takers, givers, shares = (np.concatenate(each) for each in zip(*found, strict=True))
    return takers, givers, scale * shares


def _beside(columns: _Columns, turns: Rows, places: NDArray[np.int64], step: int, share: float) -> Lenders:
    """Who has somebody `step` places on. `turns` are rows in the order of their `places`."""
    at = np.minimum(np.searchsorted(places, places + step), len(places) - 1)
    there = places[at] == places + step
    takers, givers = turns[there], turns[at[there]]
    if step != -1:
        return takers, givers, np.full(len(takers), share)
    answers = columns.inquires[givers] & (columns.speaker[givers] != columns.speaker[takers])
    return takers, givers, share + ANSWERED * answers


def _folded(found: Sequence[Scored]) -> Folded:
    best: dict[PointId, tuple[float, PointId]] = {}
    for point, score in found:
        head = point & FIRST
        if head not in best or score > best[head][0]:
            best[head] = (score, point)
    return best


def _leg(best: Folded, heads: Sequence[PointId], floor: float, lenders: Lenders, weights: Weights) -> _Leg:
    raw = np.array([best.get(head, MISSED)[0] for head in heads])
    found = raw > -inf
    leg = _Leg(best, raw, found, np.zeros(len(heads)), np.zeros(len(heads)))
    if weights.fusion == "rrf":
        leg.own[found] = _by_rank(raw[found])
    else:
        lowest = float(raw[found].min())
        _from_floor(leg, lowest if floor == -inf else min(floor, lowest), lenders)
    return leg


def _from_floor(leg: _Leg, floor: float, lenders: Lenders) -> None:
    own = np.where(leg.found, leg.raw - floor, 0.0)
    takers, givers, shares = lenders
    lent = np.bincount(takers, weights=shares * own[givers], minlength=len(own))
    high = float((own + lent).max())
    if high <= 0:
        leg.own = leg.found.astype(float)
    else:
        leg.own, leg.lent = own / high, lent / high


def _by_rank(raw: Floats) -> Floats:
    """Reciprocal ranks, the first of which is worth 1; equal scores by id."""
    ranks = np.empty(len(raw))
    ranks[np.argsort(-raw, kind="stable")] = np.arange(1, len(raw) + 1)
    return (RRF_K + 1) / (RRF_K + ranks)


def _shares(present: Set[str], weights: Weights) -> dict[str, float]:
    text = {DENSE: weights.dense, SPARSE: 1.0 - weights.dense}
    text = {name: weight for name, weight in text.items() if name in present}
    if len(text) == 1:
        text = dict.fromkeys(text, 1.0)
    graph = 0.0 if GRAPH not in present else weights.graph if text else 1.0
    shares = {**{name: weight * (1.0 - graph) for name, weight in text.items()}, GRAPH: graph}
    return {name: share for name, share in shares.items() if share}
