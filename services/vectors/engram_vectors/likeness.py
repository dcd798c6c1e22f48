"""Whether a result has anything to do with the query at all, so that what nobody knows finds nothing. Pure."""

from __future__ import annotations

from collections.abc import Set

from engram_vectors.ranking import DENSE, Ranked
from engram_vectors.variety import WORD

SHORTEST = 4
"""Letters of a word that may tell memories apart."""

COMMON = frozenset(
    """
    about after again also always anything been before being both cannot come could does doing done down each else even
    ever every find from give going good have here into just kind know last like look made make many maybe more most
    much must need never next nothing only other over please really remember right said same says shall should show some
    something such sure take tell than thank that their them then there these they thing things think this those through
    time today under until upon used very want well went were what when where which while will with without would your
    """.split()  # noqa: SIM905  # a page of words reads better than a page of quotes
)
"""Words of a question that are in memories of anything."""


def rare_words(query: str) -> frozenset[str]:
    """The names (not at the beginning) and numbers of a query; where there are none, its words that are not common."""
    words = WORD.findall(query)
    telling = [word for n, word in enumerate(words) if (n and word[0].isupper() and len(word) > 1) or word.isdecimal()]
    longer = [word for word in words if len(word) >= SHORTEST]
    return frozenset(word.casefold() for word in telling or longer) - COMMON


def is_like(found: Ranked, text: str, least: float, rare: Set[str]) -> bool:
    """Whether its dense vector is that much like the query's, or its text holds one of the rare words."""
    return found.raw.get(DENSE, -1.0) >= least or not rare.isdisjoint(WORD.findall(text.casefold()))
