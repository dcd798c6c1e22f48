"""What a tenant may have and use in all, checked before anything is done for it.

What it has is asked of the ledger and of the dead letters, every two seconds while the tenant is busy, and what this
door accepted since is added. So no request waits for the ledger, and what several doors accept in the same moments may
go beyond a quota by that much; the ledger counts it exactly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from engram_api.metrics import QUOTA_EXCEEDED
from engram_api.routes import Operation
from engram_contracts.control import Quotas
from engram_contracts.errors import EngramError, QuotaExceeded
from engram_contracts.questions import GetStanding, Standing
from engram_contracts.topology import DEAD, dead_pattern
from engram_runtime.bus import Bus
from engram_runtime.gauges import Gauge

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
STALE_SECONDS = 30.0
ASK_SECONDS = 1.0
KNOWN = 10_000
DAILY = frozenset({"calls", "think_tokens"})
MAKING = frozenset({"memories:write", "graph:write", "think"})
"""Permissions of operations that may end as a dead letter."""
FREE = frozenset({"usage:read", "dead:read", "dead:write", "audit:read", "data:erase", "data:export"})
"""Permissions of operations that are served beyond any quota: those that tell of it, or make room."""


@dataclass(slots=True)
class Account:
    """One tenant's gauges, when they were asked for and told, and the end of the day they speak of."""

    gauges: dict[str, Gauge] = field(default_factory=dict)
    asked_at: float = float("-inf")
    told_at: float = float("-inf")
    resets_at: datetime | None = None
    asking: asyncio.Task[None] | None = None


class QuotaCheck:
    """Refuses what goes beyond a tenant's quotas."""

    def __init__(self, bus: Bus, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._clock = clock
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    async def check(self, tenant: str, quotas: Quotas, operation: Operation, body: Any) -> None:
        """Count what the request adds. Raises `QuotaExceeded` for what would go beyond a quota; then nothing counts."""
        amounts = {name: amount for name, amount in added_by(operation, body).items() if _bound(quotas, name)}
        if not amounts:
            return
        account = await self._account(tenant, quotas)
        for name, amount in amounts.items():
            limit, current = getattr(quotas, name), account.gauges.setdefault(name, Gauge()).now
            if current + amount > limit or (not amount and current >= limit):
                raise self._exceeded(account, name, current, limit)
        now = self._clock()
        for name, amount in amounts.items():
            if amount:
                account.gauges[name].add(amount, now)

    async def close(self) -> None:
        """Ask for nothing more."""
        asking = [account.asking for account in self._accounts.values() if account.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _account(self, tenant: str, quotas: Quotas) -> Account:
        account = self._accounts.setdefault(tenant, Account())
        self._accounts.move_to_end(tenant)
        if len(self._accounts) > KNOWN:
            self._accounts.popitem(last=False)
        now = self._clock()
        over = account.resets_at is not None and datetime.now(UTC) >= account.resets_at
        if account.asking is None and (over or now - account.asked_at > FRESH_SECONDS):
            account.asked_at = now
            account.asking = asyncio.create_task(self._ask(tenant, quotas, account))
        if account.asking is not None and (over or now - account.told_at > STALE_SECONDS):
            await asyncio.shield(account.asking)
        return account

    async def _ask(self, tenant: str, quotas: Quotas, account: Account) -> None:
        """Where the ledger does not answer, what was known last counts: a request is not refused for that."""
        try:
            standing = await self._bus.ask(GetStanding(tenant=tenant), within=ASK_SECONDS)
            used = dict(standing.used)
            if quotas.dead_letters is not None:
                used["dead_letters"] = sum((await self._bus.archive(DEAD).subjects(dead_pattern(tenant))).values())
            self._told(account, standing, used)
        except EngramError as error:
            log.warning("quotas not known", extra={"tenant_id": tenant, "why": error.code})
        finally:
            account.asking = None

    def _told(self, account: Account, standing: Standing, used: Mapping[str, int]) -> None:
        now = self._clock()
        new_day = account.resets_at is not None and standing.resets_at > account.resets_at
        for name, amount in used.items():
            if new_day and name in DAILY:
                account.gauges[name] = Gauge()
            account.gauges.setdefault(name, Gauge()).tell(amount, now)
        account.told_at, account.resets_at = now, standing.resets_at

    def _exceeded(self, account: Account, name: str, current: int, limit: int) -> QuotaExceeded:
        QUOTA_EXCEEDED.labels(name).inc()
        reset = account.resets_at.isoformat() if name in DAILY and account.resets_at else None
        when = f"from {reset} on, or with" if reset else "once there is less, or with"
        return QuotaExceeded(
            f"this tenant's plan allows {limit} {name.replace('_', ' ')}, and there are {current}; try again {when} "
            "another plan",
            details={"metric": name, "current": current, "limit": limit, "reset": reset},
        )


def added_by(operation: Operation, body: Any) -> dict[str, int]:
    """What a request adds to which quota; 0 asks only that something is left of it."""
    if operation.permission in FREE:
        return {}
    amounts = {"calls": 1}
    if operation.permission in MAKING and operation.name not in ("forget", "drop_node", "drop_edge"):
        amounts["dead_letters"] = 0
    if operation.name == "think":
        amounts["think_tokens"] = 0
    if operation.name == "remember":
        memories = getattr(body, "memories", None) or (body,)
        amounts["memories"] = len(memories)
        amounts["storage_bytes"] = sum(len(memory.content.encode()) for memory in memories)
    elif operation.name == "revise":
        amounts["storage_bytes"] = 0
    return amounts


def _bound(quotas: Quotas, name: str) -> bool:
    return getattr(quotas, name) is not None
