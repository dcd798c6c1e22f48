"""Stretches of time in which an edge put by hand is valid. Pure.

A stretch begins at `valid_from` and ends before `valid_to`; `None` leaves that side open. Stretches of one edge never
overlap, so that at any moment at most one of them says what the edge weighs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What an edge weighs in a stretch of time, and the ids of the memories it rests on."""

    weight: float
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    evidence: tuple[str, ...] = ()

    def holds(self, at: datetime) -> bool:
        """Whether the edge is valid at this moment."""
        return (self.valid_from is None or self.valid_from <= at) and (self.valid_to is None or at < self.valid_to)


def put(stretches: Sequence[Stretch], new: Stretch) -> list[Stretch]:
    """The stretches with a new one laid over them.

    It replaces whatever it overlaps; what an older stretch said of the time before the new one begins still stands.
    So a later `valid_from` closes the older stretch and opens a new one, and an earlier or absent one corrects it.
    """
    kept = [left for old in stretches if (left := _before(old, new)) is not None]
    return sorted([*kept, new], key=lambda stretch: (stretch.valid_from is not None, stretch.valid_from))


def _before(old: Stretch, new: Stretch) -> Stretch | None:
    if not _overlap(old, new):
        return old
    if new.valid_from is None or (old.valid_from is not None and old.valid_from >= new.valid_from):
        return None
    return replace(old, valid_to=new.valid_from)


def _overlap(one: Stretch, other: Stretch) -> bool:
    return _begins_before_end(one, other) and _begins_before_end(other, one)


def _begins_before_end(one: Stretch, other: Stretch) -> bool:
    return one.valid_from is None or other.valid_to is None or one.valid_from < other.valid_to
