"""What tenants' plans allow, as the broker's buckets hold it, for services behind the door."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from engram_contracts.control import BUILT_IN, Limits, Plan, TenantRecord, limits_of
from engram_contracts.topology import PLANS, TENANTS
from engram_runtime.bus import Bus
from engram_runtime.mirror import Mirror, ended

NO_LIMITS = Limits()


class Plans:
    """Tells the limits of tenants; while the buckets cannot be watched, what was last known stays."""

    def __init__(self, bus: Bus) -> None:
        self.tenants = Mirror(bus, TENANTS, TenantRecord)
        self.plans = Mirror(bus, PLANS, Plan)

    def limits(self, tenant: str) -> Limits:
        """The limits of a tenant; none for a tenant nobody knows, or one whose plan is not there any more."""
        record = self.tenants.get(tenant)
        if record is None:
            return NO_LIMITS
        return limits_of(self.plans.get(record.plan) or BUILT_IN.get(record.plan) or NO_LIMITS, record.overrides)

    def watch_again(self) -> None:
        """The connection was lost and is back."""
        self.tenants.watch_again()
        self.plans.watch_again()


@contextlib.asynccontextmanager
async def open_plans(bus: Bus, *, patience: float = 5.0) -> AsyncIterator[Plans]:
    """Plans that follow the broker; waits up to `patience` seconds for the first full reading."""
    plans = Plans(bus)
    tasks = [asyncio.create_task(plans.tenants.run()), asyncio.create_task(plans.plans.run())]
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(plans.tenants.complete.wait(), plans.plans.complete.wait())
        yield plans
    finally:
        await ended(*tasks)
