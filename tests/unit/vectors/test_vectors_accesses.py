"""Recalls are counted without being slowed, each once, and may count in the ranking."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engram_contracts.facts import Accessed
from engram_contracts.questions import RecallWeights
from engram_vectors.accesses import MOST_IN_A_FACT
from support.memories import accessed, delivered, forgotten, memory, memory_id, remembered
from support.recall_room import Room, open_room


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(tmp_path) as room:
        yield room


def told(room: Room) -> list[Accessed]:
    return [Accessed.model_validate_json(entry.body) for entry in room.bus.entries]


async def test_what_was_recalled_is_told_to_the_log_in_one_fact_for_a_tenant(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), remembered(2, memory(2)))
    await room.recall()
    await room.recall(limit=1)

    await room.accesses.tell()
    await room.accesses.tell()

    [fact] = told(room)
    assert sorted(fact.times.values()) == [1, 2]
    assert {entry.subject.split(".")[-2:][0] for entry in room.bus.entries} == {"acme"}


async def test_many_are_told_in_several_facts(room: Room) -> None:
    many = range(1, MOST_IN_A_FACT + 11)
    await room.keep(*(remembered(n, memory(n)) for n in many))
    await room.recall(limit=100, query="all")

    await room.accesses.tell()

    facts = told(room)
    assert sorted(len(fact.times) for fact in facts) == [10, MOST_IN_A_FACT]
    assert len({name for fact in facts for name in fact.times}) == len(many)


async def test_a_recall_counts_once_however_often_its_fact_comes(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), remembered(2, memory(2)))
    fact = accessed(3, {1: 5, 9: 1})

    await room.keep(fact)
    await room.keep(fact)
    await room.keep(delivered(4, fact.message))

    hits = {hit.memory.id: hit.memory for hit in (await room.recall()).hits}
    assert (hits[memory_id(1)].access_count, hits[memory_id(2)].access_count) == (10, 0)
    assert hits[memory_id(1)].accessed_at == fact.message.at
    assert (hits[memory_id(1)].version, hits[memory_id(1)].updated_at) == (1, memory(1).updated_at)


async def test_a_forgotten_memory_stays_forgotten(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), forgotten(2, 1), accessed(3, {1: 2}))

    assert (await room.recall()).hits == ()


async def test_a_request_may_have_it_count_and_is_told(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), remembered(2, memory(2)), accessed(3, {2: 100}))

    plain = (await room.recall(explain=True)).hits
    often = (await room.recall(explain=True, weights=RecallWeights(access=1.0))).hits

    assert [hit.memory.id for hit in often] == [memory_id(2), memory_id(1)]
    assert all("access" not in hit.explain.parts for hit in plain if hit.explain)
    assert often[0].explain is not None
    assert often[0].explain.parts["access"] > 0
    for hit in often:
        assert hit.explain is not None
        assert sum(hit.explain.parts.values()) == pytest.approx(hit.score, abs=1e-6)


async def test_company_in_a_session_may_count(room: Room) -> None:
    await room.keep(
        remembered(1, memory(1, session_id="s")), remembered(2, memory(2, session_id="s")), remembered(3, memory(3)),
    )  # fmt: skip

    hits = (await room.recall(explain=True, weights=RecallWeights(session=1.0))).hits

    assert [("session" in hit.explain.parts) for hit in hits if hit.explain] == [True, True, False]
