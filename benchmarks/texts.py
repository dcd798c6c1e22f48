"""Texts of the kind that people and agents remember, as many as are wanted, the same for the same seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

from benchmarks import locomo

NAMES = ("Ann", "Ben", "Chiara", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Liam")
PLACES = ("Lisbon", "the office", "Berlin", "Kyoto", "the lake house", "Nairobi", "the clinic", "Oslo", "Boston")
THINGS = (
    "the quarterly report", "a climbing class", "the new billing service", "an old guitar", "the vaccination",
    "a surprise party", "the staging cluster", "her thesis", "a used bicycle", "the garden fence", "the visa papers",
)  # fmt: skip
DEEDS = (
    "finally finished", "is worried about", "asked me to help with", "cancelled", "wants to postpone",
    "was really happy with", "complained about", "promised to look at", "forgot about", "talked for an hour about",
)  # fmt: skip
TIMES = ("last weekend", "on Tuesday", "in March", "this morning", "two years ago", "right before the holidays")
AFTER = (
    "We should talk about it again soon.", "It took longer than anyone thought.", "I said I would call back.",
    "The cheaper option was sold out.", "There were no questions.", "The weather did not help.",
)  # fmt: skip
ASKS = ("What did {} say about {}?", "When did {} deal with {}?", "Who helped {} with {}?", "Why did {} mention {}?")


class Texts:
    """A supply of distinct texts and of questions about them: from conversations where there are any, else made up."""

    def __init__(self, conversations: Path | None, *, seed: int = 7) -> None:
        self._random = random.Random(seed)
        talks = locomo.load(conversations) if conversations else []
        self.source = "LoCoMo" if talks else "built-in generator"
        said = [memory["content"] for talk in talks for memory in talk.memories]
        self._sentences = [sentence for text in said for sentence in _sentences(text)]
        self._questions = [asked.question for talk in talks for asked in talk.questions]
        self._asked = self._unasked()

    def texts(self, count: int) -> list[str]:
        """So many texts of one to three sentences, none twice."""
        distinct: dict[str, None] = {}
        for text in self._endless():
            if len(distinct) == count:
                break
            distinct[text] = None
        return list(distinct)

    def questions(self, many: int) -> list[str]:
        """So many questions that were never asked before: what was answered lately would cost nothing."""
        return list(islice(self._asked, many))

    def _unasked(self) -> Iterator[str]:
        questions = list(dict.fromkeys(self._questions or [self._question() for _ in range(2_000)]))
        self._random.shuffle(questions)
        yield from questions
        for turn in count(2):
            yield from (f"{question} ({turn})" for question in questions)

    def _endless(self) -> Iterator[str]:
        while True:
            yield " ".join(self._sentence() for _ in range(self._random.randint(1, 3)))

    def _sentence(self) -> str:
        if self._sentences:
            return self._random.choice(self._sentences)
        parts = [self._random.choice(some) for some in (NAMES, DEEDS, THINGS)]
        where = f"in {self._random.choice(PLACES)} {self._random.choice(TIMES)}"
        return f"{' '.join(parts)} {where}. {self._random.choice(AFTER)}"

    def _question(self) -> str:
        return self._random.choice(ASKS).format(self._random.choice(NAMES), self._random.choice(THINGS))


def _sentences(text: str) -> Sequence[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+", text) if len(part) > 12]
