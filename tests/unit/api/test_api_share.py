"""A tenant's share of a system that others use too, and refusals that are held."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from engram_api.brake import AT_ONCE, MOST_HELD, Brake
from engram_api.share import QUIET_SECONDS, Share
from engram_contracts.errors import RateLimited
from engram_contracts.events import Served

QUESTIONS = 3


class Clock:
    """A time that is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> list[Served]:
    return []


@pytest.fixture
def share(clock: Clock, told: list[Served]) -> Share:
    return Share(100.0, questions=QUESTIONS, tell=told.append, clock=clock)


def test_who_is_alone_may_send_as_much_as_it_likes(share: Share) -> None:
    share.served("a")

    for _ in range(10):
        share.take("a", 1_000)


def test_while_others_are_served_a_tenant_is_held_to_its_share_and_told_when_to_come_back(
    share: Share, clock: Clock
) -> None:
    share.served("b")
    share.take("a", 500)

    with pytest.raises(RateLimited) as refused:
        share.take("a", 1)
    share.take("c", 50)
    clock.now += 4.1
    share.served("b")
    share.take("a", 1)

    assert refused.value.retry_after == pytest.approx(4.01)


def test_when_nobody_else_was_served_for_a_while_the_bound_is_gone(share: Share, clock: Clock) -> None:
    share.served("b")
    share.take("a", 500)

    clock.now += QUIET_SECONDS + 0.1

    share.take("a", 500)


async def test_of_large_requests_that_come_together_one_is_taken_and_the_others_are_refused(share: Share) -> None:
    share.served("b")
    read = []

    async def large(number: int) -> None:
        async with share.large("a"):
            read.append(number)
            await asyncio.sleep(0)
            share.take("a", 500)

    outcomes = await asyncio.gather(*(large(n) for n in range(5)), return_exceptions=True)

    assert read == [0]
    assert [isinstance(outcome, RateLimited) for outcome in outcomes] == [False, True, True, True, True]


async def test_large_requests_of_who_is_alone_are_taken_side_by_side(share: Share) -> None:
    share.served("a")

    async with asyncio.timeout(1.0), share.large("a"), share.large("a"):
        pass


async def test_questions_of_a_tenant_take_turns_while_others_are_served_and_each_is_answered(share: Share) -> None:
    share.served("b")
    asked: list[int] = []
    at_once: list[int] = []

    async def ask(number: int) -> None:
        async with share.question("a"):
            asked.append(number)
            at_once.append(len(asked))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asked.remove(number)

    async with asyncio.timeout(5.0):
        await asyncio.gather(*(ask(n) for n in range(20)))

    assert (len(at_once), max(at_once)) == (20, QUESTIONS)


async def test_a_question_that_waited_for_long_goes_on_and_is_not_refused(share: Share) -> None:
    share.served("b")

    async with asyncio.timeout(30.0), contextlib.AsyncExitStack() as slow:
        for _ in range(QUESTIONS + 2):
            await slow.enter_async_context(share.question("a"))


def test_workers_are_told_now_and_then_who_is_served(share: Share, clock: Clock, told: list[Served]) -> None:
    for tenant in "abc":
        share.served(tenant)
    clock.now += 0.3
    share.served("b")

    assert told == [Served(tenants=("a",), share=100.0), Served(tenants=("c", "b"), share=100.0)]


async def test_refusals_of_who_asks_on_and_on_are_held_and_those_of_others_are_not(clock: Clock) -> None:
    brake, loop = Brake(seconds=0.05, clock=clock), asyncio.get_running_loop()
    for _ in range(int(AT_ONCE)):
        assert await brake.hold("a")

    began = loop.time()
    held = asyncio.create_task(brake.hold("a"))
    await brake.hold("b")
    assert not held.done()

    assert await held and loop.time() - began >= 0.04


async def test_so_many_refusals_are_held_and_then_connections_are_closed(clock: Clock) -> None:
    brake = Brake(seconds=0.2, clock=clock)

    asked = [asyncio.create_task(brake.hold("a")) for _ in range(int(AT_ONCE) + MOST_HELD + 1)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    last = await asked[-1]
    kept = await asyncio.gather(*asked[:-1])

    assert (last, set(kept)) == (False, {True})
