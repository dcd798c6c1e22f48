"""Who goes first: recalls before writes, and writes of an engine in this process one slice at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator


class Turns:
    """At most `writers` write at once, and wait for recalls under way: `patience` seconds a slice, no longer.

    A recall that hangs on another service thus slows writing down, but does not stop it.
    """

    def __init__(self, *, writers: int = 1, patience: float = 0.01) -> None:
        self._patience = patience
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
            if not self._recalls:
                self._quiet.set()

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[None]:
        """The turn to write one slice; what came in since the last one has run first."""
        async with self._writers:
            await asyncio.sleep(0)
            if not self._quiet.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._patience):
                        await self._quiet.wait()
            yield
