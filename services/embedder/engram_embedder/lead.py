"""How far bulk work may run ahead of the index: what others write stands behind it in the same partition of the log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence

from engram_contracts.errors import EngramError
from engram_contracts.ids import partition_of
from engram_contracts.topology import VECTORS_LOG
from engram_runtime.bus import Bus

MOST = 512
"""Facts of a partition that may wait for the index when more bulk is added: a few tenths of a second of its work."""
LOOK_EVERY = 128
LOOK_SECONDS = 0.025
PATIENCE_SECONDS = 0.25
"""An index that is away, or is being built anew, must not stop bulk work."""


class Lead:
    """Has bulk work wait for the index, for a moment at most. The broker is asked once for many memories."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._since: Counter[int] = Counter()

    async def wait(self, tenants: Sequence[str]) -> None:
        """Return when memories of these tenants, one entry for each, may be added to the log."""
        self._since.update(map(partition_of, tenants))
        for partition in {partition_of(tenant) for tenant in tenants}:
            if self._since[partition] >= LOOK_EVERY:
                self._since[partition] = 0
                with contextlib.suppress(TimeoutError, EngramError):
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await self._until_close(partition)

    async def _until_close(self, partition: int) -> None:
        while (await self._bus.backlog(VECTORS_LOG[partition])).depth > MOST:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(LOOK_SECONDS)
