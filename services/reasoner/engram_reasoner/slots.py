"""Places for calls of a model: so many at once, and of them no tenant more than its share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable


def whole(_: str) -> float:
    """Every tenant may have all."""
    return 1.0


class Slots:
    """`total` places. Who waits longest is served first, unless its tenant has its share already.

    `share` is the largest part of all places that a tenant may have; it always has one.
    """

    def __init__(self, total: int, share: Callable[[str], float] = whole) -> None:
        self._total = total
        self._share = share
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """A place, once there is one."""
        await self._enter(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    async def _enter(self, tenant: str) -> None:
        if self._free(tenant):
            self._held[tenant] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tenant, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(tenant)
            else:
                self._waiting.remove((tenant, turn))
            raise

    def _leave(self, tenant: str) -> None:
        self._held[tenant] -= 1
        for entry in list(self._waiting):
            owner, turn = entry
            if self._free(owner):
                self._waiting.remove(entry)
                self._held[owner] += 1
                turn.set_result(None)

    def _free(self, tenant: str) -> bool:
        most = max(1, int(self._share(tenant) * self._total))
        return self._held.total() < self._total and self._held[tenant] < most
