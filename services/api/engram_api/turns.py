"""Heavy work of many on one event loop: one piece at a time, owners by turns, so that light work comes in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Turns:
    """Lets one in at a time. Who waits is let in by turns of owners, and in order among those of one owner."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        """The block runs alone."""
        if self._taken:
            await self._wait(owner)
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, owner: str) -> None:
        let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(let_in)
        try:
            await let_in
        except asyncio.CancelledError:
            if let_in.done() and not let_in.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Let the next one in; the turn stays taken for it."""
        while self._waiting:
            owner, queue = next(iter(self._waiting.items()))
            del self._waiting[owner]
            let_in = queue.popleft()
            if queue:
                self._waiting[owner] = queue
            if not let_in.done():
                let_in.set_result(None)
                return
        self._taken = False
