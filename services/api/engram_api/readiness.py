"""Whether everything the door needs works: the broker, its keys, and each service by a ping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from engram_contracts.answers import Ready
from engram_contracts.errors import EngramError
from engram_contracts.questions import Check
from engram_contracts.topology import TENANTS
from engram_runtime.bus import Bus

SERVICES = ("vectors", "graph", "embedder", "reasoner", "metering", "recovery")
ESSENTIAL = ("broker", "keys")
"""Without these the door can accept nothing; without a service it accepts, and answers what the others can."""

FRESH_SECONDS = 0.5
STARTING_SECONDS = 30.0


class Readiness:
    """Looks at everything at once; many who ask within half a second share one look.

    A door counts as serving once all checks held together, or `STARTING_SECONDS` after its start; from then on only
    what is essential decides, so that one service which is away does not close all doors.
    """

    def __init__(
        self,
        bus: Bus,
        keys: Callable[[], Awaitable[Check]],
        *,
        within: float = 1.0,
        fresh: float = FRESH_SECONDS,
        starting: float = STARTING_SECONDS,
    ) -> None:
        self._bus = bus
        self._keys = keys
        self._within = within
        self._fresh = fresh
        self._starting = starting
        self._started = time.monotonic()
        self._was_complete = False
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[Ready] | None = None

    async def look(self) -> tuple[Ready, bool]:
        """What works, and whether this door should be sent requests."""
        if self._looking is None or (self._looking.done() and time.monotonic() - self._looked_at > self._fresh):
            self._looking = asyncio.create_task(self._look())
        ready = await asyncio.shield(self._looking)
        return ready, self._serves(ready)

    async def _look(self) -> Ready:
        names = ("broker", "keys", *SERVICES)
        probes = (self._broker(), self._keys(), *(self._service(name) for name in SERVICES))
        checks = dict(zip(names, await asyncio.gather(*probes), strict=True))
        complete = all(check.ok for check in checks.values())
        able = all(checks[name].ok for name in ESSENTIAL)
        self._was_complete = self._was_complete or complete
        self._looked_at = time.monotonic()
        return Ready(status="ready" if complete else "degraded" if able else "unavailable", checks=checks)

    def _serves(self, ready: Ready) -> bool:
        started = self._was_complete or time.monotonic() - self._started > self._starting
        return ready.status == "ready" or (ready.status == "degraded" and started)

    async def _broker(self) -> Check:
        try:
            async with asyncio.timeout(self._within):
                await self._bus.bucket(TENANTS).get("default")
        except TimeoutError:
            return Check(ok=False, detail=f"no answer within {self._within:g} s")
        except EngramError as error:
            return Check(ok=False, detail=error.message)
        return Check(ok=True)

    async def _service(self, name: str) -> Check:
        try:
            pong = await self._bus.ping(name, within=self._within)
        except EngramError as error:
            return Check(ok=False, detail=error.message)
        failing = [f"{part}: {check.detail or 'failing'}" for part, check in pong.checks.items() if not check.ok]
        return Check(ok=pong.ready, detail="; ".join(failing) or None)
