"""Rates and quotas of tenants, as their plans say, for whatever a request came by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engram_api.addresses import Addresses
from engram_api.quotas import QuotaCheck
from engram_api.rates import Rates
from engram_api.routes import Operation
from engram_contracts.control import Limits, Quotas, Rate, RouteClass
from engram_contracts.recovery import SYSTEM

_METRICS = tuple(Quotas.model_fields)


class Limiter:
    """Holds requests against the limits of their tenants; the installation itself has none."""

    def __init__(self, limits: Callable[[str], Limits], rates: Rates, quotas: QuotaCheck, addresses: Addresses) -> None:
        self._limits = limits
        self._rates = rates
        self._quotas = quotas
        self.addresses = addresses

    async def rate(self, tenant: str, operation: Operation, told: dict[str, str]) -> None:
        """Let a request pass; `told` gets the headers that tell its client what is left. Raises `RateLimited`."""
        rates = self._limits(tenant).rates
        if rates and tenant != SYSTEM:
            await self._rates.take(tenant, _of(operation, rates), told)

    async def quota(self, tenant: str, operation: Operation, body: Any) -> None:
        """Raise `QuotaExceeded` where a request would go beyond a quota."""
        quotas = self._limits(tenant).quotas
        if tenant != SYSTEM and any(getattr(quotas, name) is not None for name in _METRICS):
            await self._quotas.check(tenant, quotas, operation, body)


def _of(operation: Operation, rates: Mapping[RouteClass, Rate]) -> dict[RouteClass, Rate]:
    """The rates that count for an operation: one that a model works on counts in both."""
    return {name: rate for name, rate in rates.items() if name == "standard" or operation.name == "think"}
