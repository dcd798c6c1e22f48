"""A tenant's share while others are served: what it sends as bulk is taken no faster than others can bear.

A tenant that is alone may have everything. As soon as somebody else waits for an answer, each tenant's bulk memories
are counted against its share; what goes beyond it is refused, where it is large before it is read. Its questions are
asked a few at a time. Workers are told, so that they work off what is bulk at the same pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from engram_contracts.errors import RateLimited
from engram_contracts.events import Served

QUIET_SECONDS = 1.0
"""So long after its last request a tenant counts as one that is served."""
TELL_SECONDS = 0.25
PATIENCE_SECONDS = 1.0
LONGEST_WAIT = 60.0


@dataclass(slots=True)
class Account:
    """What is left of a tenant's share, below zero where a large request was taken; it fills up with time."""

    left: float
    at: float


class Share:
    """Bounds each tenant to `per_second` memories of bulk, and `questions` at a time, while another tenant is served.

    A request is taken whole as long as anything is left, and the next only once what it took too much is made good.
    `tell` gets, a few times a second while somebody is served, what workers need to know.
    """

    def __init__(
        self,
        per_second: float,
        *,
        questions: int,
        tell: Callable[[Served], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._questions = questions
        self._tell = tell
        self._clock = clock
        self._served: dict[str, float] = {}
        self._told_at = float("-inf")
        self._accounts: defaultdict[str, Account] = defaultdict(lambda: Account(per_second, clock()))
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._asking: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def served(self, tenant: str) -> None:
        """A request of a tenant is answered that is no bulk: somebody waits for it."""
        now = self._clock()
        self._served.pop(tenant, None)
        self._served[tenant] = now
        while len(self._served) > 2:
            del self._served[next(iter(self._served))]
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            self._tell(Served(tenants=tuple(self._served), share=self._per_second))

    def take(self, tenant: str, amount: int) -> None:
        """Count so many memories of bulk. Raises `RateLimited` where nothing is left of the tenant's share."""
        if self._is_alone(tenant):
            return
        self.check(tenant)
        self._accounts[tenant].left -= amount

    def check(self, tenant: str) -> None:
        """Raises `RateLimited` where nothing is left of the tenant's share."""
        if not self._is_alone(tenant) and (account := self._filled(tenant)).left <= 0:
            raise self._refusal(account)

    @contextlib.asynccontextmanager
    async def large(self, tenant: str) -> AsyncIterator[None]:
        """The turn of a large request, one of each tenant at a time while others are served. Raises as `take`."""
        if self._is_alone(tenant):
            yield
            return
        turn = self._turns.setdefault(tenant, asyncio.Lock())
        async with turn:
            self.check(tenant)
            yield

    @contextlib.asynccontextmanager
    async def question(self, tenant: str) -> AsyncIterator[None]:
        """The turn of a question: a few of each tenant at a time while others are served.

        None is refused: where answers are slow, as many wait of a tenant that asks little, and go on after a moment.
        """
        if self._is_alone(tenant):
            yield
            return
        places = self._asking.setdefault(tenant, asyncio.Semaphore(self._questions))
        async with contextlib.AsyncExitStack() as held:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await places.acquire()
                held.callback(places.release)
            yield

    def _is_alone(self, tenant: str) -> bool:
        since = self._clock() - QUIET_SECONDS
        return not any(other != tenant and at > since for other, at in self._served.items())

    def _filled(self, tenant: str) -> Account:
        account, now = self._accounts[tenant], self._clock()
        account.left = min(account.left + (now - account.at) * self._per_second, self._per_second)
        account.at = now
        return account

    def _refusal(self, account: Account) -> RateLimited:
        wait = min((1.0 - account.left) / self._per_second, LONGEST_WAIT)
        return RateLimited(
            f"while others are served, a tenant may send {self._per_second:g} memories a second in bulk; slow down",
            retry_after=wait,
        )
