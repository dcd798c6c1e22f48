"""Rates: a bucket that doors share gives out no more than it has, and mostly without being asked."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_api.addresses import Addresses
from engram_api.buckets import draw, left, slice_of
from engram_api.rates import Rates
from engram_contracts.control import Rate
from engram_contracts.errors import RateLimited

STANDARD = Rate(per_minute=60, burst=10)
QUICK = Rate(per_minute=60_000, burst=1_000)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Store:
    """A key-value entry as JetStream keeps it: a value is set only over the revision that is known."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, int]] = {}
        self.writes = 0

    async def entry(self, key: str) -> tuple[bytes, int] | None:
        await asyncio.sleep(0)
        return self.entries.get(key)

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        await asyncio.sleep(0)
        if self.entries.get(key, (b"", 0))[1] != revision:
            return None
        self.writes += 1
        self.entries[key] = (value, self.writes)
        return self.writes


async def passed(doors: list[Rates], requests: int, rate: Rate, tenant: str = "acme") -> int:
    count = 0
    for number in range(requests):
        try:
            await doors[number % len(doors)].take(tenant, {"standard": rate}, {})
            count += 1
        except RateLimited:
            pass
    return count


def doors(count: int, clock: Clock) -> tuple[list[Rates], Store]:
    store = Store()
    return [Rates(store, clock=clock) for _ in range(count)], store  # type: ignore[arg-type]  # the two that are used


@given(st.lists(st.floats(min_value=0, max_value=30), max_size=40), st.integers(1, 20))
def test_a_bucket_never_gives_more_than_it_held_and_what_flowed_in(pauses: list[float], burst: int) -> None:
    rate, now, full_at, given_out = Rate(per_minute=60, burst=burst), 1000.0, 0.0, 0
    for pause in pauses:
        now += pause
        drawn = draw(full_at, now, rate, 3)
        full_at, given_out = drawn.full_at, given_out + drawn.tokens

    assert given_out <= burst + sum(pauses) + 1e-6


def test_an_empty_bucket_says_when_there_is_another_token() -> None:
    emptied = draw(0.0, 1000.0, STANDARD, 10)

    assert emptied.tokens == 10
    assert draw(emptied.full_at, 1000.0, STANDARD, 1).wait == pytest.approx(1.0)
    assert draw(emptied.full_at, 1001.0, STANDARD, 5).tokens == 1
    assert left(emptied.full_at, 1005.0, STANDARD) == 5


async def test_a_burst_passes_and_the_next_request_is_told_how_long_to_wait() -> None:
    clock = Clock()
    (door,), _ = doors(1, clock)

    assert await passed([door], 10, STANDARD) == 10
    with pytest.raises(RateLimited) as refused:
        await door.take("acme", {"standard": STANDARD}, {})

    assert refused.value.retry_after == pytest.approx(1.0)
    assert refused.value.details["class"] == "standard"


async def test_three_doors_give_out_one_bucket_between_them() -> None:
    clock = Clock()
    three, _ = doors(3, clock)

    assert await passed(three, 60, STANDARD) == 10
    clock.now += 5
    assert await passed(three, 60, STANDARD) == 5


async def test_tenants_have_buckets_of_their_own() -> None:
    clock = Clock()
    (door,), _ = doors(1, clock)
    await passed([door], 20, STANDARD)

    assert await passed([door], 20, STANDARD, tenant="globex") == 10


async def test_a_door_asks_for_a_slice_at_a_time_and_not_when_the_bucket_is_empty() -> None:
    clock = Clock()
    (door,), store = doors(1, clock)

    assert slice_of(QUICK) == 250
    assert await passed([door], 1_000, QUICK) == 1_000
    assert store.writes == 4
    for _ in range(100):
        with pytest.raises(RateLimited):
            await door.take("acme", {"standard": QUICK}, {})
    assert store.writes == 4


async def test_requests_at_once_share_one_draw() -> None:
    clock = Clock()
    (door,), store = doors(1, clock)

    await asyncio.gather(*(door.take("acme", {"standard": QUICK}, {}) for _ in range(200)))

    assert store.writes == 1


async def test_a_slice_that_was_not_used_is_forgotten() -> None:
    clock = Clock()
    (one, other), _ = doors(2, clock)
    await one.take("acme", {"standard": QUICK}, {})
    clock.now += 2

    assert await passed([other, one], 3_000, QUICK) == 1_000


async def test_a_request_that_one_class_refuses_costs_nothing_in_the_other() -> None:
    clock = Clock()
    (door,), _ = doors(1, clock)
    both = {"standard": STANDARD, "model": Rate(per_minute=10, burst=1)}
    await door.take("acme", both, {})  # type: ignore[arg-type]  # a dict of literals

    for _ in range(5):
        with pytest.raises(RateLimited) as refused:
            await door.take("acme", both, {})  # type: ignore[arg-type]  # as above
        assert refused.value.retry_after == pytest.approx(6.0)

    assert await passed([door], 20, STANDARD) == 9


async def test_headers_tell_the_policy_and_what_is_left() -> None:
    clock = Clock()
    (door,), _ = doors(1, clock)

    headers: dict[str, str] = {}

    await door.take("acme", {"standard": STANDARD, "model": Rate(per_minute=10, burst=5)}, headers)

    assert headers["RateLimit-Policy"] == '"standard";q=60;w=60, "model";q=10;w=60'
    assert headers["RateLimit"].startswith('"standard";r=9;t=')
    assert '"model";r=4;t=' in headers["RateLimit"]


def test_an_address_that_fails_too_often_is_not_listened_to_until_time_has_passed() -> None:
    clock = Clock()
    addresses = Addresses(Rate(per_minute=60, burst=3), loopback=False, clock=clock)
    for _ in range(3):
        addresses.check("192.0.2.7")
        addresses.failed("192.0.2.7")

    with pytest.raises(RateLimited):
        addresses.check("192.0.2.7")
    addresses.check("192.0.2.8")
    clock.now += 1
    addresses.check("192.0.2.7")


@pytest.mark.parametrize(
    "failing, asking, refused",
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::2", False),
        ("127.0.0.1", "127.0.0.1", False),
    ],
)
def test_addresses_count_by_network_and_this_machine_not_at_all(failing: str, asking: str, refused: bool) -> None:
    addresses = Addresses(Rate(per_minute=1, burst=1), loopback=False, clock=Clock())
    addresses.failed(failing)
    try:
        addresses.check(asking)
    except RateLimited:
        assert refused
    else:
        assert not refused
