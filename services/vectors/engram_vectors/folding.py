"""Results that say nearly the same, folded into the best of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from engram_vectors.points import PointId
from engram_vectors.ranking import MOST_DUPLICATES, Ranked
from engram_vectors.variety import WORD, overlap

NEAR = 0.9
"""The share of their words that two texts have in common (Jaccard) which say nearly the same."""


def folded(ranked: Sequence[Ranked], texts: Sequence[str], limit: int) -> list[Ranked]:
    """The first `limit` results that say something of their own; the others are `same` as the first they are near.

    `texts` are the memories' in the same order, best first.
    """
    bags: list[Set[str]] = []
    groups: list[list[Ranked]] = []
    for each, text in zip(ranked, texts, strict=True):
        bag = frozenset(WORD.findall(text.casefold()))
        place = next((n for n, other in enumerate(bags) if overlap(bag, other) >= NEAR), None)
        if place is not None:
            groups[place].append(each)
        elif len(groups) < limit:
            bags.append(bag)
            groups.append([each])
    return [replace(group[0], same=_behind(group)) for group in groups]


def _behind(group: Sequence[Ranked]) -> tuple[PointId, ...]:
    heads = [head for each in group for head in (each.head, *each.same)]
    return tuple(heads[1 : MOST_DUPLICATES + 1])
