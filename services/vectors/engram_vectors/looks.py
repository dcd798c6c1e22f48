"""What ranking has to know of a memory besides its scores, as one short text on each of its points. Pure."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from engram_contracts.memory import Memory
from engram_vectors.filters import microseconds

TAIL = 80
"""Characters at a turn's end in which a question mark makes it one that inquires."""


class Look(NamedTuple):
    """A memory at a glance.

    `place` is where it stands in its session (see `places`; 0 for none), `at` microseconds since 1970, `speaker` in
    lower case. One that `asks` ends in a question mark, one that `inquires` has one near its end. `words` stands for
    its whole text (see `fingerprint`).
    """

    place: int = 0
    at: int = 0
    asks: bool = False
    inquires: bool = False
    importance: float = 0.5
    confidence: float = 1.0
    words: int = 0
    speaker: str = ""


def fingerprint(text: str) -> int:
    """What texts of the same words share, whatever their case and spacing: a crc32, never 0."""
    return zlib.crc32(" ".join(text.casefold().split()).encode()) or 1


def look_of(memory: Memory, place: int) -> str:
    """The text for a memory."""
    text = memory.content.rstrip()
    asks, inquires = text.endswith("?"), "?" in text[-TAIL:]
    at = microseconds(memory.occurred_at or memory.created_at)
    speaker = memory.speaker.casefold() if memory.speaker else ""
    weights = f"{memory.importance:g}\t{memory.confidence:g}"
    return f"{place}\t{at}\t{asks + 2 * inquires}\t{weights}\t{fingerprint(text)}\t{speaker}"


def read_look(text: str) -> Look:
    """What `look_of` wrote."""
    place, at, asked, importance, confidence, words, speaker = text.split("\t", 6)
    asks, inquires = asked in "13", asked in "23"
    return Look(int(place), int(at), asks, inquires, float(importance), float(confidence), int(words), speaker)
