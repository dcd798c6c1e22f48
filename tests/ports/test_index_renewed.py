"""The embedded index written anew: the same answers from new files, in which nothing is left of what was deleted."""

from __future__ import annotations

from datetime import UTC, datetime

from engram_contracts.facts import Chunk, SparseVector
from engram_contracts.memory import Memory
from engram_vectors.filters import Wanted
from engram_vectors.index_edge import open_edge
from engram_vectors.points import Changes, Entry, PointId, head_of, points_of
from engram_vectors.ports import Probe

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECRET = "marzipan-xylophone"
DENSE = (0.5, 0.5, 0.5, 0.5)
HALVES = b"\x00\x38" * 4


def memory(name: str, content: str) -> tuple[PointId, Changes]:
    kept = Memory(id=name, content=content, created_at=NOW, updated_at=NOW)
    entry = Entry(memory=kept, command=name, log_sequence=1, born=1, indexed_at=NOW)
    chunk = Chunk(start=0, end=9, dense=HALVES, sparse=SparseVector(indices=(1, 7), values=(0.5, 0.7)))
    head = head_of("acme", name)
    return head, Changes(put=points_of("acme", head, entry, [chunk]))


async def test_what_was_deleted_is_in_no_file_and_the_rest_is_found_as_before(tmp_path):
    probe = Probe(dense=DENSE, sparse=SparseVector(indices=(7,), values=(1.0,)), limit=5)
    async with open_edge(tmp_path) as index:
        await index.prepare("toy@4", 4)
        gone, first = memory("gone", SECRET)
        kept, second = memory("kept", "It stays.")
        await index.write(first)
        await index.write(second)
        await index.write(Changes(drop=[gone]))
        await index.flush()
        before, generation = await index.search(Wanted("acme"), probe), index.generation
        assert files_with(tmp_path) != []

        await index.renew()

        assert files_with(tmp_path) == []
        after = await index.search(Wanted("acme"), probe)
        assert [point for point, _ in after.dense] == [point for point, _ in before.dense] == [kept]
        assert [point for point, _ in after.sparse] == [kept]
        assert index.generation == generation
    async with open_edge(tmp_path) as again:
        assert await again.fetch("acme", [gone, kept]) != {}
        assert await again.count("acme") == 1


async def test_a_crash_between_old_and_new_takes_the_old_one_back(tmp_path):
    async with open_edge(tmp_path) as index:
        await index.prepare("toy@4", 4)
        await index.write(memory("kept", "It stays.")[1])
        await index.flush()
    (tmp_path / "current").rename(tmp_path / "old")

    async with open_edge(tmp_path) as index:
        assert await index.count("acme") == 1


def files_with(folder) -> list[str]:
    return [file.name for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
