"""Work that was settled and lies in its queue again: its removal was lost when the power went, or a disk was full.

Nobody is given it any more, and it would be counted for ever. The consumer remembers that it was settled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from engram_contracts.errors import Unavailable
from engram_contracts.topology import CONSUMERS, WORK, Consumer
from engram_recovery.unclaimed import bury_unclaimed
from engram_runtime.bus import Archive, Bus

log = logging.getLogger(__name__)

LOT = 100
TAKEN = tuple(consumer for consumer in CONSUMERS if consumer.stream is WORK)


@contextlib.asynccontextmanager
async def clearing(bus: Bus, *, every: float, patience: float) -> AsyncIterator[None]:
    """Take such work out of the queue, now and then, while the context is open.

    So is what nobody takes for `patience` seconds, which is buried.
    """
    task = asyncio.create_task(_keep_clearing(bus, every, patience))
    try:
        yield
    finally:
        task.cancel()


async def _keep_clearing(bus: Bus, every: float, patience: float) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            if gone := await clear(bus, TAKEN):
                log.warning("worked off before", extra={"messages": gone})
            await bury_unclaimed(bus, before=datetime.now(UTC) - timedelta(seconds=patience))
        await asyncio.sleep(every)


async def clear(bus: Bus, consumers: Sequence[Consumer]) -> int:
    """Take out what these consumers have settled; how many messages that were. A repeat finds nothing."""
    archive = bus.archive(WORK)
    extent = await archive.extent()
    gone = 0
    for consumer in consumers if extent.messages else ():
        floor = (await bus.backlog(consumer)).floor
        if extent.first <= floor <= extent.last:
            for pattern in consumer.filters:
                gone += await _take_out(archive, pattern, floor)
    return gone


async def _take_out(archive: Archive, pattern: str, floor: int) -> int:
    found = await archive.read(1, pattern=pattern, limit=LOT)
    settled = [stored.sequence for stored in found if stored.sequence <= floor]
    return sum([await archive.delete(sequence) for sequence in settled])
