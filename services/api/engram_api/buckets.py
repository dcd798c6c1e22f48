"""Token buckets told by one moment each: when the bucket would be full again (GCRA). Pure.

A bucket that holds `burst` tokens and gets one every `interval` seconds is full when that moment has come, and empty
when it lies `burst` intervals ahead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engram_contracts.control import Rate

SLICE_SECONDS = 0.25
SLIVER = 1e-6
"""Of a token: what adding floats may cost."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Tokens taken, when the bucket will be full, and without any the seconds until there is one."""

    tokens: int
    full_at: float
    wait: float = 0.0


def interval(rate: Rate) -> float:
    """Seconds until there is another token."""
    return 60.0 / rate.per_minute


def slice_of(rate: Rate) -> int:
    """How many tokens a door takes at a time: what flows in a quarter of a second, and no large part of the bucket."""
    return max(1, min(rate.burst // 4, math.ceil(SLICE_SECONDS / interval(rate))))


def draw(full_at: float, now: float, rate: Rate, most: int) -> Draw:
    """Take up to `most` tokens out of a bucket that would be full at a moment."""
    begin, each = max(full_at, now), interval(rate)
    there = math.floor((now + rate.burst * each - begin) / each + SLIVER)
    if there < 1:
        return Draw(0, full_at, begin + each - (now + rate.burst * each))
    tokens = min(there, most)
    return Draw(tokens, begin + tokens * each)


def left(full_at: float, now: float, rate: Rate) -> int:
    """The tokens in a bucket."""
    return draw(full_at, now, rate, rate.burst).tokens
