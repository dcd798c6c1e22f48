import asyncio
from collections.abc import Sequence

import pytest

from engram_api.committer import Committer
from engram_contracts.errors import Internal, Overloaded, RateLimited, Unavailable


class Slow:
    """Writes one group at a time and only when let go."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.let_go = asyncio.Semaphore(0)

    async def write(self, items: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(items))
        await self.let_go.acquire()
        return [item * 10 if item >= 0 else ValueError(item) for item in items]


async def begun(*coroutines) -> list[asyncio.Task]:
    """Tasks that have begun; the first had its write to itself."""
    tasks = []
    for one in coroutines:
        tasks.append(asyncio.create_task(one))
        for _ in range(5):
            await asyncio.sleep(0)
    return tasks


async def test_what_comes_during_a_write_is_written_together_next() -> None:
    slow = Slow()
    committer = Committer(slow.write, waiting=100)

    tasks = await begun(*(committer.commit([n]) for n in range(5)))
    slow.let_go.release()
    slow.let_go.release()

    assert await asyncio.gather(*tasks) == [[0], [10], [20], [30], [40]]
    assert slow.groups == [[0], [1, 2, 3, 4]]


async def test_each_request_gets_its_own_outcomes() -> None:
    slow = Slow()
    committer = Committer(slow.write, waiting=100)

    tasks = await begun(committer.commit([0]), committer.commit([1, -1]), committer.commit([2]))
    slow.let_go.release()
    slow.let_go.release()
    _, mixed, last = await asyncio.gather(*tasks)

    assert mixed[0] == 10 and isinstance(mixed[1], ValueError) and last == [20]


async def test_a_write_takes_whole_requests_up_to_its_size() -> None:
    slow = Slow()
    committer = Committer(slow.write, waiting=100, together=3)

    tasks = await begun(*(committer.commit([n] * (n + 1)) for n in range(4)))
    for _ in range(4):
        slow.let_go.release()
    await asyncio.gather(*tasks)

    assert slow.groups == [[0], [1, 1], [2, 2, 2], [3, 3, 3, 3]]


async def test_past_its_bound_it_refuses_at_once() -> None:
    slow = Slow()
    committer = Committer(slow.write, waiting=3)
    tasks = await begun(committer.commit([0]), committer.commit([1, 2]))

    with pytest.raises(Overloaded):
        await committer.commit([3, 4])

    slow.let_go.release()
    slow.let_go.release()
    assert await asyncio.gather(*tasks) == [[0], [10, 20]]


async def test_a_request_that_went_away_does_not_harm_the_others() -> None:
    slow = Slow()
    committer = Committer(slow.write, waiting=100)
    tasks = await begun(committer.commit([0]), committer.commit([1]), committer.commit([2]))

    tasks[1].cancel()
    slow.let_go.release()
    slow.let_go.release()

    assert await tasks[2] == [20]
    assert slow.groups == [[0], [1, 2]]


async def test_a_write_that_breaks_fails_its_own_requests_only() -> None:
    async def write(items: Sequence[int]) -> list[int | Exception]:
        if items[0] == 0:
            raise RuntimeError("broken")
        return list(items)

    committer = Committer(write, waiting=100)

    first, second = (await committer.commit([0]))[0], await committer.commit([1])

    assert isinstance(first, Internal) and second == [1]


async def test_closing_finishes_what_was_begun_and_refuses_the_rest() -> None:
    slow = Slow()
    committer = Committer(slow.write, waiting=100)
    tasks = await begun(committer.commit([1]), committer.commit([2]))

    closing = (await begun(committer.close()))[0]
    with pytest.raises(Unavailable):
        await committer.commit([3])
    assert not closing.done()
    slow.let_go.release()
    slow.let_go.release()
    await closing

    assert await asyncio.gather(*tasks) == [[10], [20]]


async def test_who_waits_behind_its_own_is_told_to_slow_down_and_who_waits_for_the_broker_is_not() -> None:
    slow = Slow()
    committer = Committer(slow.write, waiting=100, patience=0.2)
    tasks = await begun(committer.commit([0], owner="a"), committer.commit([1], owner="a"))
    slow.let_go.release()  # the first is written, the second is under way when its time is up
    refused = await asyncio.gather(*tasks, *await begun(committer.commit([2], owner="b")), return_exceptions=True)
    slow.let_go.release()
    slow.let_go.release()
    await committer.close()

    assert [type(each) for each in refused] == [list, RateLimited, Unavailable]
