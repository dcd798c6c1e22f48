"""The breaker: while what a stage depends on is away, work is held instead of burning its tries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TypeGuard

from engram_contracts.errors import EngramError, Overloaded, RateLimited, Unavailable
from engram_runtime.delivery import bounded
from engram_runtime.telemetry import HELD

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
PROBE_SECONDS = 2.0


def is_away(outcome: Exception | None) -> TypeGuard[EngramError]:
    """Whether the error speaks of the dependency (away, overloaded, asking for a pause) and not of the message."""
    return isinstance(outcome, (Unavailable, Overloaded, RateLimited))


class Turn:
    """Lets one in at a time. Who stays for longer than it was lent to is not waited for."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[object] | None = None

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        self._holder = asyncio.current_task()

    async def __aexit__(self, *_: object) -> None:
        self._release(asyncio.current_task())

    def lend(self, seconds: float) -> None:
        """From now on the one who is in has so many seconds before the next comes in beside it."""
        asyncio.get_running_loop().call_later(seconds, self._release, self._holder)

    def _release(self, holder: asyncio.Task[object] | None) -> None:
        if self._holder is holder and self._lock.locked():
            self._holder = None
            self._lock.release()


class Breaker:
    """One stage's breaker. Open, it lets one caller at a time try, after a pause that doubles.

    A pause the dependency asked for (`Retry-After`) is kept. `trouble` says why it is open, or is `None`.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._failures = 0
        self._until = 0.0
        self._stopping = asyncio.Event()
        self.probing = Turn()
        self.suspecting = Turn()
        """Held while one is tried that may have ended an earlier worker, so that no other such is in hand with it."""
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
        """Wait until the next try is due; `False` when told to stop meanwhile.

        A try that takes longer than `PROBE_SECONDS`, because it hangs, does not keep the next from trying.
        """
        remaining = self._until - time.monotonic()
        if remaining > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), remaining)
        self.probing.lend(PROBE_SECONDS)
        return not self._stopping.is_set()

    def stop(self) -> None:
        """Let go of everything that is held."""
        self._stopping.set()
