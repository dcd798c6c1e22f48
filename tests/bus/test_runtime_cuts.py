"""How far a log still is what a store has applied of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from engram_contracts.errors import Unavailable
from engram_runtime.cuts import common_end
from engram_runtime.nats_bus import NatsBus
from support.burying import connected
from support.servers import nats_server

LOG = "ENGRAM_LOG"
ENDS = 5
SOON = timedelta(seconds=1)


@pytest.fixture(scope="module")
async def bus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsBus]:
    with nats_server(tmp_path_factory.mktemp("cuts") / "nats") as server:
        async with connected(server) as running:
            for _ in range(ENDS):
                await running.jetstream.publish("engram.log.0.acme.forgotten", b"{}")
            yield running


async def time_of(bus: NatsBus, sequence: int) -> datetime:
    found = (await bus.jetstream.get_msg(LOG, seq=sequence)).time
    assert found is not None
    return found


async def end(bus: NatsBus, position: int, appended: datetime | None) -> int:
    return await common_end(bus.client, bus.jetstream, LOG, position=position, appended=appended)


@pytest.mark.parametrize("position", [1, 3, ENDS])
async def test_a_log_that_holds_the_fact_at_the_position_is_whole(bus: NatsBus, position: int) -> None:
    assert await end(bus, position, await time_of(bus, position)) == position


async def test_a_position_whose_time_is_not_known_is_believed(bus: NatsBus) -> None:
    assert await end(bus, 3, None) == 3


@pytest.mark.parametrize("position", [4, 5, 9])
async def test_where_newer_facts_took_the_numbers_the_log_was_cut_before_them(bus: NatsBus, position: int) -> None:
    assert await end(bus, position, await time_of(bus, 3)) == 3


async def test_a_log_that_ends_early_is_followed_from_its_end(bus: NatsBus) -> None:
    assert await end(bus, 9, await time_of(bus, ENDS) + SOON) == ENDS


async def test_a_clock_that_went_back_has_all_of_the_log_applied_again(bus: NatsBus) -> None:
    assert await end(bus, 3, await time_of(bus, ENDS) + SOON) == 0


async def test_a_log_begun_anew_that_is_too_short_is_told_of(bus: NatsBus) -> None:
    created = (await bus.jetstream.stream_info(LOG)).created
    assert created is not None

    for appended in (created - SOON, None):
        with pytest.raises(Unavailable, match=f"applied up to 9, but ends at {ENDS}: .*rebuild log"):
            await end(bus, 9, appended)


async def test_a_fact_that_was_taken_out_of_the_log_is_no_cut(bus: NatsBus) -> None:
    appended = await time_of(bus, 2)

    await bus.jetstream.delete_msg(LOG, 2)

    assert await end(bus, 2, appended) == 2
