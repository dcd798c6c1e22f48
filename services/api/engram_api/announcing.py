"""Telling workers that people are being served, without any request waiting for it."""

from __future__ import annotations

import asyncio
import contextlib

from engram_contracts.errors import EngramError
from engram_contracts.events import Served
from engram_contracts.recovery import SYSTEM
from engram_runtime.bus import Bus


class Announcer:
    """Announces in the background; what cannot be announced is forgotten, the next one follows soon."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._under_way: set[asyncio.Task[None]] = set()

    def announce(self, served: Served) -> None:
        """Have workers know."""
        task = asyncio.create_task(self._emit(served))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Return once nothing is under way."""
        await asyncio.gather(*self._under_way)

    async def _emit(self, served: Served) -> None:
        with contextlib.suppress(EngramError):
            await self._bus.emit(SYSTEM, served)
