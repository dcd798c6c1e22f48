"""The ledger: every effect once, whatever comes again, wherever batches are cut, whenever the process dies."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from engram_contracts.errors import Rejected, Unavailable
from engram_contracts.ids import new_id
from engram_contracts.questions import GetUsage
from engram_contracts.topology import LOG, USAGE
from engram_metering.handlers import Handlers
from engram_metering.intake import CountedRequest, CountedUsage
from engram_metering.ledger_duckdb import DuckLedger, open_ledger
from engram_runtime.service import Delivery
from support.metering_story import (
    BEGIN,
    Step,
    Totals,
    deliveries,
    expected,
    forgotten,
    memory_id,
    remembered,
    revised,
    story,
    thought,
)

TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[DuckLedger]:
    async with open_ledger(tmp_path / "metering" / "ledger.duckdb") as opened:
        yield opened


async def totals(ledger: DuckLedger, *tenants: str) -> Totals:
    found: Totals = {}
    for tenant in tenants:
        usage = await Handlers(ledger).get_usage(GetUsage(tenant=tenant))
        found |= {(tenant, meter): total for meter, total in usage.totals.items() if total}
    return found


async def post(ledger: DuckLedger, *facts: Any, tenant: str = "acme") -> dict[str, int]:
    """The tenant's totals after its facts."""
    first = await ledger.position(LOG.name) + 1
    await ledger.post_facts(deliveries([Step(tenant, fact) for fact in facts], first=first))
    return {meter: total for (_, meter), total in (await totals(ledger, tenant)).items()}


def usage(*events: CountedRequest, sequence: int = 1) -> Delivery[CountedUsage]:
    return Delivery(
        tenant="door", event="usage", message=CountedUsage(events=events), sequence=sequence, at=BEGIN,
        correlation=None,
    )  # fmt: skip


def request(request_id: str, tenant: str = "acme", *, days: float = 0, **counters: int) -> CountedRequest:
    return CountedRequest(request_id=request_id, tenant=tenant, at=BEGIN + timedelta(days=days), counters=counters)


async def test_a_memory_counts_its_utf8_bytes_and_the_tokens_it_cost(ledger: DuckLedger) -> None:
    counted = await post(ledger, remembered(1, 1, "Zoë ❤", tokens=4))

    assert counted == {"memories_created": 1, "storage_bytes": len("Zoë ❤".encode()), "embedding_tokens": 4}


async def test_an_edit_moves_storage_by_the_difference(ledger: DuckLedger) -> None:
    counted = await post(ledger, remembered(1, 1, "12345678"), revised(2, 1, "123"), revised(3, 1, None))

    assert counted["storage_bytes"] == 3


async def test_what_is_forgotten_takes_its_storage_back(ledger: DuckLedger) -> None:
    counted = await post(ledger, remembered(1, 1, "12345678"), revised(2, 1, "123"), forgotten(3, 1), forgotten(4, 1))

    assert counted == {"memories_created": 1, "memories_deleted": 1, "embedding_tokens": 5}


async def test_an_edit_said_again_after_a_later_one_changes_nothing(ledger: DuckLedger) -> None:
    first, second = revised(2, 1, "1234"), revised(3, 1, "12")

    counted = await post(ledger, remembered(1, 1, "12345678"), first, second)

    assert await post(ledger, first) == counted


async def test_a_memory_remembered_under_another_command_counts_once(ledger: DuckLedger) -> None:
    await post(ledger, remembered(1, 1, "once"))

    counted = await post(ledger, remembered(2, 1, "once"), remembered(3, 1, "once"))

    assert counted["memories_created"] == 1


async def test_a_forgotten_memory_does_not_come_back(ledger: DuckLedger) -> None:
    await post(ledger, remembered(1, 1, "gone"), forgotten(2, 1))

    counted = await post(ledger, remembered(1, 1, "gone"), remembered(3, 1, "gone"), revised(4, 1, "back"))

    assert counted == {"memories_created": 1, "memories_deleted": 1, "embedding_tokens": 3}


async def test_a_deletion_that_found_nothing_does_not_delete_when_it_comes_again(ledger: DuckLedger) -> None:
    counted = await post(ledger, forgotten(1, 1), remembered(2, 1, "kept"), forgotten(1, 1))

    assert counted == {"memories_created": 1, "storage_bytes": 4, "embedding_tokens": 3}


async def test_an_answer_counts_its_tokens_once(ledger: DuckLedger) -> None:
    counted = await post(ledger, thought(1, 70, 2**40), thought(1, 70, 2**40), thought(2, 1, 0))

    assert counted == {"thinks": 2, "think_prompt_tokens": 71, "think_completion_tokens": 2**40}


async def test_ids_that_are_no_uuids_are_told_apart(ledger: DuckLedger) -> None:
    named = [remembered(n, n, "x").model_copy(deep=True) for n in (1, 2)]
    upper = memory_id(3).upper()
    facts = [
        fact.model_copy(update={"memory": fact.memory.model_copy(update={"id": name})})
        for fact, name in zip([*named, remembered(3, 3, "x")], ["mine", "mine\x00", upper], strict=True)
    ]

    counted = await post(ledger, *facts, *facts)

    assert counted["memories_created"] == 3


async def test_a_request_counts_one_call_and_its_counters(ledger: DuckLedger) -> None:
    await ledger.post_usage([usage(request(new_id(), search_queries=1), request(new_id(), search_queries=0))])

    assert await totals(ledger, "acme") == {("acme", "api_calls"): 2, ("acme", "search_queries"): 1}


async def test_a_door_cannot_move_the_meters_of_facts(ledger: DuckLedger) -> None:
    await ledger.post_usage([usage(request(new_id(), memories_created=5, storage_bytes=9, api_calls=7))])

    assert await totals(ledger, "acme") == {("acme", "api_calls"): 1}


async def test_a_request_sent_again_in_another_batch_changes_nothing(ledger: DuckLedger) -> None:
    first, second = request(new_id(), search_queries=1), request("named by a client", search_queries=1)

    await ledger.post_usage([usage(first, second, first, second)])
    await ledger.post_usage([usage(second, first, sequence=2), usage(first, sequence=3)])

    assert await totals(ledger, "acme") == {("acme", "api_calls"): 2, ("acme", "search_queries"): 2}


async def test_a_request_under_an_idempotency_key_counts_once_however_late_it_comes_again(ledger: DuckLedger) -> None:
    key = str(uuid4())

    await ledger.post_usage([usage(request(key))])
    await ledger.post_usage([usage(request(key, days=3), sequence=2)])

    assert await totals(ledger, "acme") == {("acme", "api_calls"): 1}


async def test_tenants_share_ids_but_nothing_else(ledger: DuckLedger) -> None:
    await post(ledger, remembered(1, 1, "1234"), revised(2, 1, "12"), thought(3, 5, 5), tenant="acme")
    await post(ledger, remembered(1, 1, "123456"), revised(2, 1, "123"), thought(3, 6, 6), tenant="globex")
    await post(ledger, forgotten(4, 1), tenant="acme")
    await ledger.post_usage([usage(request("r1", "acme"), request("r1", "globex"))])

    found = await totals(ledger, "acme", "globex", "nobody")

    assert found["globex", "storage_bytes"] == 3
    assert found["globex", "think_prompt_tokens"] == 6
    assert found["globex", "api_calls"] == found["acme", "api_calls"] == 1
    assert ("acme", "storage_bytes") not in found
    assert {tenant for tenant, _ in found} == {"acme", "globex"}


async def test_usage_is_told_by_day_and_meter_within_inclusive_bounds(ledger: DuckLedger) -> None:
    facts = [remembered(n, n, "1234", at=BEGIN + timedelta(days=n)) for n in range(4)]
    await post(ledger, *facts)
    ask = Handlers(ledger).get_usage

    middle = await ask(GetUsage(tenant="acme", since="2026-11-02", until="2026-11-03", meter="memories_created"))

    assert [(day.day, day.meter, day.total) for day in middle.days] == [
        ("2026-11-02", "memories_created", 1),
        ("2026-11-03", "memories_created", 1),
    ]
    assert middle.totals == {"memories_created": 2}
    assert (await ask(GetUsage(tenant="acme", meter="no such"))).totals == {}


async def test_a_bad_range_is_refused_by_name(ledger: DuckLedger) -> None:
    with pytest.raises(Rejected) as refused:
        await Handlers(ledger).get_usage(GetUsage(tenant="acme", since="soon"))

    assert refused.value.field == "since"


async def test_positions_of_the_two_streams_move_apart_and_survive(tmp_path: Path) -> None:
    file = tmp_path / "ledger.duckdb"
    async with open_ledger(file) as ledger:
        await ledger.post_facts(deliveries([Step("acme", thought(1, 1, 1))], first=41))
        await ledger.post_usage([usage(request("r1"), sequence=7)])

    async with open_ledger(file) as ledger:
        assert (await ledger.position(LOG.name), await ledger.position(USAGE.name)) == (41, 7)


async def test_a_batch_that_cannot_be_stored_leaves_nothing_behind(ledger: DuckLedger) -> None:
    before = await post(ledger, remembered(1, 1, "kept"))
    good, bad = deliveries([Step("acme", remembered(2, 2, "new")), Step("acme", thought(3, 1, 1))], first=2)
    object.__setattr__(bad.message.use, "prompt_tokens", 2**70)

    with pytest.raises(Rejected):
        await ledger.post_facts([good, bad])

    assert await post(ledger, remembered(1, 1, "kept")) == before
    assert await ledger.position(LOG.name) == 2


async def test_a_second_process_is_told_who_holds_the_ledger(tmp_path: Path) -> None:
    file = tmp_path / "ledger.duckdb"
    opening = f"""
import asyncio, pathlib
from engram_metering.ledger_duckdb import open_ledger
async def main():
    async with open_ledger(pathlib.Path({str(file)!r})): pass
asyncio.run(main())
"""
    async with open_ledger(file):
        second = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", opening], capture_output=True, text=True
        )

    assert second.returncode != 0
    assert "is held by another process; one metering service runs per data directory" in second.stderr


async def test_what_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.duckdb").write_bytes(b"not a database" * 1000)

    with pytest.raises(Unavailable, match="cannot be opened"):
        async with open_ledger(tmp_path / "ledger.duckdb"):
            pass


def batches(facts: Sequence[Any], cuts: Sequence[tuple[int, int]]) -> list[Sequence[Any]]:
    """The facts in batches of any size; before each, some of what was delivered may be delivered again."""
    found, at, turn = [], 0, 0
    while at < len(facts):
        size, again = cuts[turn % len(cuts)]
        found.append(facts[max(0, at - again) : at + size])
        at, turn = at + size, turn + 1
    return found


@settings(max_examples=20, deadline=None)
@given(
    seed=some.integers(0, 10_000),
    cuts=some.lists(some.tuples(some.integers(1, 20), some.integers(0, 30)), min_size=2, max_size=6),
)
def test_every_effect_counts_once_wherever_batches_are_cut(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[tuple[int, int]]
) -> None:
    steps = story(seed, 40)

    async def play() -> Totals:
        async with open_ledger(tmp_path_factory.mktemp("cut") / "ledger.duckdb") as ledger:
            for batch in batches(deliveries(steps), cuts):
                await ledger.post_facts(batch)
            return await totals(ledger, *{step.tenant for step in steps})

    assert asyncio.run(play()) == expected(steps)


@settings(max_examples=15, deadline=None)
@given(
    events=some.lists(
        some.tuples(some.sampled_from(["acme", "globex"]), some.integers(0, 12), some.integers(-3, 3)), max_size=60
    ),
    cuts=some.lists(some.tuples(some.integers(1, 20), some.integers(0, 20)), min_size=1, max_size=5),
)
def test_every_request_counts_once_wherever_batches_are_cut(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int, int]], cuts: list[tuple[int, int]]
) -> None:
    """Even numbers stand for ids minted for one request, odd ones for keys that come again at another time."""
    minted = {n: new_id() for n in range(0, 13, 2)}
    asked = [
        usage(
            request(minted.get(n, f"key-{n}"), tenant, days=0 if n in minted else days, search_queries=2), sequence=at
        )
        for at, (tenant, n, days) in enumerate(events, 1)
    ]
    distinct = Counter(tenant for tenant, _ in {(tenant, n) for tenant, n, _ in events})

    async def play() -> Totals:
        async with open_ledger(tmp_path_factory.mktemp("cut") / "ledger.duckdb") as ledger:
            for batch in batches(asked, cuts):
                await ledger.post_usage(batch)
            return await totals(ledger, "acme", "globex")

    counted = {(tenant, "api_calls"): n for tenant, n in distinct.items()}
    assert asyncio.run(play()) == counted | {(tenant, "search_queries"): 2 * n for tenant, n in distinct.items()}


async def test_killed_again_and_again_while_writing_it_comes_to_the_same_totals(tmp_path: Path) -> None:
    file, seed, length, chance = tmp_path / "ledger.duckdb", 7, 700, random.Random(1)
    steps = story(seed, length)

    kills = 0
    while not await asyncio.to_thread(
        written, file, seed, length, kill_after=chance.randint(1, 10), spin=chance.random()
    ):
        kills += 1

    async with open_ledger(file) as ledger:
        assert await totals(ledger, *{step.tenant for step in steps}) == expected(steps)
        assert await ledger.position(LOG.name) == length
    assert kills >= 4


def written(file: Path, seed: int, length: int, *, kill_after: int, spin: float) -> bool:
    """Let a process write; kill it some moments after it said so many lines. Whether it came to the end before."""
    command = [sys.executable, "-m", "support.ledger_writer", str(file), str(seed), str(length)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        for number, _ in enumerate(writer.stdout, 1):
            if number == kill_after:
                sum(range(int(spin * 200_000)))  # a moment that falls anywhere in the next batch
                writer.kill()
                return False
    assert writer.returncode == 0
    return True
