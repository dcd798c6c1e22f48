"""Group commit: what arrives while one write is under way is written together next."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from engram_api.pressure import bounded_wait
from engram_api.shares import Shares
from engram_contracts.errors import Internal, Overloaded, RateLimited, Unavailable

T = TypeVar("T")
R = TypeVar("R")

OWNERLESS = ""


@dataclass(eq=False, slots=True)
class _Ticket(Generic[T, R]):
    owner: str
    items: Sequence[T]
    outcomes: asyncio.Future[Sequence[R | Exception]]
    at: float
    behind: bool
    """Whether the owner had others before it, queued or under way."""


class Committer(Generic[T, R]):
    """Writes items of concurrent requests together and hands each request the outcomes of its own.

    `write` gets items in order and answers one outcome per item. About `waiting` items may queue, at most `each` of
    one owner; owners take turns. A write takes whole requests up to about `together` items. Who has no outcome after
    `patience` seconds is refused.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        waiting: int,
        each: int | None = None,
        together: int = 500,
        patience: float = 2.0,
    ) -> None:
        self._write = write
        self._together = together
        self._patience = patience
        self._queues: dict[str, deque[_Ticket[T, R]]] = {}
        self._queued = Shares("writes", total=waiting, each=each)
        self._per_second = 0.0
        self._written_at = 0.0
        self._under_way: frozenset[str] = frozenset()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    async def commit(self, items: Sequence[T], *, owner: str = OWNERLESS) -> Sequence[R | Exception]:
        """One outcome per item, once they are durable or refused.

        Raises `RateLimited` or `Overloaded` when too much is queued, of this owner or in all, and `Unavailable` when
        the broker takes too long; what was handed to it by then may still be there later.
        """
        if self._closed:
            raise Unavailable("this door is closing; try again", retry_after=1.0)
        try:
            self._queued.take(owner, len(items))
        except (RateLimited, Overloaded) as error:
            error.retry_after = bounded_wait(self._queued.held, self._per_second)
            raise
        outcomes = asyncio.get_running_loop().create_future()
        behind = owner in self._queues or owner in self._under_way
        ticket: _Ticket[T, R] = _Ticket(owner, items, outcomes, time.monotonic(), behind)
        self._queues.setdefault(owner, deque()).append(ticket)
        if self._writing is None:
            self._writing = asyncio.create_task(self._drain(), context=Context())  # of no one request
        return await self._outcome(ticket)

    async def close(self) -> None:
        """Refuse what comes, and return once all that is queued has its outcome."""
        self._closed = True
        if self._writing is not None:
            await self._writing

    async def _outcome(self, ticket: _Ticket[T, R]) -> Sequence[R | Exception]:
        timer = asyncio.get_running_loop().call_later(self._patience, self._give_up, ticket)
        try:
            return await ticket.outcomes
        finally:
            timer.cancel()

    def _give_up(self, ticket: _Ticket[T, R]) -> None:
        """Refuse, and do not write what is refused where that can still be helped."""
        queue = self._queues.get(ticket.owner, ())
        waits = ticket in queue
        if not ticket.outcomes.done():
            ticket.outcomes.set_exception(self._late(ticket, waits=waits))
        if waits:
            self._queues[ticket.owner].remove(ticket)
            self._leave(ticket)

    def _late(self, ticket: _Ticket[T, R], *, waits: bool) -> Unavailable | RateLimited:
        """Why there is no outcome: the broker, unless it wrote meanwhile what this owner had queued before."""
        if self._written_at > ticket.at and (waits or ticket.behind):
            wait = bounded_wait(self._queued.held, self._per_second)
            return RateLimited("more of this tenant's writes are queued than can be written in time", retry_after=wait)
        return Unavailable("the broker did not acknowledge the write in time; try again", retry_after=1.0)

    async def _drain(self) -> None:
        try:
            while self._queues:
                await self._write_group(self._take())
        finally:
            self._writing = None

    def _take(self) -> list[_Ticket[T, R]]:
        """One request of each owner in turn, until the write is full."""
        group: list[_Ticket[T, R]] = []
        size = 0
        while self._queues:
            owner, queue = next(iter(self._queues.items()))
            if group and size + len(queue[0].items) > self._together:
                break
            del self._queues[owner]
            self._queues[owner] = queue
            ticket = queue.popleft()
            size += len(ticket.items)
            group.append(ticket)
            self._leave(ticket)
        return group

    def _leave(self, ticket: _Ticket[T, R]) -> None:
        self._queued.give_back(ticket.owner, len(ticket.items))
        if not self._queues[ticket.owner]:
            del self._queues[ticket.owner]

    async def _write_group(self, group: Sequence[_Ticket[T, R]]) -> None:
        items = [item for ticket in group for item in ticket.items]
        began = time.monotonic()
        self._under_way = frozenset(ticket.owner for ticket in group)
        outcomes = await self._outcomes(items)
        self._under_way = frozenset()
        if not all(isinstance(outcome, Unavailable) for outcome in outcomes):
            self._written_at = time.monotonic()
            self._per_second = len(items) / max(self._written_at - began, 1e-6)
        start = 0
        for ticket in group:
            end = start + len(ticket.items)
            if not ticket.outcomes.done():
                ticket.outcomes.set_result(outcomes[start:end])
            start = end

    async def _outcomes(self, items: Sequence[T]) -> Sequence[R | Exception]:
        try:
            return await self._write(items)
        except Exception as error:
            wrapped = Internal(f"the write failed: {type(error).__name__}")
            wrapped.__cause__ = error
            return [wrapped] * len(items)
