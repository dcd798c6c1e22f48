"""Sparse vectors for BM25: term weights over stems. Pure; the index multiplies in each term's IDF.

A term is the crc32 of a stem, so that no vocabulary is kept or shared. The terms of words seen lately are
remembered, because the same words come again.
"""

from __future__ import annotations

import zlib
from collections import Counter
from datetime import datetime
from functools import lru_cache
from itertools import chain

from engram_contracts.facts import SparseVector
from engram_embedder.stems import Stems, words

K1 = 0.9
B = 0.4
AVERAGE_TERMS = 24
"""Length of an ordinary memory; a constant, so that a weight never depends on what else is stored."""

WORDS_REMEMBERED = 20_000
LONGEST_REMEMBERED = 24
"""Longer pieces are sentences of unspaced scripts or no words at all, and do not come again."""

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class SparseEncoder:
    """Turns texts into sparse vectors of stems, those of `stems` unless a language is named.

    Not for several threads at once.
    """

    def __init__(self, stems: Stems) -> None:
        self._usual = _Terms(stems)
        self._terms: dict[str, _Terms] = {}

    def document(
        self,
        content: str,
        *,
        speaker: str | None = None,
        occurred_at: datetime | None = None,
        language: str | None = None,
    ) -> SparseVector:
        """A memory's BM25 weights: of its content, who said it, and the words of the day it happened."""
        day = date_words(occurred_at) if occurred_at else ""
        counts = self._count(f"{content}\n{speaker or ''}\n{day}", language)
        indices = sorted(counts)
        length = sum(counts.values())
        weights = {frequency: _weight(frequency, length) for frequency in set(counts.values())}
        values = tuple([weights[counts[term]] for term in indices])
        return SparseVector.trusted({"indices": tuple(indices), "values": values})

    def query(self, text: str, language: str | None = None) -> SparseVector:
        """A query's terms, each with weight 1."""
        indices = tuple(sorted(self._count(text, language)))
        return SparseVector(indices=indices, values=(1.0,) * len(indices))

    def _count(self, text: str, language: str | None) -> dict[int, int]:
        terms = self._usual if language is None else self._of(language)
        return Counter(chain.from_iterable(map(terms.__getitem__, words(text))))

    def _of(self, language: str) -> _Terms:
        if language not in self._terms:
            self._terms[language] = _Terms(Stems(language))
        return self._terms[language]


def date_words(moment: datetime) -> str:
    """A day in the words people use for it, for example `7 May 2023 Sunday`."""
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year} {WEEKDAYS[moment.weekday()]}"


class _Terms(dict[str, tuple[int, ...]]):
    """The terms of words, worked out when first asked for; emptied when full."""

    def __init__(self, stems: Stems) -> None:
        self._stems = stems

    def __missing__(self, word: str) -> tuple[int, ...]:
        terms = tuple(zlib.crc32(stem.encode()) for stem in self._stems.of(word))
        if len(word) <= LONGEST_REMEMBERED:
            if len(self) >= WORDS_REMEMBERED:
                self.clear()
            self[word] = terms
        return terms


@lru_cache(maxsize=10_000)
def _weight(frequency: int, length: int) -> float:
    """`tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average))`, Robertson and Zaragoza 2009, without the IDF."""
    saturation = K1 * (1 - B + B * length / AVERAGE_TERMS)
    return round(frequency * (K1 + 1) / (frequency + saturation), 4)
