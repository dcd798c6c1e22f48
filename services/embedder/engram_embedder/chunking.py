"""Where a long content is cut for embedding. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MOST = 1_200
OVERLAP = 150

BORDERS = (re.compile(r"\n\s*\n\s*"), re.compile(r"\n+|(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？।؟])"), re.compile(r"\s+"))
"""Ends of paragraphs, of lines and sentences, of words: the first kind that lies in reach is taken."""


class Span(NamedTuple):
    """A stretch of a text, from character `start` to before `end`."""

    start: int
    end: int


def spans(text: str, *, most: int = MOST, overlap: int = OVERLAP) -> list[Span]:
    """Stretches of at most `most` characters that cover the text, in order.

    A text of at most `most` characters is one stretch, an empty one too. Cuts fall on the border of a
    paragraph, else a sentence, else a word, and only inside a word that is itself too long. Neighbours share up
    to `overlap` characters. Raises `ValueError` unless `overlap` is less than half of `most`.
    """
    if overlap * 2 >= most:
        raise ValueError(f"overlap {overlap} must be less than half of {most}")
    return list(_spans(text, most, overlap))


def _spans(text: str, most: int, overlap: int) -> Iterator[Span]:
    start = 0
    while len(text) - start > most:
        end = _cut(text, start + most // 2 + 1, start + most)
        yield Span(start, end)
        start = _resume(text, end - overlap, end)
    yield Span(start, len(text))


def _cut(text: str, low: int, high: int) -> int:
    """The last border from `low` to `high`, of the strongest kind there is; `high` where there is none."""
    for border in BORDERS:
        ends = [match.end() for match in border.finditer(text, low - 1, high) if low <= match.end()]
        if ends:
            return ends[-1]
    return high


def _resume(text: str, low: int, end: int) -> int:
    """The first beginning of a sentence, else of a word, from `low` to `end`; `low` inside of a long word."""
    for border in BORDERS[1:]:
        for match in border.finditer(text, max(low - 1, 0), end):
            if low <= match.end() < end:
                return match.end()
    return end if text[end - 1].isspace() else low
