"""Positions in the log: at once in memory, on disk after a flush."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from engram_contracts.errors import Unavailable
from engram_vectors.ports import Position, PositionStore
from engram_vectors.positions import Positions
from engram_vectors.positions_bucket import BucketPositions
from engram_vectors.positions_file import FilePositions
from support.recording_bus import MemoryBucket
from support.toy_index import ToyIndex


@pytest.fixture(params=["file", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PositionStore:
    if request.param == "file":
        return FilePositions(tmp_path / "positions.json")
    return BucketPositions(MemoryBucket(), range(8))


class Journal:
    """An index and a store that write down what happens in which order; flushing fails while `broken`."""

    def __init__(self) -> None:
        self.generation = "g"
        self.events: list[object] = []
        self.broken = False

    async def flush(self) -> None:
        if self.broken:
            raise Unavailable("the disk is full")
        self.events.append("flush")

    async def load(self, generation: str) -> dict[int, Position]:
        return {3: Position(7)}

    async def save(self, generation: str, positions: Mapping[int, Position]) -> None:
        self.events.append(dict(positions))


def kept_by(journal: Journal, *, every: float = 0.001, points: int = 5_000) -> Positions:
    return Positions(journal, journal, every=every, points=points)  # type: ignore[arg-type]  # the part that is used


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_store_keeps_the_last_positions_of_its_generation(store: PositionStore) -> None:
    assert await store.load("g") == {}

    await store.save("g", {0: Position(5), 3: Position(8)})
    await store.save("g", {0: Position(6), 3: Position(8)})

    assert await store.load("g") == {0: Position(6), 3: Position(8)}
    assert await store.load("another") == {}


async def test_a_bucket_holds_the_partitions_of_other_replicas_untouched() -> None:
    bucket = MemoryBucket()

    await BucketPositions(bucket, [1]).save("g", {1: Position(5), 2: Position(9)})

    assert list(bucket.entries) == ["vectors.position.1"]
    assert await BucketPositions(bucket, [2]).load("g") == {}


async def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "positions.json"
    store = FilePositions(file)

    await store.save("g", {1: Position(2)})
    (tmp_path / "positions.json.new").write_text("torn")
    await store.save("g", {1: Position(3)})

    assert json.loads(file.read_text()) == {"generation": "g", "positions": {"1": 3}, "appended": {}}
    assert [each.name for each in tmp_path.iterdir()] == ["positions.json"]


async def test_what_is_applied_counts_at_once_and_is_kept_after_the_flush() -> None:
    journal = Journal()
    positions = kept_by(journal)
    await positions.load()

    await positions.advance(3, Position(9), points=1)
    before = list(journal.events)
    await positions.save()

    assert (positions.of(3), positions.of(4)) == (9, 0)
    assert before == []
    assert journal.events == ["flush", {3: Position(9)}]


async def test_many_points_are_saved_without_waiting() -> None:
    journal = Journal()
    positions = kept_by(journal, points=100)

    await positions.advance(0, Position(1), points=60)
    await positions.advance(0, Position(2), points=60)

    assert journal.events == ["flush", {0: Position(2)}]


async def test_nothing_new_is_nothing_to_save() -> None:
    journal = Journal()
    positions = kept_by(journal)
    await positions.advance(0, Position(1), points=1)

    await positions.save()
    await positions.save()

    assert journal.events == ["flush", {0: Position(1)}]


async def test_saving_goes_on_after_a_failure_which_is_told() -> None:
    journal = Journal()
    positions = kept_by(journal)
    saving = asyncio.create_task(positions.keep_saving())
    journal.broken = True
    await positions.advance(0, Position(1), points=1)

    await eventually(lambda: positions.trouble is not None)
    told = positions.trouble
    journal.broken = False
    await eventually(lambda: positions.trouble is None)

    assert told == "positions cannot be saved: the disk is full"
    assert journal.events == ["flush", {0: Position(1)}]
    saving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await saving


async def test_an_index_that_was_never_prepared_has_no_positions(store: PositionStore) -> None:
    positions = Positions(ToyIndex(model=None, generation=None), store)

    await positions.load()
    await positions.advance(0, Position(4), points=0)
    await positions.save()

    assert positions.of(0) == 4
    assert await store.load("g") == {}
