"""Where messages are tried: many together, or one alone, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from engram_runtime.breaker import Room

LONG = 30.0


class Guests:
    """Who has been let in, and who has left."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self._staying: list[asyncio.Task[None]] = []

    async def comes(self, name: str, way: AbstractAsyncContextManager[None]) -> None:
        self._leave[name] = asyncio.Event()
        self._staying.append(asyncio.create_task(self._stays(name, way)))
        await settled()

    async def leaves(self, name: str) -> None:
        self._leave[name].set()
        await settled()

    async def all_leave(self) -> None:
        for leave in self._leave.values():
            leave.set()
        await asyncio.wait_for(asyncio.gather(*self._staying), 10)

    async def _stays(self, name: str, way: AbstractAsyncContextManager[None]) -> None:
        async with way:
            self.inside.append(name)
            await self._leave[name].wait()
            self.inside.remove(name)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_many_are_in_together() -> None:
    room, guests = Room(LONG), Guests()
    await guests.comes("one", room.together())
    await guests.comes("two", room.together())
    assert guests.inside == ["one", "two"]
    await guests.all_leave()


async def test_one_comes_in_alone_once_the_others_have_left_and_before_those_that_come_later() -> None:
    room, guests = Room(LONG), Guests()
    await guests.comes("early", room.together())
    await guests.comes("suspect", room.alone())
    await guests.comes("late", room.together())
    assert guests.inside == ["early"]
    await guests.leaves("early")
    assert guests.inside == ["suspect"]
    await guests.leaves("suspect")
    assert guests.inside == ["late"]
    await guests.all_leave()


@pytest.mark.parametrize("way", [Room.together, Room.alone])
async def test_nobody_waits_for_long_for_one_that_stays(
    way: Callable[[Room], AbstractAsyncContextManager[None]],
) -> None:
    room, guests = Room(0.05), Guests()
    await guests.comes("slow", room.alone())
    await guests.comes("next", way(room))
    assert guests.inside == ["slow"]
    await within(lambda: guests.inside == ["slow", "next"])
    await guests.all_leave()


async def test_a_time_that_was_lent_ends_with_the_stay_it_was_lent_to() -> None:
    room, guests = Room(0.3), Guests()
    await guests.comes("first", room.alone())
    await asyncio.sleep(0.2)
    await guests.leaves("first")
    await guests.comes("second", room.alone())
    await guests.comes("third", room.together())
    await asyncio.sleep(0.2)
    assert guests.inside == ["second"]
    await guests.all_leave()


async def within(true: Callable[[], bool], *, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)
