"""What a tenant's plan leaves for models, reserved before a model is called, so that no call goes beyond it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from engram_contracts.control import Limits
from engram_contracts.errors import EngramError
from engram_contracts.facts import ModelUse
from engram_contracts.questions import GetStanding
from engram_runtime.bus import Bus
from engram_runtime.gauges import Gauge

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
FRESH_SECONDS = 1.0
SPENT = "model: what the plan allows of tokens a day is used up"
"""How an answer says that no model was asked for it."""


@dataclass(slots=True)
class Reservation:
    """Tokens set aside for one call; `granted` says whether there were so many. `use` is what it took in the end."""

    granted: bool
    use: ModelUse | None = None


@dataclass(slots=True)
class Account:
    """What a tenant used today, as far as is known, and when the ledger was asked."""

    gauge: Gauge = field(default_factory=Gauge)
    asked_at: float = float("-inf")
    day: str = ""


class Budget:
    """Sets tokens aside. A ledger that does not answer stops nobody: what was known last counts."""

    def __init__(
        self, bus: Bus, limits: Callable[[str], Limits], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bus = bus
        self._limits = limits
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._reserved: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def reserve(self, tenant: str, tokens: int) -> AsyncIterator[Reservation]:
        """Set tokens aside while the context is open, where the plan leaves so many; what `use` says is then spent."""
        limit = self._limits(tenant).quotas.think_tokens
        if limit is None:
            yield Reservation(True)
            return
        account = await self._account(tenant)
        reservation = Reservation(account.gauge.now + self._reserved[tenant] + tokens <= limit)
        if not reservation.granted:
            log.info("no tokens left", extra={"tenant_id": tenant, "limit": limit})
            yield reservation
            return
        self._reserved[tenant] += tokens
        try:
            yield reservation
        finally:
            self._reserved[tenant] -= tokens
            if reservation.use is not None:
                spent = reservation.use.prompt_tokens + reservation.use.completion_tokens
                account.gauge.add(spent, self._clock())

    async def _account(self, tenant: str) -> Account:
        account = self._accounts.setdefault(tenant, Account())
        if self._clock() - account.asked_at < FRESH_SECONDS:
            return account
        account.asked_at = self._clock()
        try:
            standing = await self._bus.ask(GetStanding(tenant=tenant), within=ASK_SECONDS)
        except EngramError as error:
            log.warning("quotas not known", extra={"tenant_id": tenant, "why": error.code})
            return account
        day = standing.resets_at.isoformat()
        if account.day != day:
            account.day, account.gauge = day, Gauge()
        account.gauge.tell(standing.used["think_tokens"], self._clock())
        return account
