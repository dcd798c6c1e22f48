"""Recalls before writes, writes one at a time."""

from __future__ import annotations

import asyncio
from time import perf_counter

from engram_vectors.turns import BUSY_SECONDS, MANY, Turns


async def test_writers_take_turns() -> None:
    turns, inside, most = Turns(), 0, 0

    async def write() -> None:
        nonlocal inside, most
        async with turns.write():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(write() for _ in range(8)))

    assert most == 1


async def test_a_write_waits_for_the_recalls_under_way() -> None:
    turns, order = Turns(patience=5), []

    async def write() -> None:
        async with turns.write():
            order.append("write")

    with turns.recall():
        writing = asyncio.create_task(write())
        with turns.recall():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        order.append("recalled")
    await writing

    assert order == ["recalled", "write"]


async def test_a_recall_that_hangs_slows_writing_but_does_not_stop_it() -> None:
    turns = Turns(patience=0.05)

    with turns.recall():
        began = perf_counter()
        async with turns.write():
            waited = perf_counter() - began

    assert waited >= 0.04


async def test_without_recalls_nobody_waits() -> None:
    turns = Turns(patience=60)

    async with asyncio.timeout(5), turns.write():
        pass


async def test_little_is_written_in_one_go_while_people_recall() -> None:
    now = 0.0
    turns, slices = Turns(patience=0.01, few=3, clock=lambda: now), []

    async def write() -> None:
        async with turns.write() as most:
            slices.append(most)

    await write()
    with turns.recall():
        await write()
    await write()
    now = 2 * BUSY_SECONDS
    await write()

    assert slices == [MANY, 3, 3, MANY]
