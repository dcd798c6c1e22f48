"""Group commit: what arrives while one write is under way is written together next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from engram_contracts.errors import Internal, Overloaded, Unavailable

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Ticket(Generic[T, R]):
    items: Sequence[T]
    outcomes: asyncio.Future[Sequence[R | Exception]]


class Committer(Generic[T, R]):
    """Writes items of concurrent requests together and hands each request the outcomes of its own.

    `write` gets items in order and answers one outcome per item. At most `waiting` items queue; a write takes
    whole requests up to about `together` items.
    """

    def __init__(
        self, write: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]], *, waiting: int, together: int = 500
    ) -> None:
        self._write = write
        self._waiting = waiting
        self._together = together
        self._queue: deque[_Ticket[T, R]] = deque()
        self._queued = 0
        self._writing: asyncio.Task[None] | None = None
        self._closed = False

    async def commit(self, items: Sequence[T]) -> Sequence[R | Exception]:
        """One outcome per item, once they are durable or refused. Raises `Overloaded` when the queue is full."""
        if self._closed:
            raise Unavailable("this door is closing; try again", retry_after=1.0)
        if self._queued + len(items) > self._waiting and self._queued:
            raise Overloaded("too many writes wait for the broker; try again", retry_after=1.0)
        ticket: _Ticket[T, R] = _Ticket(items, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._queued += len(items)
        if self._writing is None:
            self._writing = asyncio.create_task(self._drain())
        return await ticket.outcomes

    async def close(self) -> None:
        """Refuse what comes, and return once all that is queued has its outcome."""
        self._closed = True
        if self._writing is not None:
            await self._writing

    async def _drain(self) -> None:
        try:
            while self._queue:
                await self._write_group(self._take())
        finally:
            self._writing = None

    def _take(self) -> list[_Ticket[T, R]]:
        group = [self._queue.popleft()]
        size = len(group[0].items)
        while self._queue and size + len(self._queue[0].items) <= self._together:
            size += len(self._queue[0].items)
            group.append(self._queue.popleft())
        self._queued -= size
        return group

    async def _write_group(self, group: Sequence[_Ticket[T, R]]) -> None:
        items = [item for ticket in group for item in ticket.items]
        outcomes = await self._outcomes(items)
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
