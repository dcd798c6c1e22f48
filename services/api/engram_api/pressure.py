"""How soon to come back: from how much waits, and how fast it was worked off in the last seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from engram_contracts.errors import EngramError, Overloaded, RateLimited
from engram_contracts.topology import CONSUMERS, WORK, Consumer, Urgency, lane_of
from engram_runtime.bus import Bus

SHORTEST, LONGEST = 1.0, 60.0
LOOK_SECONDS = 0.5
REMEMBERED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reading:
    """How much waited at a moment, and how much had been worked off by then since counting began."""

    at: float
    depth: int
    gone: int


def bounded_wait(depth: float, per_second: float) -> float:
    """Seconds until what waits is worked off at this rate, from 1 to 60."""
    if depth <= 0:
        return SHORTEST
    return min(max(depth / per_second, SHORTEST), LONGEST) if per_second > 0 else LONGEST


def wait_of(readings: deque[Reading]) -> float | None:
    """The wait that readings tell of; `None` while there are too few to tell."""
    if len(readings) < 2 or readings[-1].at - readings[0].at < LOOK_SECONDS / 2:
        return None
    first, last = readings[0], readings[-1]
    return bounded_wait(last.depth, (last.gone - first.gone) / (last.at - first.at))


@dataclass(slots=True)
class Gauge:
    """Readings of one queue, taken while somebody is refused because of it."""

    read: Callable[[], Awaitable[tuple[int, int]]]
    readings: deque[Reading] = field(default_factory=deque)
    asked_at: float = 0.0
    looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Take readings until nobody asked for a while; then forget them."""
        while time.monotonic() - self.asked_at < REMEMBERED_SECONDS:
            with contextlib.suppress(EngramError):
                depth, gone = await self.read()
                self.readings.append(Reading(time.monotonic(), depth, gone))
            while self.readings and time.monotonic() - self.readings[0].at > REMEMBERED_SECONDS:
                self.readings.popleft()
            await asyncio.sleep(LOOK_SECONDS)
        self.readings.clear()


class Pressure:
    """Measures the queues that refuse, and only while they do."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._gauges: dict[str, Gauge] = {}

    def advise(self, error: Exception, tenant: str, op: str, urgency: Urgency) -> Exception:
        """The refusal of a command, saying when to come back as far as that was measured; other errors as they are."""
        if isinstance(error, Overloaded):
            gauge = self._gauge(WORK.name, self._stream)
        elif isinstance(error, RateLimited):
            consumer = _consumer(tenant, op, urgency)
            gauge = self._gauge(consumer.name, lambda: self._lane(consumer))
        else:
            return error
        wait = wait_of(gauge.readings)
        return type(error)(error.message, retry_after=error.retry_after if wait is None else wait)

    async def close(self) -> None:
        """Stop measuring."""
        tasks = [gauge.looking for gauge in self._gauges.values() if gauge.looking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _gauge(self, name: str, read: Callable[[], Awaitable[tuple[int, int]]]) -> Gauge:
        gauge = self._gauges.setdefault(name, Gauge(read))
        gauge.asked_at = time.monotonic()
        if gauge.looking is None or gauge.looking.done():
            gauge.looking = asyncio.create_task(gauge.look())
        return gauge

    async def _lane(self, consumer: Consumer) -> tuple[int, int]:
        """A lane is worked off in order, so a tenant's newest command waits for all of it."""
        backlog = await self._bus.backlog(consumer)
        return backlog.depth, backlog.settled

    async def _stream(self) -> tuple[int, int]:
        extent = await self._bus.archive(WORK).extent()
        return extent.messages, extent.last - extent.messages


def _consumer(tenant: str, op: str, urgency: Urgency) -> Consumer:
    """The consumer that works off a tenant's commands."""
    pattern = f"engram.work.{lane_of(tenant, urgency)}.{op}.*"
    return next(consumer for consumer in CONSUMERS if pattern in consumer.filters)
