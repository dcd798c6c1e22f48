"""Qdrant Edge without a write-ahead log: what kill -9 takes, following the log again brings back."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from engram_vectors.filters import Wanted
from engram_vectors.index_edge import EdgeIndex, open_edge
from engram_vectors.points import Entry, head_of
from engram_vectors.ports import Candidates, Probe
from support.memories import chunk, memory_id
from support.vectors_writer import FACTS, MEMORIES, TENANT, follow

KILLS = 4


def run_until_killed(folder: Path, chance: random.Random) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "support.vectors_writer", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        for _ in range(chance.randrange(5, 60)):
            if not process.stdout.readline():
                break
        process.kill()


async def contents(index: EdgeIndex) -> tuple[int, dict[str, Entry], list[Candidates]]:
    """Everything the index says of the tenant, but for when it was indexed."""
    heads = [head_of(TENANT, memory_id(number)) for number in range(MEMORIES)]
    records = await index.fetch(TENANT, heads)
    entries = {head: Entry.model_validate_json(record) for head, record in records.items()}
    found = [await index.search(Wanted(TENANT), probe(direction)) for direction in range(8)]
    timeless = {head: entry.model_copy(update={"indexed_at": None}) for head, entry in entries.items()}
    return await index.count(TENANT), timeless, found


def probe(direction: int) -> Probe:
    like = chunk(direction, [direction, 100, 101, 102])
    return Probe(dense=like.floats(), sparse=like.sparse, limit=10_000)


async def test_after_any_kill_the_log_brings_the_index_to_where_it_would_have_been(tmp_path: Path) -> None:
    chance = random.Random(3)
    for _ in range(KILLS):
        run_until_killed(tmp_path / "killed", chance)
    await follow(tmp_path / "killed")
    await follow(tmp_path / "straight")

    async with (
        open_edge(tmp_path / "killed" / "index") as killed,
        open_edge(tmp_path / "straight" / "index") as straight,
    ):
        count, entries, found = await contents(killed)
        right_count, right_entries, right_found = await contents(straight)

    assert FACTS > 1_000
    assert (count, entries) == (right_count, right_entries)
    for ours, right in zip(found, right_found, strict=True):
        assert dict(ours.dense) == dict(right.dense)
        assert dict(ours.sparse) == dict(right.sparse)
