"""Looking through the dead letters, newest first, without their bodies and with bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from engram_contracts.recovery import (
    Age,
    DeadFilter,
    DeadGroup,
    DeadGroups,
    DeadLetter,
    DeadPage,
    GroupKey,
)
from engram_contracts.topology import dead_pattern
from engram_recovery.letters import matches, summary
from engram_runtime.bus import Archive

NARROWEST, WIDEST = 256, 4_096
"""Sequences looked at together; their headers are in memory at the same time."""

AGES: tuple[tuple[Age, float], ...] = (("hour", 3_600.0), ("day", 86_400.0), ("week", 7 * 86_400.0))


@dataclass(frozen=True, slots=True)
class Window:
    """The dead letters of a stretch of sequences that the filter means, newest first; `low` is where it begins."""

    letters: list[DeadLetter]
    low: int
    looked_at: int
    """Dead letters looked at so far, over all windows."""


class Browser:
    """Answers lists and counts. `most` bounds what one of them looks at."""

    def __init__(self, archive: Archive, *, most: int) -> None:
        self._archive = archive
        self._most = most

    async def page(self, tenant: str, wanted: DeadFilter, *, limit: int, after: int | None) -> DeadPage:
        """The newest dead letters from below the sequence `after`."""
        found: list[DeadLetter] = []
        async for window in self._windows(tenant, wanted, below=after, width=NARROWEST):
            found += window.letters
            if len(found) >= limit:
                return DeadPage(letters=tuple(found[:limit]), after=found[limit - 1].sequence)
            if window.looked_at >= self._most:
                return DeadPage(letters=tuple(found), after=window.low)
        return DeadPage(letters=tuple(found))

    async def groups(self, tenant: str, wanted: DeadFilter, by: tuple[GroupKey, ...], *, now: datetime) -> DeadGroups:
        """The dead letters counted by what they have in common."""
        groups: dict[tuple[str, ...], DeadGroup] = {}
        count, truncated = 0, False
        async for window in self._windows(tenant, wanted, below=None, width=WIDEST):
            for letter in window.letters:
                _count(groups, letter, by, now)
            count += len(window.letters)
            truncated = window.looked_at >= self._most
            if truncated:
                break
        largest = sorted(groups.values(), key=lambda group: -group.count)
        return DeadGroups(groups=tuple(largest), letters=count, truncated=truncated)

    async def _windows(
        self, tenant: str, wanted: DeadFilter, *, below: int | None, width: int
    ) -> AsyncIterator[Window]:
        """Stretches from the newest to the oldest; wider ones where little is found."""
        pattern = dead_pattern(wanted.tenant or tenant, wanted.stage or "*")
        extent = await self._archive.extent()
        high = extent.last if below is None else min(below - 1, extent.last)
        first, looked_at = max(extent.first, 1), 0
        while high >= first:
            low = max(first, high - width + 1)
            stored = await self._archive.heads(low, high, pattern=pattern)
            looked_at += len(stored)
            letters = [summary(one) for one in reversed(stored)]
            chosen = [letter for letter in letters if matches(letter, wanted)]
            yield Window(chosen, low, looked_at)
            if letters and wanted.since is not None and letters[-1].buried_at < wanted.since:
                return
            if len(chosen) < width // 4:
                width = min(4 * width, WIDEST)
            high = low - 1


def age_of(letter: DeadLetter, now: datetime) -> Age:
    """How long ago it was buried."""
    seconds = (now - letter.buried_at).total_seconds()
    return next((age for age, most in AGES if seconds < most), "older")


def _count(
    groups: dict[tuple[str, ...], DeadGroup], letter: DeadLetter, by: tuple[GroupKey, ...], now: datetime
) -> None:
    """Add one to its group. They come newest first, so the first is the example and the last the oldest."""
    key = tuple(age_of(letter, now) if name == "age" else str(getattr(letter, name)) for name in by)
    group = groups.get(key)
    if group is None:
        groups[key] = DeadGroup(
            key=dict(zip(by, key, strict=True)),
            count=1,
            oldest_at=letter.buried_at,
            newest_at=letter.buried_at,
            example=letter,
        )
    else:
        groups[key] = group.model_copy(update={"count": group.count + 1, "oldest_at": letter.buried_at})
