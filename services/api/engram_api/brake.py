"""Refusals that do not pay: who is refused again and again gets to hear it later and later.

A refusal costs the door little, but a client that answers it with the next request at once could keep it busy with
nothing else. So a tenant's refusals beyond some a second are held for a moment, and its connections with them.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

PER_SECOND = 20.0
AT_ONCE = 100.0
HOLD_SECONDS = 1.0
MOST_HELD = 512
"""So many refusals of one tenant are held; one more closes its connection at once."""


@dataclass(slots=True)
class Record:
    """How many refusals a tenant may still hear at once, and how many are held."""

    at: float
    left: float = AT_ONCE
    held: int = 0


class Brake:
    """Holds refusals of tenants that are refused often."""

    def __init__(self, *, seconds: float = HOLD_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._records: defaultdict[str, Record] = defaultdict(lambda: Record(clock()))

    async def hold(self, tenant: str) -> bool:
        """Return when a refusal may go out; whether its connection may stay open."""
        record, now = self._records[tenant], self._clock()
        record.left = min(record.left + (now - record.at) * PER_SECOND, AT_ONCE)
        record.at = now
        if record.left >= 1:
            record.left -= 1
            return True
        if record.held >= MOST_HELD:
            return False
        record.held += 1
        try:
            await asyncio.sleep(self._seconds)
        finally:
            record.held -= 1
        return True
