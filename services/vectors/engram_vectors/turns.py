"""Who goes first: recalls before writes, and writes of an engine in this process one slice at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

MANY, FEW = 32, 8
"""Facts written in one go. An engine in this process answers nobody meanwhile: some 0.1 ms a fact, on slow days 0.3."""
BUSY_SECONDS = 1.0
"""So long after a recall the next one is expected."""


class Turns:
    """At most `writers` write at once, and wait for recalls under way: `patience` seconds a slice, no longer.

    A recall that hangs on another service thus slows writing down, but does not stop it. A slice is of at most `few`
    facts while people recall.
    """

    def __init__(
        self,
        *,
        writers: int = 1,
        patience: float = 0.01,
        few: int = FEW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._few = few
        self._clock = clock
        self._recalled = -BUSY_SECONDS
        self._recalls = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._writers = asyncio.Semaphore(writers)

    @contextlib.contextmanager
    def recall(self) -> Iterator[None]:
        """A recall is under way while the context is open."""
        self._recalls += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._recalls -= 1
            self._recalled = self._clock()
            if not self._recalls:
                self._quiet.set()

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[int]:
        """The turn to write one slice, of at most so many facts; what came in since the last one has run first."""
        async with self._writers:
            await asyncio.sleep(0)
            if not self._quiet.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience):
                        await self._quiet.wait()
            busy = self._recalls or self._clock() - self._recalled < BUSY_SECONDS
            yield self._few if busy else MANY
