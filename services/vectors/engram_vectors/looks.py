"""What ranking has to know of a memory besides its scores, as one short text on each of its points. Pure."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import NamedTuple

from engram_contracts.memory import Feedback, Memory
from engram_vectors.filters import microseconds

TAIL = 80
"""Characters at a turn's end in which a question mark makes it one that inquires."""


WRONG, DOUBT = 8, 2
"""What one `wrong` weighs against a `not_useful`, and verdicts that say nothing which every memory begins with."""


class Look(NamedTuple):
    """A memory at a glance.

    `place` is where it stands in its session (see `places`; 0 for none), `at` microseconds since 1970, `speaker` in
    lower case. One that `asks` ends in a question mark, one that `inquires` has one near its end. `words` stands for
    its whole text (see `fingerprint`). `feedback` runs from -1 (wrong, no doubt) to 1. `accesses` is how
    often it was recalled.
    """

    place: int = 0
    at: int = 0
    asks: bool = False
    inquires: bool = False
    importance: float = 0.5
    confidence: float = 1.0
    words: int = 0
    speaker: str = ""
    feedback: float = 0.0
    accesses: int = 0


def fingerprint(text: str) -> int:
    """What texts of the same words share, whatever their case and spacing: a crc32, never 0."""
    return zlib.crc32(" ".join(text.casefold().split()).encode()) or 1


def opinion_of(feedback: Feedback | None) -> float:
    """What verdicts amount to, from -1 to 1: their balance, doubted while they are few. A `wrong` counts as eight."""
    if feedback is None:
        return 0.0
    against = feedback.not_useful + WRONG * feedback.wrong
    return (feedback.useful - against) / (feedback.useful + against + DOUBT)


def look_of(memory: Memory, place: int) -> str:
    """The text for a memory."""
    text = memory.content.rstrip()
    asks, inquires = text.endswith("?"), "?" in text[-TAIL:]
    at = microseconds(memory.occurred_at or memory.created_at)
    speaker = memory.speaker.casefold() if memory.speaker else ""
    weights = f"{memory.importance:g}\t{memory.confidence:g}"
    judged = f"\t{opinion_of(memory.feedback):.4f}" if memory.feedback or memory.access_count else ""
    accessed = f"\t{memory.access_count}" if memory.access_count else ""
    return f"{place}\t{at}\t{asks + 2 * inquires}\t{weights}\t{fingerprint(text)}\t{speaker}{judged}{accessed}"


def read_look(text: str) -> Look:
    """What `look_of` wrote."""
    place, at, asked, importance, confidence, words, speaker, *later = text.split("\t")
    asks, inquires = asked in "13", asked in "23"
    feedback = float(later[0]) if later else 0.0
    accesses = int(later[1]) if len(later) > 1 else 0
    weights = _share(importance), _share(confidence)
    return Look(int(place), int(at), asks, inquires, *weights, int(words), speaker, feedback, accesses)


@lru_cache(maxsize=1_024)
def _share(text: str) -> float:
    """The number; most memories share theirs."""
    return float(text)
