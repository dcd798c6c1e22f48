"""What each piece of ranking counts for, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each piece counts for; see `RecallWeights` for what they are. Version 6.

    `verbatim` is what a memory gains that says the query word for word: more than all that others can gain.
    """

    version: int = 6
    verbatim: float = 3.0
    dense: float = 0.45
    fusion: Literal["min-max", "rrf"] = "min-max"
    neighbours: float = 1.0
    speaker: float = 0.35
    statement: float = 0.12
    date: float = 0.05
    graph: float = 0.0
    recency: float = 0.0
    importance: float = 0.0
    confidence: float = 0.0
    feedback: float = 0.3
    access: float = 0.0
    session: float = 0.0
    half_life_days: float = 30.0
    first_person: bool = True
    diversity: float = 0.0
