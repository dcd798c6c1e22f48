"""Rates of requests that all doors keep together: token buckets in a key-value bucket, from which doors draw slices.

A door takes some tokens at once, by compare-and-set, and gives them out by itself; so most requests wait for nobody. A
slice that was not used within a second is forgotten, so that all doors together never give out more than the bucket
had, but for one slice each.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engram_api.buckets import draw, interval, left, slice_of
from engram_contracts.control import Rate, RouteClass
from engram_contracts.errors import RateLimited, Unavailable
from engram_runtime.bus import KeyValue

KEPT_SECONDS = 1.0
TRIES = 8
KNOWN = 10_000
"""Buckets that a door remembers."""


@dataclass(slots=True)
class Lease:
    """What a door knows of a bucket: tokens of its own until a moment, and how the bucket was when it last drew."""

    rate: Rate
    tokens: int = 0
    until: float = 0.0
    full_at: float = 0.0
    revision: int = 0
    empty_until: float = 0.0
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def spend(self, now: float) -> bool:
        """Give out a token of one's own; whether there was one."""
        if self.tokens < 1 or now > self.until:
            self.tokens = 0
            return False
        self.tokens -= 1
        return True

    def left(self, now: float) -> int:
        """Tokens that are there, as far as this door knows."""
        return self.tokens + left(self.full_at, now, self.rate)


class Rates:
    """Lets requests pass as the rates of their tenant allow. `clock` is the time of day, which doors share."""

    def __init__(self, store: KeyValue, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._leases: OrderedDict[tuple[str, RouteClass], Lease] = OrderedDict()

    async def take(self, tenant: str, rates: Mapping[RouteClass, Rate], told: dict[str, str]) -> None:
        """Take one token from each bucket; `told` gets the headers that tell of them.

        Raises `RateLimited` where one is empty; what was taken from the others is given back.
        """
        taken: list[tuple[RouteClass, Lease]] = []
        try:
            await self._take(tenant, rates, taken)
        finally:
            told.update(self.headers(taken))

    async def _take(self, tenant: str, rates: Mapping[RouteClass, Rate], taken: list[tuple[RouteClass, Lease]]) -> None:
        for name, rate in rates.items():
            lease = self._lease(tenant, name, rate)
            taken.append((name, lease))
            wait = await self._wait(tenant, name, lease)
            if wait > 0:
                for _, other in taken[:-1]:
                    other.tokens += 1
                raise RateLimited(
                    f"more {name} requests than {rate.per_minute:g} a minute ({rate.burst} at once); slow down",
                    retry_after=wait,
                    details={"class": name, "per_minute": rate.per_minute, "burst": rate.burst},
                )

    def headers(self, leases: list[tuple[RouteClass, Lease]]) -> dict[str, str]:
        """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers)."""
        now = self._clock()
        policies = [f'"{name}";q={round(lease.rate.per_minute) or 1};w=60' for name, lease in leases]
        states = [f'"{name}";r={lease.left(now)};t={_reset(lease, now)}' for name, lease in leases]
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}

    def _lease(self, tenant: str, name: RouteClass, rate: Rate) -> Lease:
        key = (tenant, name)
        lease = self._leases.get(key)
        if lease is None or lease.rate != rate:
            lease = self._leases[key] = Lease(rate)
            if len(self._leases) > KNOWN:
                self._leases.popitem(last=False)
        return lease

    async def _wait(self, tenant: str, name: RouteClass, lease: Lease) -> float:
        """Seconds until a token is there; 0 where one was taken."""
        if lease.spend(self._clock()):
            return 0.0
        async with lease.drawing:
            if lease.spend(self._clock()):
                return 0.0
            if (wait := lease.empty_until - self._clock()) > 0:
                return wait
            await self._draw(f"{tenant}.{name}", lease)
            return 0.0 if lease.spend(self._clock()) else max(lease.empty_until - self._clock(), 0.001)

    async def _draw(self, key: str, lease: Lease) -> None:
        """Draw a slice. What was last known is tried first; only where another door drew meanwhile is it read."""
        for _ in range(TRIES):
            now = self._clock()
            drawn = draw(lease.full_at, now, lease.rate, slice_of(lease.rate))
            if not drawn.tokens and lease.revision:
                lease.empty_until = now + drawn.wait
                return
            revision = await self._store.update(key, repr(drawn.full_at).encode(), lease.revision)
            if revision is not None:
                lease.revision, lease.full_at = revision, drawn.full_at
                lease.tokens, lease.until = drawn.tokens, now + KEPT_SECONDS
                return
            found = await self._store.entry(key)
            lease.full_at, lease.revision = (float(found[0]), found[1]) if found else (0.0, 0)
        raise Unavailable("too many doors draw on this tenant's rate at once; try again", retry_after=1.0)


def _reset(lease: Lease, now: float) -> int:
    """Seconds until the bucket is full again, or the next token where it is empty."""
    if lease.empty_until > now:
        return max(1, round(lease.empty_until - now + 0.5))
    return max(1, round(min(lease.full_at - now, lease.rate.burst * interval(lease.rate)) + 0.5))
