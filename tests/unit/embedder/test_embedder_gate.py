from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from engram_embedder.gate import Gate, Urgency


async def lined_up(gate: Gate, urgencies: list[Urgency]) -> tuple[list[asyncio.Task[None]], list[int]]:
    """Tasks that wait for their turn, each of which writes down its number when it comes."""
    order: list[int] = []

    async def work(number: int, urgency: Urgency) -> None:
        async with gate.turn(urgency):
            order.append(number)

    tasks = [asyncio.create_task(work(n, urgency)) for n, urgency in enumerate(urgencies)]
    await asyncio.sleep(0)
    return tasks, order


@given(st.lists(st.sampled_from(Urgency), max_size=20))
def test_the_most_urgent_goes_first_and_equals_in_order_of_arrival(urgencies: list[Urgency]) -> None:
    async def run() -> list[int]:
        gate = Gate(1)
        async with gate.turn(Urgency.BULK):
            tasks, order = await lined_up(gate, urgencies)
        await asyncio.gather(*tasks)
        return order

    order = asyncio.run(run())

    assert order == sorted(range(len(urgencies)), key=lambda n: (urgencies[n], n))


async def test_no_more_are_let_in_than_there_are_places() -> None:
    gate, inside, most = Gate(2), 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with gate.turn(Urgency.BULK):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(10)))

    assert most == 2


async def test_a_free_gate_is_entered_without_waiting() -> None:
    gate = Gate(1)

    for _ in range(3):
        async with asyncio.timeout(1), gate.turn(Urgency.BULK):
            pass


async def test_one_who_stops_waiting_does_not_take_a_place_along() -> None:
    gate = Gate(1)
    async with gate.turn(Urgency.BULK):
        tasks, order = await lined_up(gate, [Urgency.QUERY, Urgency.BULK])
        tasks[0].cancel()

    await asyncio.gather(*tasks, return_exceptions=True)

    assert order == [1]


async def test_one_cancelled_just_after_being_called_hands_the_place_on() -> None:
    gate = Gate(1)
    async with gate.turn(Urgency.BULK):
        tasks, order = await lined_up(gate, [Urgency.QUERY, Urgency.BULK])
    tasks[0].cancel()  # the place is already its own, but it has not run yet

    await asyncio.gather(*tasks, return_exceptions=True)

    assert order == [1]


async def test_an_error_inside_gives_the_place_back() -> None:
    gate = Gate(1)
    try:
        async with gate.turn(Urgency.BULK):
            raise ValueError
    except ValueError:
        pass

    async with asyncio.timeout(1), gate.turn(Urgency.BULK):
        pass
