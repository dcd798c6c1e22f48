"""Models are called only for what a tenant's plan leaves, and by each tenant only as often at once as its share."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from engram_contracts.control import Limits, Quotas
from engram_contracts.errors import Unavailable
from engram_contracts.facts import ModelUse
from engram_contracts.questions import GetStanding, Standing
from engram_reasoner.budget import Budget
from engram_reasoner.slots import Slots

LIMITED = Limits(quotas=Quotas(think_tokens=1_000))
DAY = datetime(2026, 11, 22, tzinfo=UTC)


class Ledger:
    """A bus that answers for metering alone."""

    def __init__(self, used: int | None) -> None:
        self.used = used
        self.asked = 0

    async def ask(self, question: GetStanding, *, within: float) -> Standing:
        self.asked += 1
        if self.used is None:
            raise Unavailable("away")
        return Standing(tenant=question.tenant, used={"think_tokens": self.used}, resets_at=DAY)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def budget(ledger: Ledger, limits: Limits = LIMITED, clock: Clock | None = None) -> Budget:
    return Budget(ledger, lambda _: limits, clock=clock or Clock())  # type: ignore[arg-type]  # asks, and nothing else


async def granted(of: Budget, tokens: int, use: int = 0) -> bool:
    async with of.reserve("acme", tokens) as reservation:
        reservation.use = ModelUse(prompt_tokens=use) if use else None
        return reservation.granted


async def test_a_call_that_would_go_beyond_the_plan_is_not_made() -> None:
    tight = budget(Ledger(used=600))

    assert await granted(tight, 400)
    assert not await granted(tight, 401)


async def test_calls_at_once_share_what_is_left() -> None:
    tight = budget(Ledger(used=0))

    async with tight.reserve("acme", 600) as first, tight.reserve("acme", 600) as second:
        assert (first.granted, second.granted) == (True, False)

    assert await granted(tight, 600)


async def test_what_a_call_took_counts_before_the_ledger_knows_it_and_once_after() -> None:
    ledger, clock = Ledger(used=0), Clock()
    tight = budget(ledger, clock=clock)
    await granted(tight, 500, use=300)

    assert not await granted(tight, 701)
    ledger.used = 300
    clock.now += 10
    assert await granted(tight, 700)


async def test_without_a_bound_nobody_is_asked_and_a_ledger_that_is_away_stops_nobody() -> None:
    free, away = Ledger(used=0), Ledger(used=None)

    assert await granted(budget(free, Limits()), 10**9)
    assert await granted(budget(away), 1_000)
    assert (free.asked, away.asked) == (0, 1)


async def test_a_tenant_has_no_more_places_than_its_share_while_others_are_let_in() -> None:
    slots = Slots(4, lambda tenant: 0.5 if tenant == "greedy" else 1.0)
    inside: list[str] = []
    done = asyncio.Event()

    async def call(tenant: str) -> None:
        async with slots.of(tenant):
            inside.append(tenant)
            await done.wait()

    calls = [asyncio.create_task(call("greedy")) for _ in range(5)]
    await asyncio.sleep(0)
    calls += [asyncio.create_task(call("modest")) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    at_first = sorted(inside)
    done.set()
    await asyncio.gather(*calls)

    assert at_first == ["greedy", "greedy", "modest", "modest"]
    assert (inside.count("greedy"), inside.count("modest")) == (5, 3)


async def test_who_gives_up_waiting_takes_no_place() -> None:
    slots = Slots(1)
    async with slots.of("acme"):
        waiting = asyncio.create_task(_enter(slots))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    async with asyncio.timeout(5):
        await _enter(slots)


async def _enter(slots: Slots) -> None:
    async with slots.of("acme"):
        pass
