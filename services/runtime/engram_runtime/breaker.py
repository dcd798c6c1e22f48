"""The breaker: while what a stage depends on is away, work is held instead of burning its tries."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TypeGuard

from engram_contracts.errors import EngramError, Overloaded, RateLimited, Unavailable
from engram_runtime.delivery import bounded
from engram_runtime.telemetry import HELD

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0


def is_away(outcome: Exception | None) -> TypeGuard[EngramError]:
    """Whether the error speaks of the dependency (away, overloaded, asking for a pause) and not of the message."""
    return isinstance(outcome, (Unavailable, Overloaded, RateLimited))


class Breaker:
    """One stage's breaker. Open, it lets one caller at a time try, after a pause that doubles.

    A pause the dependency asked for (`Retry-After`) is kept. `trouble` says why it is open, or is `None`.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._failures = 0
        self._until = 0.0
        self._stopping = asyncio.Event()
        self.probing = asyncio.Lock()
        self.answered = 0.0
        """When the dependency last answered anybody of this stage (monotonic seconds)."""
        self.trouble: str | None = None
        HELD.labels(stage).set(0)

    @property
    def closed(self) -> bool:
        """Whether work may go on."""
        return self.trouble is None

    def trip(self, error: EngramError) -> None:
        """The dependency is away: open, or stay open for longer."""
        pause = max(min(FIRST_PAUSE * 2.0**self._failures, LONGEST_PAUSE), error.retry_after or 0.0)
        if self.trouble is None:
            log.warning("held", extra={"stage": self._stage, "pause_s": pause, "reason": bounded(str(error))})
        self._failures += 1
        self._until = time.monotonic() + pause
        self.trouble = f"held: {bounded(str(error))}"
        HELD.labels(self._stage).set(1)

    def close(self) -> None:
        """The dependency answered."""
        log.info("resumed", extra={"stage": self._stage})
        self._failures, self.trouble = 0, None
        HELD.labels(self._stage).set(0)

    async def pause(self) -> bool:
        """Wait until the next try is due; `False` when told to stop meanwhile."""
        remaining = self._until - time.monotonic()
        if remaining > 0:
            try:
                await asyncio.wait_for(self._stopping.wait(), remaining)
            except TimeoutError:
                return True
        return not self._stopping.is_set()

    def stop(self) -> None:
        """Let go of everything that is held."""
        self._stopping.set()
