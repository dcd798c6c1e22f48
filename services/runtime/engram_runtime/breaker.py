"""The breaker: while what a stage depends on is away, work is held instead of burning its tries."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import TypeGuard

from engram_contracts.errors import EngramError, Overloaded, RateLimited, Unavailable
from engram_runtime.delivery import bounded
from engram_runtime.telemetry import HELD

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
PROBE_SECONDS = 2.0
SUSPECT_SECONDS = 2.0


def is_away(outcome: Exception | None) -> TypeGuard[EngramError]:
    """Whether the error speaks of the dependency (away, overloaded, asking for a pause) and not of the message."""
    return isinstance(outcome, (Unavailable, Overloaded, RateLimited))


class Turn:
    """Lets one in at a time. Who stays for longer than it was lent to is not waited for."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._stay = object()
        self._over: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """As the one who is in."""
        await self._lock.acquire()
        stay = self._stay = object()
        try:
            yield
        finally:
            self._release(stay)

    def lend(self, seconds: float) -> None:
        """From now on the one who is in has so many seconds before the next comes in beside it."""
        self._over = asyncio.get_running_loop().call_later(seconds, self._release, self._stay)

    def _release(self, stay: object) -> None:
        """End this stay, unless it was ended before."""
        if self._stay is not stay:
            return
        self._stay = object()
        if self._over is not None:
            self._over.cancel()
            self._over = None
        self._lock.release()


class Room:
    """Many together, or one alone: what may end its worker is tried while nobody else is in hand who could be blamed.

    Neither waits for the other for longer than `seconds`: what ends its worker does so soon.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = Turn()
        self._together = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """In with others, once nobody is alone."""
        async with self._turn.taken():
            self._together += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._together -= 1
            if not self._together:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """In by oneself, once the others have left."""
        async with self._turn.taken():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._empty.wait()
            self._turn.lend(self._seconds)
            yield


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
        self.room = Room(SUSPECT_SECONDS)
        """Where the stage's messages are tried, those alone that may have ended an earlier worker."""
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
                async with asyncio.timeout(remaining):
                    await self._stopping.wait()
        self.probing.lend(PROBE_SECONDS)
        return not self._stopping.is_set()

    def stop(self) -> None:
        """Let go of everything that is held."""
        self._stopping.set()
