"""Bounds that many share, and the time after which to come back."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_api.access import Caller
from engram_api.admission import Admission
from engram_api.calls import Call, Prefer
from engram_api.committer import Committer
from engram_api.drafts import Draft
from engram_api.outstanding import Outstanding
from engram_api.pressure import Pressure, Reading, bounded_wait, wait_of
from engram_api.share import Share
from engram_api.shares import Shares
from engram_api.writes import INTERACTIVE_PER_SECOND, Writer
from engram_contracts.errors import EngramError, Overloaded, RateLimited, Rejected, Unavailable
from engram_contracts.ids import new_id
from engram_contracts.topology import LANES, WorkSubject
from engram_runtime.bus import Appended, Backlog, Entry, Extent


def test_one_owner_is_refused_at_its_own_bound_and_others_are_not() -> None:
    shares = Shares("things", total=10, each=4)
    shares.take("greedy", 4)

    with pytest.raises(RateLimited):
        shares.take("greedy")

    shares.take("modest", 4)
    assert shares.held == 8


def test_when_all_is_held_who_holds_much_is_refused_and_who_holds_little_is_not() -> None:
    shares = Shares("things", total=10)
    shares.take("greedy", 10)

    with pytest.raises(Overloaded):
        shares.take("greedy")
    for _ in range(5):
        shares.take("modest")
    with pytest.raises(Overloaded):
        shares.take("modest")


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 6), st.booleans()), max_size=60))
def test_what_is_held_stays_bounded_and_counts_are_right(steps: list[tuple[str, int, bool]]) -> None:
    shares, held = Shares("things", total=10, each=7), []
    for owner, amount, back in steps:
        if back and held:
            shares.give_back(*held.pop())
        try:
            shares.take(owner, amount)
            held.append((owner, amount))
        except EngramError:
            pass
        assert shares.held == sum(amount for _, amount in held) <= 20


def test_requests_and_bytes_in_hand_are_bounded_and_given_back() -> None:
    admission = Admission(requests=100, tenant_requests=2, body_bytes=400)

    with admission.enter("a") as first, admission.enter("a"):
        first.reserve(60)
        with pytest.raises(RateLimited), admission.enter("a"):
            pass
        with pytest.raises(RateLimited):
            first.reserve(60)
        with admission.enter("b") as other:
            other.reserve(100)

    with admission.enter("a") as again:
        again.reserve(100)


def test_requests_of_no_tenant_are_not_bounded() -> None:
    admission = Admission(requests=1, tenant_requests=1, body_bytes=400)

    with admission.enter("a"), admission.enter(""), admission.enter(""):
        pass


@pytest.mark.parametrize(
    ("depth", "rate", "wait"), [(0, 0, 1), (100, 1_000, 1), (20_000, 2_000, 10), (10**6, 10, 60), (5, 0, 60)]
)
def test_the_wait_follows_depth_and_rate_from_one_second_to_sixty(depth: int, rate: float, wait: float) -> None:
    assert bounded_wait(depth, rate) == wait


def test_a_wait_is_told_from_readings_and_not_from_one() -> None:
    one = deque([Reading(0.0, 1_000, 0)])
    two = deque([Reading(0.0, 9_000, 0), Reading(2.0, 1_000, 200)])

    assert wait_of(one) is None
    assert wait_of(two) == 10.0


class Queue:
    """A bus whose lane is worked off at a rate, and whose stream holds so many messages of each tenant."""

    def __init__(self, rate: float = 0.0, waiting: int = 0) -> None:
        self.rate, self.waiting, self.looks = rate, waiting, 0

    async def backlog(self, _: object) -> Backlog:
        return Backlog(depth=1_000, settled=int(asyncio.get_running_loop().time() * self.rate))

    def archive(self, _: object) -> Queue:
        return self

    async def extent(self) -> Extent:
        return Extent(first=1, last=0, messages=0)

    async def subjects(self, pattern: str) -> dict[str, int]:
        self.looks += 1
        return {pattern: self.waiting}


async def test_a_refusal_says_how_long_the_lane_takes() -> None:
    pressure = Pressure(Queue(rate=50))  # type: ignore[arg-type]
    try:
        first = pressure.advise(RateLimited("full", retry_after=1.0), "acme", "remember", "interactive")
        async with asyncio.timeout(5.0):
            while (last := told(pressure)) == 1.0:
                await asyncio.sleep(0.02)
    finally:
        await pressure.close()

    assert isinstance(first, RateLimited) and first.retry_after == 1.0
    assert 15 < last < 30


def told(pressure: Pressure) -> float:
    error = pressure.advise(RateLimited("full", retry_after=1.0), "acme", "remember", "interactive")
    assert isinstance(error, RateLimited) and error.retry_after is not None
    return error.retry_after


async def test_other_errors_stay_as_they_are() -> None:
    error = Rejected("no")

    assert Pressure(Queue()).advise(error, "acme", "remember", "bulk") is error  # type: ignore[arg-type]


async def test_a_tenant_may_have_so_many_bytes_outstanding_and_nobody_is_asked_before() -> None:
    queue, now = Queue(waiting=10), [0.0]
    outstanding = Outstanding(queue, most=1_000, clock=lambda: now[0])  # type: ignore[arg-type]

    for _ in range(10):
        await outstanding.admit("acme", 100, 1)
    assert queue.looks == 0
    with pytest.raises(RateLimited):
        await outstanding.admit("acme", 100, 1)
    await outstanding.admit("other", 100, 1)
    queue.waiting, now[0] = 3, 1.0
    await outstanding.admit("acme", 100, 1)

    assert queue.looks == 2


class Written:
    """Appends to memory."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def write(self, entries: Any) -> list[Appended]:
        self.subjects += [entry.subject for entry in entries]
        return [Appended(sequence=len(self.subjects), duplicate=False) for _ in entries]


async def test_what_one_tenant_sends_in_haste_travels_as_bulk_and_other_tenants_do_not() -> None:
    written, now = Written(), [0.0]
    queues: list[Committer[Entry, Appended]] = [Committer(written.write, waiting=10_000) for _ in range(2)]  # type: ignore[arg-type]
    writer = Writer(
        *queues, Outstanding(Queue(), most=10**9), Pressure(Queue()), alone(),  # type: ignore[arg-type]
        clock=lambda: now[0],
    )  # fmt: skip
    in_haste = int(INTERACTIVE_PER_SECOND)

    for _ in range(in_haste + 5):
        await writer.write(call("hasty"), [draft("remember")])
    await writer.write(call("calm"), [draft("remember")])
    await writer.write(call("hasty"), [draft("forget")])
    now[0] += 1.0
    await writer.write(call("hasty"), [draft("remember")])

    lanes = [WorkSubject.parse(subject).lane in LANES["interactive"] for subject in written.subjects]
    assert lanes == [True] * in_haste + [False] * 5 + [True, True, True]


def alone() -> Share:
    """The share of tenants beside whom nobody is served."""
    return Share(1.0, questions=1, tell=lambda _: None)


def draft(op: str) -> Draft:
    return Draft(op, new_id(), b"{}")


def call(tenant: str) -> Call[None, None]:
    return Call(
        caller=Caller(tenant, "writer"), body=None, query=None, path={}, request_id="r", correlation="c",
        idempotency_key=None, prefer=Prefer(),
    )  # fmt: skip


class Stuck:
    """Writes when let go; remembers whose items came in which group."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.let_go = asyncio.Event()

    async def write(self, items: Any) -> list[str]:
        self.groups.append(list(items))
        await self.let_go.wait()
        return list(items)


async def test_owners_take_turns_and_one_that_floods_is_refused_alone() -> None:
    stuck = Stuck()
    committer: Committer[str, str] = Committer(stuck.write, waiting=40, each=20, together=4)  # type: ignore[arg-type]
    first = asyncio.create_task(committer.commit(["first"], owner="a"))
    await asyncio.sleep(0)
    flood = [asyncio.create_task(committer.commit(["flood"], owner="a")) for _ in range(20)]
    await asyncio.sleep(0)

    with pytest.raises(RateLimited):
        await committer.commit(["one more"], owner="a")
    other = asyncio.create_task(committer.commit(["other"], owner="b"))
    await asyncio.sleep(0)
    stuck.let_go.set()

    assert await other == ["other"]
    assert stuck.groups[:2] == [["first"], ["flood", "other", "flood", "flood"]]
    assert len(await asyncio.gather(first, *flood)) == 21


async def test_who_gets_no_outcome_in_time_is_refused_and_what_did_not_leave_yet_never_does() -> None:
    stuck = Stuck()
    committer: Committer[str, str] = Committer(stuck.write, waiting=40, patience=0.05)  # type: ignore[arg-type]
    began = datetime.now(UTC)

    first = asyncio.create_task(committer.commit(["a"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    outcomes = await asyncio.gather(first, committer.commit(["b"]), return_exceptions=True)
    waited = (datetime.now(UTC) - began).total_seconds()
    stuck.let_go.set()
    await committer.close()

    assert all(isinstance(outcome, Unavailable) for outcome in outcomes) and waited < 0.5
    assert stuck.groups == [["a"]]


async def test_a_queue_that_is_too_long_is_the_fault_of_its_owner_while_the_broker_writes() -> None:
    async def write(items: Any) -> list[str]:
        await asyncio.sleep(0.06)
        return list(items)

    committer: Committer[str, str] = Committer(write, waiting=40, together=1, patience=0.1)  # type: ignore[arg-type]

    outcomes = await asyncio.gather(*(committer.commit([n], owner="a") for n in "abcd"), return_exceptions=True)

    assert outcomes[0] == ["a"] and isinstance(outcomes[-1], RateLimited)
