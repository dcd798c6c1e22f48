"""What every vector index does, tried on Qdrant Edge and on a real Qdrant server."""

from __future__ import annotations

import os
import random
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from engram_contracts.errors import Conflict, Unavailable
from engram_contracts.memory import Filters, Memory
from engram_vectors.changes import dimension_of
from engram_vectors.filters import Wanted, microseconds, wanted
from engram_vectors.index_edge import open_edge
from engram_vectors.mending import ScannedIndex
from engram_vectors.points import (
    RECORD,
    TENANT,
    Changes,
    Entry,
    Point,
    Relabel,
    chunk_of,
    first_of,
    head_of,
    points_of,
    relabels_of,
    spans_of,
    tombstone,
    uuid_of,
)
from engram_vectors.ports import Probe, VectorIndex
from engram_vectors.settings import QdrantSettings
from support.filtering import alive, fits, random_filters, random_memory
from support.memories import MODEL, START, chunk, memory, memory_id
from support.servers import qdrant_binary, qdrant_server

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module", params=["edge", "server"])
async def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VectorIndex]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "edge":
        async with open_edge(folder / "index") as opened:
            await opened.prepare(MODEL, dimension_of(MODEL))
            yield opened
        return
    if qdrant_binary() is None and os.environ.get("CI") != "true":
        pytest.skip("no Qdrant server here: run `make tools` to try the server's index as well")
    from engram_vectors.index_server import open_server  # noqa: PLC0415  # slow to import

    with qdrant_server(folder) as (rest, grpc):
        async with open_server(QdrantSettings(url=f"http://127.0.0.1:{rest}", grpc_port=grpc)) as opened:
            await opened.prepare(MODEL, dimension_of(MODEL))
            yield opened


@pytest.fixture
def tenant() -> str:
    return f"t{uuid4().hex[:12]}"


def entry(what: Memory, chunks: int = 1, sequence: int = 1) -> Entry:
    spans = spans_of([chunk(start=n * 5, end=n * 5 + 7) for n in range(chunks)])
    return Entry(memory=what, command="c", log_sequence=sequence, born=1, indexed_at=NOW, spans=spans, reach=chunks)


def put(tenant: str, what: Memory, *chunks: object, sequence: int = 1, place: int = 0) -> Changes:
    of = chunks or (chunk(),)
    known = entry(what, len(of), sequence).model_copy(update={"place": place})
    points = points_of(tenant, head_of(tenant, what.id), known, of)  # type: ignore[arg-type]
    return Changes(put=points)


def probe(direction: int | None = 0, *words: int, limit: int = 1_000) -> Probe:
    like = chunk(direction or 0, words or (1,))
    return Probe(
        dense=None if direction is None else like.floats(),
        sparse=like.sparse if words else None,
        limit=limit,
    )


async def found(index: VectorIndex, tenant: str, filters: Filters = Filters()) -> set[str]:  # noqa: B008  # frozen
    """First points that a search brings under filters; each leg must bring the same."""
    candidates = await index.search(wanted(tenant, filters, now=NOW), probe(0, 1))
    dense, sparse = ({first_of(point) for point, _ in leg} for leg in (candidates.dense, candidates.sparse))
    assert dense == sparse
    return dense


async def test_what_was_put_is_found_by_both_legs_with_its_scores(index: VectorIndex, tenant: str) -> None:
    await index.write(put(tenant, memory(1), chunk(0, [7, 8])))
    await index.write(put(tenant, memory(2), chunk(3, [9])))

    candidates = await index.search(Wanted(tenant), probe(0, 7))

    assert [point for point, _ in candidates.dense] == [head_of(tenant, memory_id(1)), head_of(tenant, memory_id(2))]
    assert candidates.dense[0][1] == pytest.approx(1.0, abs=2e-3)
    assert candidates.dense[1][1] == pytest.approx((2 * 0.1 + 6 * 0.01) / 1.07, abs=2e-3)
    assert [point for point, _ in candidates.sparse] == [head_of(tenant, memory_id(1))]
    assert candidates.sparse[0][1] > 0


async def test_who_stands_at_a_place_is_told_as_it_is_now(index: VectorIndex, tenant: str) -> None:
    one, two, three = (memory(number, speaker="Ann", user_id=f"user-{number}") for number in (1, 2, 3))
    heads = [head_of(tenant, each.id) for each in (one, two, three)]
    everybody, places = wanted(tenant, Filters(), now=NOW), [11, 12, 13]
    only_two = wanted(tenant, Filters(user_id="user-2"), now=NOW)
    for what, place in ((one, 11), (two, 12)):
        await index.write(put(tenant, what, place=place))

    assert set(await index.standing(everybody, places)) == set(heads[:2])
    assert set(await index.standing(only_two, places)) == {heads[1]}
    assert await index.standing(wanted(f"{tenant}x", Filters(), now=NOW), places) == {}

    await index.write(put(tenant, three, sequence=3, place=13))
    await index.write(put(tenant, one, sequence=4, place=20))

    standing = await index.standing(everybody, places)
    assert {head: look.place for head, look in standing.items()} == {heads[1]: 12, heads[2]: 13}

    await index.write(Changes(put=[tombstone(tenant, heads[1], entry(two))]))

    assert set(await index.standing(everybody, places)) == {heads[2]}


async def test_a_leg_without_a_vector_stays_empty(index: VectorIndex, tenant: str) -> None:
    await index.write(put(tenant, memory(1), chunk(0, [7])))

    only_dense = await index.search(Wanted(tenant), probe(0))
    only_sparse = await index.search(Wanted(tenant), probe(None, 7))
    neither = await index.search(Wanted(tenant), Probe(dense=None, sparse=None, limit=5))

    assert (len(only_dense.dense), len(only_dense.sparse)) == (1, 0)
    assert (len(only_sparse.dense), len(only_sparse.sparse)) == (0, 1)
    assert (len(neither.dense), len(neither.sparse)) == (0, 0)


async def test_each_leg_brings_at_most_the_limit_best_first(index: VectorIndex, tenant: str) -> None:
    for number in range(8):
        await index.write(put(tenant, memory(number), chunk(number, [1, 100 + number])))

    candidates = await index.search(Wanted(tenant), probe(2, 1, 105, limit=3))

    assert len(candidates.dense) == len(candidates.sparse) == 3
    assert candidates.dense[0][0] == head_of(tenant, memory_id(2))
    assert candidates.sparse[0][0] == head_of(tenant, memory_id(5))
    assert [score for _, score in candidates.dense] == sorted((s for _, s in candidates.dense), reverse=True)


async def test_a_repeat_overwrites_itself(index: VectorIndex, tenant: str) -> None:
    changes = put(tenant, memory(1), chunk(0, [1]), chunk(1, [1]))

    await index.write(changes)
    await index.write(changes)

    assert await index.count(tenant) == 1
    assert len((await index.search(Wanted(tenant), probe(0, 1))).dense) == 2


async def test_a_memory_of_many_chunks_counts_once(index: VectorIndex, tenant: str) -> None:
    await index.write(put(tenant, memory(1), *(chunk(n, [n + 1]) for n in range(5))))
    await index.write(put(tenant, memory(2)))

    assert await index.count(tenant) == 2


async def test_more_points_than_one_slice_are_written(index: VectorIndex, tenant: str) -> None:
    points = [point for n in range(150) for point in put(tenant, memory(n)).put]
    await index.write(Changes(put=points))

    await index.write(Changes(drop=[point.id for point in points[:70]]))

    assert await index.count(tenant) == 80


async def test_no_tenant_sees_anothers_points(index: VectorIndex, tenant: str) -> None:
    other = f"{tenant}-b"
    await index.write(put(tenant, memory(1)))
    await index.write(put(other, memory(1)))
    mine, theirs = head_of(tenant, memory_id(1)), head_of(other, memory_id(1))

    assert mine != theirs
    assert await found(index, tenant) == {mine}
    assert await found(index, other) == {theirs}
    assert await index.narrow(Wanted(tenant), [mine, theirs]) == {mine}
    assert set(await index.fetch(tenant, [mine, theirs])) == {mine}
    assert (await index.count(tenant), await index.count(other)) == (1, 1)
    assert await found(index, f"{tenant}-c") == set()


async def test_what_was_dropped_is_gone_from_everything(index: VectorIndex, tenant: str) -> None:
    head = head_of(tenant, memory_id(1))
    await index.write(put(tenant, memory(1), chunk(0, [1]), chunk(0, [1])))

    await index.write(Changes(drop=[head, chunk_of(head, 1), chunk_of(head, 2)]))

    assert await found(index, tenant) == set()
    assert await index.count(tenant) == 0
    assert await index.fetch(tenant, [head]) == {}


async def test_a_tombstone_is_fetched_but_neither_found_nor_counted(index: VectorIndex, tenant: str) -> None:
    head = head_of(tenant, memory_id(1))
    await index.write(put(tenant, memory(1)))

    await index.write(
        Changes(put=[tombstone(tenant, head, Entry(command="c", log_sequence=2, born=1, indexed_at=NOW))])
    )

    assert await found(index, tenant) == set()
    assert await index.count(tenant) == 0
    record = (await index.fetch(tenant, [head]))[head]
    assert "hello" not in record
    assert Entry.model_validate_json(record).memory is None


async def test_put_again_after_a_tombstone_is_found(index: VectorIndex, tenant: str) -> None:
    head = head_of(tenant, memory_id(1))
    await index.write(
        Changes(put=[tombstone(tenant, head, Entry(command="c", log_sequence=2, born=1, indexed_at=NOW))])
    )

    await index.write(put(tenant, memory(1)))

    assert await found(index, tenant) == {head}
    assert await index.count(tenant) == 1


async def test_relabelling_changes_what_filters_see_and_leaves_the_vectors(index: VectorIndex, tenant: str) -> None:
    head = head_of(tenant, memory_id(1))
    old, new = memory(1, user_id="ann", tags=("x",)), memory(1, user_id="bob", tags=("y",))
    await index.write(put(tenant, old, chunk(0, [1]), chunk(1, [1])))

    await index.write(Changes(relabel=relabels_of(tenant, head, entry(new, chunks=2, sequence=2))))

    assert await found(index, tenant, Filters(user_id="ann")) == set()
    assert await found(index, tenant, Filters(user_id="bob", tags=("y",))) == {head}
    assert Entry.model_validate_json((await index.fetch(tenant, [head]))[head]).log_sequence == 2
    assert await index.count(tenant) == 1


async def test_relabelling_passes_over_points_that_are_not_there(index: VectorIndex, tenant: str) -> None:
    head = head_of(tenant, memory_id(1))
    await index.write(put(tenant, memory(1)))

    await index.write(Changes(relabel=[Relabel([head, chunk_of(head, 7)], {RECORD: "new"})]))

    assert await index.fetch(tenant, [head]) == {head: "new"}
    assert await index.count(tenant) == 1


async def test_drop_put_and_relabel_of_one_write_happen_in_this_order(index: VectorIndex, tenant: str) -> None:
    head = head_of(tenant, memory_id(1))
    again = put(tenant, memory(1)).put

    await index.write(Changes(drop=[head], put=again, relabel=[Relabel([head], {RECORD: "last"})]))

    assert await index.fetch(tenant, [head]) == {head: "last"}


async def test_expired_memories_are_not_found_until_the_expiry_is_cleared(index: VectorIndex, tenant: str) -> None:
    head = head_of(tenant, memory_id(1))
    expired = [memory(n, expires_at=NOW - timedelta(microseconds=n - 1)) for n in (1, 2)]
    for what in (*expired, memory(3, expires_at=NOW + timedelta(microseconds=1)), memory(4)):
        await index.write(put(tenant, what))

    before = await found(index, tenant)
    await index.write(Changes(relabel=relabels_of(tenant, head, entry(memory(1)))))

    alive = {head_of(tenant, memory_id(n)) for n in (3, 4)}
    assert before == alive
    assert await found(index, tenant) == alive | {head}
    assert await index.narrow(wanted(tenant, Filters(), now=NOW), [head_of(tenant, memory_id(2))]) == set()


async def test_a_memory_without_words_is_found_by_the_dense_leg_alone(index: VectorIndex, tenant: str) -> None:
    await index.write(put(tenant, memory(1), chunk(0, [])))

    candidates = await index.search(Wanted(tenant), probe(0, 1))

    assert [point for point, _ in candidates.dense] == [head_of(tenant, memory_id(1))]
    assert candidates.sparse == []


async def test_rare_words_count_more_than_common_ones(index: VectorIndex, tenant: str) -> None:
    for number in range(20):
        await index.write(put(tenant, memory(number), chunk(0, [1])))
    await index.write(put(tenant, memory(20), chunk(0, [2])))

    candidates = await index.search(Wanted(tenant), probe(None, 1, 2))

    assert candidates.sparse[0][0] == head_of(tenant, memory_id(20))
    assert candidates.sparse[0][1] > candidates.sparse[1][1]


async def test_it_is_read_from_one_end_to_the_other_page_by_page_and_memories_stay_together(
    index: ScannedIndex, tenant: str
) -> None:
    for number in range(7):
        await index.write(put(tenant, memory(number), *[chunk(n) for n in range(1 + number % 3)]))
    whole = await index.scan(tenant, None, 100)

    paged, start = [], None
    while len(page := await index.scan(tenant, start, 4)) > 1:
        paged += page[:-1]
        start = page[-1][0]
    paged += page

    assert [point for point, _, _ in paged] == [point for point, _, _ in whole]
    assert len(whole) == sum(1 + number % 3 for number in range(7))
    heads = [head_of(tenant, memory_id(number)) for number in range(7)]
    assert [point for point, owner, record in whole if record is not None and owner == tenant] == sorted(heads)
    assert [first_of(point) for point, _, _ in whole] == sorted(first_of(point) for point, _, _ in whole)


async def test_the_index_remembers_its_model(index: VectorIndex) -> None:
    generation = index.generation

    await index.prepare("other@4", 4)

    assert (index.model, index.generation) == (MODEL, generation)
    assert generation is not None


# --- filters against brute force --------------------------------------------------------------------


async def test_filters_agree_with_brute_force(index: VectorIndex, tenant: str) -> None:
    chance = random.Random(11)
    memories = [random_memory(number, chance) for number in range(300)]
    await index.write(Changes(put=[point for what in memories for point in put(tenant, what).put]))
    heads = [head_of(tenant, what.id) for what in memories]
    sizes = set()

    for _ in range(500):
        filters = random_filters(chance)
        right = {head for head, what in zip(heads, memories, strict=True) if alive(what) and fits(what, filters)}
        sizes.add(len(right))
        assert await found(index, tenant, filters) == right, filters
        assert await index.narrow(wanted(tenant, filters, now=NOW), heads) == right, filters

    assert len(sizes) > 20


async def test_moments_far_from_now_can_be_filtered(index: VectorIndex, tenant: str) -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    await index.write(put(tenant, memory(1, occurred_at=first)))
    await index.write(put(tenant, memory(2, occurred_at=last)))

    assert await found(index, tenant, Filters(before=START)) == {head_of(tenant, memory_id(1))}
    assert await found(index, tenant, Filters(after=START)) == {head_of(tenant, memory_id(2))}


# --- what is not shared -----------------------------------------------------------------------------


async def test_an_edge_index_that_was_never_prepared_is_empty(tmp_path: Path) -> None:
    async with open_edge(tmp_path) as fresh:
        assert (fresh.model, fresh.generation) == (None, None)
        assert await fresh.count("acme") == 0
        assert await fresh.fetch("acme", [head_of("acme", "x")]) == {}
        assert await fresh.narrow(Wanted("acme"), [head_of("acme", "x")]) == set()
        assert (await fresh.search(Wanted("acme"), probe(0, 1))).dense == ()
        await fresh.flush()


async def test_an_edge_index_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    async with open_edge(tmp_path) as first:
        await first.prepare(MODEL, 8)
        await first.write(put("acme", memory(1, user_id="ann"), chunk(0, [1])))
        generation = first.generation

    async with open_edge(tmp_path) as second:
        assert (second.model, second.generation) == (MODEL, generation)
        assert await found(second, "acme", Filters(user_id="ann")) == {head_of("acme", memory_id(1))}
        assert await second.count("acme") == 1


async def test_a_second_opener_of_an_edge_directory_is_refused_with_a_clear_error(tmp_path: Path) -> None:
    async with open_edge(tmp_path):
        with pytest.raises(Conflict, match=f"another process has the index in {re.escape(repr(str(tmp_path)))} open"):
            async with open_edge(tmp_path):
                pass


async def test_an_edge_index_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    async with open_edge(tmp_path) as first:
        await first.prepare(MODEL, 8)
    for file in (tmp_path / "current" / "shard").rglob("*.json"):
        file.write_text("rubbish")

    with pytest.raises(Unavailable, match="move that folder away"):
        async with open_edge(tmp_path):
            pass


async def test_an_edge_directory_of_an_unfinished_creation_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "draft" / "shard").mkdir(parents=True)
    (tmp_path / "draft" / "shard" / "rubbish").write_text("x")

    async with open_edge(tmp_path) as fresh:
        await fresh.prepare(MODEL, 8)

        assert fresh.model == MODEL


async def test_idf_of_an_edge_index_is_of_the_tenants_own_memories(tmp_path: Path) -> None:
    async with open_edge(tmp_path) as index:
        await index.prepare(MODEL, 8)
        for number in range(6):
            await index.write(put("acme", memory(number), chunk(0, [1 if number else 2])))
        alone = (await index.search(Wanted("acme"), probe(None, 1, 2))).sparse
        for number in range(50):
            await index.write(put("other", memory(number), chunk(0, [2])))

        crowded = (await index.search(Wanted("acme"), probe(None, 1, 2))).sparse
        assert dict(crowded) == pytest.approx(dict(alone))


def test_a_point_is_named_by_its_tenant_memory_and_chunk() -> None:
    head = head_of("acme", "m")

    assert head == head_of("acme", "m")
    assert len({head, head_of("acm", "em"), head_of("acme", "m2"), head_of("acme2", "m")}) == 4
    assert first_of(chunk_of(head, 300)) == head
    assert re.fullmatch(r"[0-9a-f]{28}012c", uuid_of(chunk_of(head, 300)))


def test_points_carry_the_tenant() -> None:
    for point in put("acme", memory(1), chunk(), chunk()).put:
        assert isinstance(point, Point)
        assert point.payload[TENANT] == "acme"


def test_moments_are_exact_to_the_microsecond() -> None:
    assert microseconds(datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)) == 1
    assert microseconds(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
