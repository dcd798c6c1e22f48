"""Recall over a real index in this process, with embedder and graph as the test wants them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.control import TenantRecord
from engram_contracts.errors import Rejected, Unavailable
from engram_contracts.memory import Filters
from engram_contracts.questions import (
    Activate,
    CountIndexed,
    EmbedQuery,
    FindIndexed,
    QueryVectors,
    Recall,
    RecallWeights,
    Walk,
    Walked,
)
from engram_vectors.filters import Wanted
from engram_vectors.index_edge import open_edge
from engram_vectors.ports import Candidates, Probe
from engram_vectors.recalling import Recaller
from engram_vectors.weights import Weights
from support.memories import MODEL, chunk, embedding, forgotten, memory, memory_id, remembered, revised
from support.recall_room import NOW, Room, always, open_room
from support.toy_index import ToyIndex


async def never(_: Any) -> Any:
    await asyncio.Event().wait()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(tmp_path) as room:
        yield room


async def test_what_is_remembered_can_be_recalled(room: Room) -> None:
    await room.keep(remembered(1, memory(1, "hello world", tags=("x",)), embedding(chunk(0, [1]))))

    answer = await room.recall()

    assert [hit.memory for hit in answer.hits] == [memory(1, "hello world", tags=("x",))]
    assert (answer.hits[0].score, answer.hits[0].legs) == (1.0, ("dense", "sparse"))
    assert (answer.degraded, answer.hits[0].explain, answer.stages_ms) == ((), None, None)


async def test_both_legs_and_the_graph_decide_together(room: Room) -> None:
    await room.keep(
        remembered(1, memory(1), embedding(chunk(0, [1]))),
        remembered(2, memory(2), embedding(chunk(0, [2]))),
        remembered(3, memory(3), embedding(chunk(3, [3]))),
    )
    room.graph_brings((3, 2.0), (2, 1.0), paths=(("person:Ann",), ()))

    answer = await room.recall(explain=True)

    assert [hit.memory.id for hit in answer.hits] == [memory_id(n) for n in (1, 2, 3)]
    for hit in answer.hits:
        assert hit.explain is not None
        assert sum(hit.explain.parts.values()) == pytest.approx(hit.score, abs=1e-9)
    assert answer.hits[2].explain is not None
    assert answer.hits[2].explain.path == ("person:Ann",)
    assert answer.hits[2].explain.raw["graph"] == 2.0
    assert set(answer.stages_ms or {}) == {"embed", "graph", "search", "rank", "fetch"}
    assert answer.took_ms > 0


async def test_the_limit_holds(room: Room) -> None:
    await room.keep(*(remembered(n, memory(n), embedding(chunk(n, [1]))) for n in range(1, 31)))

    assert len((await room.recall(limit=7)).hits) == 7


async def test_a_long_memory_comes_once_with_the_stretch_that_matched(room: Room) -> None:
    content = "first part. second part."
    chunks = (chunk(0, [1], start=0, end=11), chunk(4, [2], start=12, end=24))
    await room.keep(remembered(1, memory(1, content), embedding(*chunks)), remembered(2, memory(2)))
    room.query_is(4, 2)

    answer = await room.recall()

    assert [hit.memory.id for hit in answer.hits] == [memory_id(1), memory_id(2)]
    assert [hit.excerpt for hit in answer.hits] == ["second part.", None]


async def test_no_other_tenants_memory_is_recalled_found_or_counted(room: Room) -> None:
    await room.keep(remembered(1, memory(1), tenant="b"), remembered(2, memory(2), tenant="b"))
    room.graph_brings((1, 1.0), (2, 1.0))

    assert await room.numbers(tenant="acme") == []
    assert (await room.handlers.find(FindIndexed(tenant="acme", memory_id=memory_id(1)))).found is None
    assert (await room.handlers.count(CountIndexed(tenant="acme"))).memories == 0
    assert (await room.handlers.count(CountIndexed(tenant="b"))).memories == 2


async def test_what_the_graph_alone_brings_passes_the_same_filters(room: Room) -> None:
    noise = [remembered(n, memory(n), embedding(chunk(0, [1]))) for n in range(10, 80)]
    await room.keep(
        *noise,
        remembered(80, memory(1, user_id="ann"), embedding(chunk(4, [5]))),
        remembered(81, memory(2, user_id="bob"), embedding(chunk(4, [5]))),
        remembered(82, memory(3, user_id="ann", expires_at=NOW), embedding(chunk(4, [5]))),
    )
    room.graph_brings((1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0))

    unfiltered = await room.numbers(limit=100)
    filtered = await room.numbers(limit=100, filters=Filters(user_id="ann"))

    assert {1, 2} <= set(unfiltered)
    assert filtered == [1]
    assert not {3, 4} & set(unfiltered)


async def test_an_expired_memory_is_no_longer_recalled(room: Room) -> None:
    await room.keep(remembered(1, memory(1, expires_at=NOW)), remembered(2, memory(2)))

    room.now = NOW - timedelta(microseconds=1)
    before = await room.numbers()
    room.now = NOW
    after = await room.numbers()

    assert (set(before), after) == ({1, 2}, [2])


async def test_a_question_about_names_is_ordered_by_a_walk_through_the_graph(room: Room) -> None:
    await room.keep(*(remembered(n, memory(n), embedding(chunk(n, [n]))) for n in (1, 2, 3)))
    await room.keep(remembered(4, memory(4), tenant="b"))
    ids = tuple(memory_id(n) for n in (3, 4, 1))
    walked = Walked(memory_ids=ids, shares=(0.4, 0.3, 0.2), paths=(("name:Oslo",), (), ()), seeds=("name:Oslo",))
    room.bus.answers[Walk] = always(walked)

    hopped = await room.recall(query="Who runs the club that Dave joined?", explain=True)
    short = await room.recall(query="Who is Dave?")

    assert (hopped.mode, short.mode) == ("multi-hop", "lookup")
    assert [hit.memory.id for hit in hopped.hits] == [memory_id(n) for n in (3, 1, 2)]
    assert hopped.hits[0].explain is not None
    assert (hopped.hits[0].explain.path, hopped.hits[0].explain.parts["walk"]) == (("name:Oslo",), 0.99)
    for hit in hopped.hits:
        assert hit.explain is not None
        assert sum(hit.explain.parts.values()) == pytest.approx(hit.score, abs=1e-9)


async def test_a_walk_that_fails_or_names_nothing_leaves_the_fused_order(room: Room) -> None:
    await room.keep(*(remembered(n, memory(n), embedding(chunk(n, [n]))) for n in (1, 2, 3)))
    room.query_is(2, 2)
    question = "Who runs the club that Dave joined?"

    room.bus.answers[Walk] = always(Walked())
    nothing = await room.recall(query=question)
    room.bus.answers[Walk] = always(Unavailable("graph is not running"))
    failed = await room.recall(query=question)

    assert nothing.hits[0].memory.id == failed.hits[0].memory.id == memory_id(2)
    assert (nothing.mode, nothing.degraded) == ("lookup", ())
    assert failed.degraded[0].startswith("graph: unavailable")


async def test_without_the_graph_the_answer_is_fused_from_the_rest_and_says_so(room: Room) -> None:
    await room.keep(remembered(1, memory(1)))
    room.bus.answers[Activate] = always(Unavailable("graph is not running"))

    answer = await room.recall()

    assert len(answer.hits) == 1
    assert len(answer.degraded) == 1
    assert answer.degraded[0].startswith("graph: unavailable after ")


async def test_without_the_embedder_the_graph_alone_answers(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), remembered(2, memory(2)))
    del room.bus.answers[EmbedQuery]
    room.graph_brings((2, 1.0))

    answer = await room.recall()

    assert [(hit.memory.id, hit.legs, hit.score) for hit in answer.hits] == [(memory_id(2), ("graph",), 1.0)]
    assert answer.degraded[0].startswith("embedder: unavailable after ")


async def test_parts_that_do_not_answer_cost_their_share_of_the_deadline(room: Room) -> None:
    await room.keep(remembered(1, memory(1)))
    room.bus.answers[EmbedQuery] = room.bus.answers[Activate] = never

    answer = await room.recall(deadline_ms=200)

    assert answer.hits == ()
    assert {line.split(" ")[0] for line in answer.degraded} == {"embedder:", "graph:"}
    assert 50 <= answer.took_ms < 200


async def test_an_embedder_with_another_model_leaves_the_words(room: Room) -> None:
    await room.keep(
        remembered(1, memory(1), embedding(chunk(0, [1]))), remembered(2, memory(2), embedding(chunk(0, [2])))
    )
    room.query_is(0, 1, model="big@16")

    answer = await room.recall()

    assert [(hit.memory.id, hit.legs) for hit in answer.hits] == [(memory_id(1), ("sparse",))]
    assert "'big@16'" in answer.degraded[0]
    assert "'toy@8'" in answer.degraded[0]


async def test_an_error_of_a_part_is_named_not_raised(room: Room) -> None:
    room.bus.answers[EmbedQuery] = always(Rejected("too long for the model"))

    assert (await room.recall()).degraded == ("embedder: too long for the model",)


async def test_an_index_that_is_away_is_named_not_raised(tmp_path: Path) -> None:
    class Away(ToyIndex):
        async def search(self, wanted: Wanted, probe: Probe) -> Candidates:
            raise Unavailable("Qdrant is not there")

        narrow = fetch = search  # type: ignore[assignment]  # all of them fail alike

    room = Room(Away(), tmp_path)
    room.graph_brings((1, 1.0))

    answer = await room.recall()

    assert answer.hits == ()
    assert any(line.startswith("index: unavailable") for line in answer.degraded)


async def test_an_index_that_hangs_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    class Hangs(ToyIndex):
        async def search(self, wanted: Wanted, probe: Probe) -> Candidates:
            await asyncio.Event().wait()
            return Candidates()

    answer = await Room(Hangs(), tmp_path).recall(deadline_ms=100)

    assert answer.degraded[0].startswith("index: unavailable after")
    assert answer.took_ms < 1_000


async def test_an_empty_index_recalls_nothing_without_complaint(tmp_path: Path) -> None:
    async with open_edge(tmp_path / "index") as index:
        answer = await Room(index, tmp_path).recall()

    assert (answer.hits, answer.degraded) == ((), ())


async def test_a_query_without_words_or_meaning_gives_an_answer(room: Room) -> None:
    await room.keep(remembered(1, memory(1)))
    room.bus.answers[EmbedQuery] = always(QueryVectors(model=MODEL, dense=bytes(16), sparse=chunk(0, []).sparse))

    answer = await room.recall()

    assert len(answer.hits) == 1
    assert answer.degraded == ()


async def test_find_shows_the_memory_and_the_last_command(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), revised(2, 1, {"kind": "fact"}, command="edit"))

    found = (await room.handlers.find(FindIndexed(tenant="acme", memory_id=memory_id(1)))).found

    assert found is not None
    assert (found.memory.kind, found.memory.version, found.command, found.indexed_at) == ("fact", 2, "edit", NOW)


async def test_a_forgotten_memory_is_neither_recalled_found_nor_counted(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), remembered(2, memory(2)))
    room.graph_brings((1, 1.0))

    await room.keep(forgotten(3, 1))

    assert await room.numbers() == [2]
    assert (await room.handlers.find(FindIndexed(tenant="acme", memory_id=memory_id(1)))).found is None
    assert (await room.handlers.count(CountIndexed(tenant="acme"))).memories == 1


async def test_a_revised_memory_is_found_under_its_new_fields_only(room: Room) -> None:
    await room.keep(remembered(1, memory(1, user_id="ann", expires_at=NOW), embedding(chunk(0), chunk(1))))

    await room.keep(revised(2, 1, {"user_id": "bob", "expires_at": None}))

    assert await room.numbers(filters=Filters(user_id="ann")) == []
    assert await room.numbers(filters=Filters(user_id="bob")) == [1]


async def test_a_tenant_may_have_a_half_life_and_a_language_of_its_own(room: Room) -> None:
    await room.keep(remembered(1, memory(1, created_at=NOW - timedelta(days=10))))
    record = TenantRecord(name="acme", created_at=NOW, half_life_days=10.0, language="german")
    tenants = {"acme": record}
    recaller = Recaller(room.index, room.bus, weights=Weights(), candidates=10, tenant=tenants.get)

    weights = RecallWeights(recency=1.0)
    asked = Recall(tenant="acme", query="hello", explain=True, weights=weights)
    told = (await recaller.recall(asked, now=NOW)).read()
    own = asked.model_copy(update={"weights": weights.model_copy(update={"half_life_days": 20.0})})
    other = (await recaller.recall(own, now=NOW)).read()

    assert told.weights is not None
    assert other.weights is not None
    assert (told.weights["half_life_days"], other.weights["half_life_days"]) == (10.0, 20.0)
    assert {each.language for each in room.bus.asked if isinstance(each, EmbedQuery)} == {"german"}
