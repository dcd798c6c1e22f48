"""Not the same thing twice: greedy maximal marginal relevance over the words of texts. Pure.

Carbonell and Goldstein 1998, with the overlap of words for likeness, which costs no vectors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import replace

from engram_vectors.ranking import Ranked

WORD = re.compile(r"\w+")
DIVERSITY = "diversity"


def varied(ranked: Sequence[Ranked], texts: Sequence[str], diversity: float, limit: int) -> list[Ranked]:
    """The `limit` best, each score less its share for being like a better one.

    `texts` are the memories' in the same order. With a `diversity` of 1 a repeat of a better text is worth 0. What was
    taken off is a part of the score, so that the parts still add up.
    """
    bags = [frozenset(WORD.findall(text.casefold())) for text in texts]
    likeness = [0.0] * len(ranked)
    left, chosen = set(range(len(ranked))), list[Ranked]()
    while left and len(chosen) < limit:
        best = max(left, key=lambda n: (ranked[n].score * (1 - diversity * likeness[n]), -n))
        left.remove(best)
        chosen.append(_less(ranked[best], diversity * likeness[best]))
        for n in left:
            likeness[n] = max(likeness[n], overlap(bags[n], bags[best]))
    return chosen


def overlap(one: Set[str], other: Set[str]) -> float:
    """The share of their words that two texts have in common (Jaccard); texts without words have nothing."""
    return len(one & other) / len(one | other) if one and other else 0.0


def _less(ranked: Ranked, share: float) -> Ranked:
    off = ranked.score * share
    if not off:
        return ranked
    return replace(ranked, score=ranked.score - off, parts={**ranked.parts, DIVERSITY: -off})
