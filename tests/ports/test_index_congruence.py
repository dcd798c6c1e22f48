"""Edge and the Qdrant server find the same, and what both find is what exact search finds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from engram_contracts.facts import Chunk, SparseVector
from engram_contracts.memory import Filters
from engram_vectors.filters import wanted
from engram_vectors.index_edge import open_edge
from engram_vectors.points import Changes, Entry, first_of, head_of, points_of
from engram_vectors.ports import Candidates, Probe, VectorIndex
from engram_vectors.ranking import rank
from engram_vectors.settings import QdrantSettings
from engram_vectors.weights import Weights
from support.memories import START, memory
from support.servers import qdrant_binary, qdrant_server

TENANT, DIMENSION, MEMORIES, QUERIES, DEPTH = "acme", 64, 1_500, 60, 10


def chunks(seed: int) -> list[Chunk]:
    """Vectors that lie in clumps, as those of texts do, and words by Zipf."""
    numbers, chance = np.random.default_rng(seed), random.Random(seed)
    clumps = numbers.standard_normal((40, DIMENSION))
    found = []
    for _ in range(MEMORIES):
        vector = clumps[chance.randrange(40)] + 0.8 * numbers.standard_normal(DIMENSION)
        words = tuple(sorted({min(int(chance.paretovariate(0.7)), 3_000) for _ in range(12)}))
        values = tuple(round(chance.uniform(0.5, 2), 3) for _ in words)
        dense = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
        found.append(Chunk(start=0, end=1, dense=dense, sparse=SparseVector(indices=words, values=values)))
    return found


async def filled(index: VectorIndex, kept: list[Chunk]) -> None:
    await index.prepare(f"toy@{DIMENSION}", DIMENSION)
    points = []
    for number, each in enumerate(kept):
        what = memory(number, f"text {number}")
        entry = Entry(memory=what, command="c", log_sequence=number, born=number, indexed_at=START)
        points += points_of(TENANT, head_of(TENANT, what.id), entry, [each])
    for start in range(0, MEMORIES, 250):
        await index.write(Changes(put=points[start : start + 250]))


async def answers(index: VectorIndex, probes: list[Probe]) -> list[Candidates]:
    return [await index.search(wanted(TENANT, Filters(), now=START), probe) for probe in probes]


def best(found: Candidates) -> list[str]:
    return [each.head for each in rank(found, {}, Weights(), DEPTH)]


def overlap(one: list[list[str]], other: list[list[str]]) -> float:
    return sum(len(set(a) & set(b)) for a, b in zip(one, other, strict=True)) / sum(map(len, other))


async def test_both_engines_rank_alike_and_miss_nothing(tmp_path: Path) -> None:
    if qdrant_binary() is None and os.environ.get("CI") != "true":
        pytest.skip("no Qdrant server here: run `make tools`")
    from engram_vectors.index_server import open_server  # noqa: PLC0415  # slow to import

    kept = chunks(1)
    asked = [Probe(dense=each.floats(), sparse=each.sparse, limit=120) for each in chunks(2)[:QUERIES]]
    async with open_edge(tmp_path / "edge") as edge:
        await filled(edge, kept)
        of_edge = await answers(edge, asked)
    with qdrant_server(tmp_path / "server") as (rest, grpc):
        async with open_server(QdrantSettings(url=f"http://127.0.0.1:{rest}", grpc_port=grpc)) as server:
            await filled(server, kept)
            of_server = await answers(server, asked)

    matrix = np.array([each.floats() for each in kept])
    heads = [head_of(TENANT, memory(number).id) for number in range(MEMORIES)]
    exact = [[heads[n] for n in np.argsort(-(matrix @ np.array(probe.dense)))[:DEPTH]] for probe in asked]
    assert overlap(list(map(best, of_edge)), list(map(best, of_server))) >= 0.99
    for engine in (of_edge, of_server):
        assert overlap([[first_of(point) for point, _ in found.dense[:DEPTH]] for found in engine], exact) >= 0.99
