"""How fast bulk work goes: as fast as may be while nobody else waits for an answer, else at its tenant's share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

from engram_contracts.events import Served

QUIET_SECONDS = 0.75
"""So long after the last word of it people count as being served; doors tell four times a second."""
LOOK_SECONDS = 0.1
PORTION = 8
"""Memories done in a row while others are served: what follows them on the log is over within milliseconds."""


class Pace:
    """Holds back the bulk work of tenants while another tenant is served."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._served: dict[str, float] = {}
        self._share = float("inf")
        self._due: dict[str, float] = {}

    def hear(self, served: Served) -> None:
        """Somebody is being served."""
        now = self._clock()
        self._served = {tenant: at for tenant, at in self._served.items() if at > now - QUIET_SECONDS}
        self._served.update(dict.fromkeys(served.tenants, now))
        self._share = served.share

    def portion(self, work: Sequence[str]) -> int:
        """How much of work for these tenants, in order, is to be done next: all of it, or a little."""
        return PORTION if any(map(self._gives_way, set(work))) else len(work)

    async def turn(self, work: Sequence[str]) -> None:
        """Return when work for these tenants, one entry for each memory, may be done."""
        amounts = Counter(work)
        while (wait := max(map(self._wait, amounts))) > 0:  # noqa: ASYNC110 (time passes, nobody tells)
            await asyncio.sleep(min(wait, LOOK_SECONDS))
        now = self._clock()
        self._due = {tenant: due for tenant, due in self._due.items() if due > now}
        self._due.update({
            tenant: now + amount / self._share for tenant, amount in amounts.items() if self._gives_way(tenant)
        })  # fmt: skip

    def _wait(self, tenant: str) -> float:
        return self._due.get(tenant, 0.0) - self._clock() if self._gives_way(tenant) else 0.0

    def _gives_way(self, tenant: str) -> bool:
        since = self._clock() - QUIET_SECONDS
        return any(other != tenant and at > since for other, at in self._served.items())
