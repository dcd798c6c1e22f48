"""What was refused at the gate, for the audit trail: added up, so that whoever is refused cannot fill it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from engram_contracts.errors import EngramError
from engram_contracts.recovery import SYSTEM
from engram_contracts.trail import Act
from engram_runtime.bus import Bus
from engram_runtime.mirror import ended
from engram_runtime.trail import note

log = logging.getLogger(__name__)

MOST = 20
"""Kinds of refusals (a code from an address) that are written down each time; the rest stands together as one."""

OTHERS = "others"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Tally:
    """How often, and since when."""

    first: datetime
    count: int = 0


class Refusals:
    """Counts refusals by code and address, and notes them down `every` so many seconds where there were any."""

    def __init__(
        self, bus: Bus, door: str, *, every: float, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._bus = bus
        self._door = door
        self._every = every
        self._now = now
        self._counts: dict[tuple[str, str], Tally] = {}
        self._writing: asyncio.Task[None] | None = None

    def count(self, code: str, address: str | None) -> None:
        """One request more that was refused for want of a key that counts, or of a permission."""
        key = (code, address or "unknown")
        if key not in self._counts and len(self._counts) >= MOST:
            key = (code, OTHERS)
        self._counts.setdefault(key, Tally(self._now())).count += 1
        if self._writing is None:
            self._writing = asyncio.create_task(self._later())

    async def close(self) -> None:
        """Note down what is left."""
        if self._writing is not None:
            await ended(self._writing)
        with contextlib.suppress(EngramError):
            await self._write()

    async def _later(self) -> None:
        """As long as there is something to write; a broker that is away is tried again."""
        while self._counts:
            await asyncio.sleep(self._every)
            try:
                await self._write()
            except EngramError as error:
                log.warning("refusals not noted", extra={"why": error.code})
        self._writing = None

    async def _write(self) -> None:
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await note(self._bus, *(_act(*key, tally) for key, tally in counts.items()), writer=self._door)
        except BaseException:
            self._counts = {**counts, **self._counts} if len(self._counts) < MOST else counts
            raise


def _act(code: str, address: str, tally: Tally) -> Act:
    return Act(tenant=SYSTEM, at=tally.first, action="login", outcome=code, address=address, count=tally.count)
