"""An answer without a model: the passages of recalled memories that cover the question best, cited. Pure.

A sentence scores by the rare terms it shares with the question, by the recall's score of its memory, and by what the
question asks for: a time, a person, a place. What answers often stands behind it, so the next sentence comes along.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from engram_contracts.facts import Citation
from engram_reasoner.context import Source
from engram_reasoner.words import sentences, shortened, terms

Asked = Literal["when", "who", "where"]

MOST_PASSAGES = 4
LONGEST_PASSAGE = 400
COMES_ALONG = 240
"""How long a passage of two sentences may be."""

RECALL_WEIGHT = 0.35
HINT_WEIGHT = 0.25
QUESTION_SHARE = 0.25
"""What a sentence that asks is worth beside one that tells."""

EMPTY_PENALTY = 0.2
WORTH_ADDING = 0.75
"""How close to the best sentence's score another one must come."""

NOTHING = "No memory was recalled for this question, so there is nothing to answer from."
REMOTE = "No recalled memory speaks of this directly; the closest one is:"

_ASKS: tuple[tuple[Asked, re.Pattern[str]], ...] = (
    ("when", re.compile(r"\b(when|how long ago|what (date|day|month|year|time)|which (day|month|year))\b", re.I)),
    ("who", re.compile(r"\b(who|whom|whose|which (person|people))\b", re.I)),
    ("where", re.compile(r"\b(where|(what|which) (city|country|place|town|street|address))\b", re.I)),
)
_TIME = re.compile(
    r"\b(\d{4}|\d{1,2}(st|nd|rd|th)|yesterday|today|tonight|tomorrow|last|next|ago|week(end)?|month|year|morning"
    r"|(mon|tues|wednes|thurs|fri|satur|sun)day|january|february|march|april|may|june|july|august|september|october"
    r"|november|december)\b",
    re.I,
)
_PLACE = re.compile(r"\b(in|at|near|from|to|visit\w*)\s+(the\s+)?[A-Z]")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that might answer, with its memory, its stems, and those of its speaker's name.

    `passage` is the sentence with what comes along.
    """

    source: Source
    sentence: str
    passage: str
    stems: frozenset[str]
    named: frozenset[str]


def compose(question: str, sources: Sequence[Source]) -> tuple[str, tuple[Citation, ...]]:
    """The answer and its citations: one to four passages, each with its mark.

    Without sources it says so; where no memory shares a term with the question, it says that as well.
    """
    if not sources:
        return NOTHING, ()
    asked = asks(question)
    candidates = list(_candidates(sources))
    wanted = _weights(set(terms(question)), sources)
    chosen = _choose(candidates, wanted, asked)
    lines = [_line(candidate, asked) for candidate in chosen]
    if not any(candidate.stems & wanted.keys() for candidate in chosen):
        lines.insert(0, REMOTE)
    return "\n".join(lines), tuple(_citation(candidate) for candidate in chosen)


def asks(question: str) -> Asked | None:
    """Whether a question asks for a time, a person or a place."""
    return next((asked for asked, pattern in _ASKS if pattern.search(question)), None)


def _candidates(sources: Sequence[Source]) -> Iterator[Candidate]:
    for source in sources:
        named = frozenset(terms(source.memory.speaker or ""))
        told = sentences(source.text)
        for sentence, following in zip(told, [*told[1:], ""], strict=True):
            both = f"{sentence} {following}".strip()
            passage = both if len(both) <= COMES_ALONG else sentence
            yield Candidate(source, sentence, passage, frozenset(terms(sentence)), named)


def _weights(wanted: set[str], sources: Sequence[Source]) -> dict[str, float]:
    """How much each term of the question is worth: the rarer among the sources, the more."""
    found: Counter[str] = Counter()
    for source in sources:
        found.update(wanted & {*terms(source.text), *terms(source.memory.speaker or "")})
    return {term: math.log(1 + len(sources) / count) for term, count in found.items()}


def _choose(candidates: Sequence[Candidate], wanted: dict[str, float], asked: Asked | None) -> list[Candidate]:
    """The best sentence, then others that come close to it and say something else."""
    top = max(candidate.source.score for candidate in candidates) or 1.0
    scores = [_score(candidate, wanted, asked, top) for candidate in candidates]
    ranked = sorted(zip(scores, candidates, strict=True), key=lambda pair: -pair[0])
    best, first = ranked[0]
    chosen = [first]
    for score, candidate in ranked[1:]:
        if len(chosen) == MOST_PASSAGES or score < WORTH_ADDING * best or not candidate.stems & wanted.keys():
            break
        if all(_differs(candidate, other) for other in chosen):
            chosen.append(candidate)
    return chosen


def _score(candidate: Candidate, wanted: dict[str, float], asked: Asked | None, top: float) -> float:
    total = sum(wanted.values())
    shared = (candidate.stems | candidate.named) & wanted.keys()
    covered = sum(wanted[term] for term in shared) / total if total else 0.0
    covered *= QUESTION_SHARE if candidate.sentence.rstrip("\"'”’").endswith(("?", "？")) else 1.0
    score = covered + RECALL_WEIGHT * candidate.source.score / top + HINT_WEIGHT * _fits(candidate, asked)
    return score - EMPTY_PENALTY * (not candidate.stems & wanted.keys())


def _fits(candidate: Candidate, asked: Asked | None) -> float:
    """How far a sentence has the form of what is asked for, from 0 to 1."""
    memory = candidate.source.memory
    if asked == "when":
        return (memory.occurred_at is not None) / 2 + bool(_TIME.search(candidate.sentence)) / 2
    if asked == "who":
        return float(memory.speaker is not None)
    return float(asked == "where" and bool(_PLACE.search(candidate.sentence)))


def _differs(one: Candidate, other: Candidate) -> bool:
    if one.source is other.source and (one.sentence in other.passage or other.sentence in one.passage):
        return False
    shared = len(one.stems & other.stems)
    return shared < 0.8 * max(1, min(len(one.stems), len(other.stems)))


def _line(candidate: Candidate, asked: Asked | None) -> str:
    memory = candidate.source.memory
    day = memory.occurred_at if asked == "when" else None
    who = [memory.speaker] if memory.speaker else []
    when = [f"{day.day} {day:%B} {day.year}"] if day else []
    said = shortened(candidate.passage, LONGEST_PASSAGE)
    lead = ", ".join(who + when)
    return f"{lead}: “{said}” [{candidate.source.number}]" if lead else f"{said} [{candidate.source.number}]"


def _citation(candidate: Candidate) -> Citation:
    quote = shortened(candidate.passage, LONGEST_PASSAGE)
    source = candidate.source
    return Citation(number=source.number, memory_id=source.memory.id, quote=quote, score=source.score)
