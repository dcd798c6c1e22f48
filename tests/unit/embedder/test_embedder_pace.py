"""How fast bulk work goes beside others who are served."""

from __future__ import annotations

import asyncio

from engram_contracts.events import Served
from engram_embedder.pace import PORTION, QUIET_SECONDS, Pace


class Clock:
    """A time that is set."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_while_nobody_else_is_served_all_is_done_at_once() -> None:
    pace = Pace(Clock())
    pace.hear(Served(tenants=("a",), share=10.0))

    async with asyncio.timeout(1.0):
        for _ in range(10):
            await pace.turn(["a"] * 64)

    assert pace.portion(["a"] * 64) == 64


async def test_while_others_are_served_a_tenant_waits_until_its_share_has_room_and_others_do_not() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.hear(Served(tenants=("b",), share=10.0))
    await pace.turn(["a"] * 5)

    waiting = asyncio.create_task(pace.turn(["a"]))
    async with asyncio.timeout(1.0):
        await pace.turn(["c"] * 16)
    assert not waiting.done()
    clock.now += 0.6
    async with asyncio.timeout(1.0):
        await waiting

    assert pace.portion(["a"] * 64) == PORTION


async def test_who_waits_goes_on_when_nobody_else_is_served_any_more() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.hear(Served(tenants=("b",), share=0.001))
    await pace.turn(["a"] * 5)

    waiting = asyncio.create_task(pace.turn(["a"]))
    await asyncio.sleep(0)
    clock.now += QUIET_SECONDS + 0.1

    async with asyncio.timeout(1.0):
        await waiting
