"""What ranking has to know of a memory besides its scores, as one short text on each of its points. Pure."""

from __future__ import annotations

from typing import NamedTuple

from engram_contracts.memory import Memory
from engram_vectors.filters import microseconds

TAIL = 80
"""Characters at a turn's end in which a question mark makes it one that inquires."""


class Look(NamedTuple):
    """A memory at a glance.

    `place` is where it stands in its session (see `places`; 0 for none), `at` microseconds since 1970, `speaker` in
    lower case. One that `asks` ends in a question mark, one that `inquires` has one near its end.
    """

    place: int = 0
    at: int = 0
    asks: bool = False
    inquires: bool = False
    importance: float = 0.5
    confidence: float = 1.0
    speaker: str = ""


def look_of(memory: Memory, place: int) -> str:
    """The text for a memory."""
    text = memory.content.rstrip()
    asks, inquires = text.endswith("?"), "?" in text[-TAIL:]
    at = microseconds(memory.occurred_at or memory.created_at)
    speaker = memory.speaker.casefold() if memory.speaker else ""
    return f"{place}\t{at}\t{asks + 2 * inquires}\t{memory.importance:g}\t{memory.confidence:g}\t{speaker}"


def read_look(text: str) -> Look:
    """What `look_of` wrote."""
    place, at, asked, importance, confidence, speaker = text.split("\t", 5)
    return Look(int(place), int(at), asked in "13", asked in "23", float(importance), float(confidence), speaker)
