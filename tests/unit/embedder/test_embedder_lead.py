"""How far bulk work runs ahead of the index."""

from __future__ import annotations

import asyncio

from engram_contracts.topology import Consumer
from engram_embedder.lead import LOOK_EVERY, MOST, Lead
from engram_runtime.bus import Backlog
from support.recording_bus import RecordingBus


class Behind(RecordingBus):
    """A bus on which the index lags by these depths in turn, the last for ever."""

    depths: list[int]
    looks = 0

    async def backlog(self, consumer: Consumer) -> Backlog:
        self.looks += 1
        return Backlog(depth=self.depths.pop(0) if len(self.depths) > 1 else self.depths[0], settled=0)


def behind(*depths: int) -> Behind:
    bus = Behind()
    bus.depths = list(depths)
    return bus


async def test_bulk_waits_until_the_index_is_close_and_looks_once_for_many_memories() -> None:
    bus = behind(MOST + 100, MOST + 50, MOST)
    lead = Lead(bus)

    await lead.wait(["a"] * (LOOK_EVERY - 1))
    assert bus.looks == 0
    await lead.wait(["a"])
    await lead.wait(["a"] * (LOOK_EVERY - 1))

    assert bus.looks == 3


async def test_an_index_that_is_away_does_not_stop_bulk_work() -> None:
    async with asyncio.timeout(5.0):
        await Lead(behind(10 * MOST)).wait(["a"] * LOOK_EVERY)


async def test_where_the_broker_does_not_tell_nothing_waits() -> None:
    async with asyncio.timeout(5.0):
        await Lead(RecordingBus()).wait(["a"] * LOOK_EVERY)
