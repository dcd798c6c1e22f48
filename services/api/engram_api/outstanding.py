"""How many bytes of a tenant's commands lie on the work stream: bounded, so that no tenant fills the stream.

The stream itself bounds the messages of each tenant, not their bytes. Counting costs nothing until a tenant has sent
as much as it may have outstanding; from there on the stream is asked now and then what is left of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from engram_contracts.errors import RateLimited, Unavailable
from engram_contracts.topology import WORK
from engram_runtime.bus import Bus

FRESH_SECONDS = 0.25
LOOK_SECONDS = 0.5
RECENT = 0.9
"""Of the mean size, so much is kept with each request."""


@dataclass(slots=True)
class Account:
    """One tenant: bytes known to be outstanding, bytes sent since, and the mean size of its commands."""

    known: float = 0.0
    since: float = 0.0
    mean: float = 0.0
    looked_at: float = float("-inf")


class Outstanding:
    """Admits commands of tenants that have less than `most` bytes outstanding."""

    def __init__(self, bus: Bus, *, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._most = most
        self._clock = clock
        self._accounts: defaultdict[str, Account] = defaultdict(Account)

    async def admit(self, tenant: str, size: int, commands: int) -> None:
        """Count so many bytes of so many commands as sent. Raises `RateLimited` when they would be too many."""
        account = self._accounts[tenant]
        if account.known + account.since + size > self._most and self._clock() - account.looked_at > FRESH_SECONDS:
            await self._look(tenant, account)
        if account.known and account.known + account.since + size > self._most:
            raise RateLimited(
                f"more than {self._most} bytes of this tenant's work are waiting; slow down and try again",
                retry_after=1.0,
            )
        account.since += size
        mean = size / commands
        account.mean = mean if not account.mean else RECENT * account.mean + (1 - RECENT) * mean

    async def _look(self, tenant: str, account: Account) -> None:
        """Ask what is left; a broker that does not tell in time is for the write itself to find out."""
        account.looked_at = self._clock()
        before = account.since
        with contextlib.suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(LOOK_SECONDS):
                left = await self._bus.archive(WORK).subjects(f"engram.work.*.*.{tenant}")
            account.known, account.since = sum(left.values()) * account.mean, account.since - before
