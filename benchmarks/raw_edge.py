"""What the static embedder and Qdrant Edge alone do with the same texts, in a process of its own.

    python -m benchmarks.raw_edge '{"sizes": [10000, 100000], "even": 100}'

prints one JSON object. Points are written in batches of 64 and searched as a hybrid query of a dense and a sparse
leg, always narrowed to one tenant; nothing is asked of it that Engram does not ask as well.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from qdrant_edge import (
    Distance,
    EdgeConfig,
    EdgeShard,
    EdgeSparseVectorParams,
    EdgeVectorParams,
    FieldCondition,
    Filter,
    Fusion,
    KeywordIndexParams,
    MatchValue,
    Modifier,
    Point,
    Prefetch,
    Query,
    QueryRequest,
    SparseVector,
    UpdateOperation,
)

from benchmarks.figures import p
from benchmarks.layout import BIG, BULK, SMALL, tenant_of
from benchmarks.texts import Texts

BATCH = 64
LEG = 50
QUERIES = 300

Named = dict[str, list[float] | SparseVector | list[list[float]]]
"""Vectors of one text by name."""


class Plan(BaseModel):
    """How many points to search among, how many bulk requests go to small tenants alone, made of which texts."""

    sizes: list[int]
    even: int
    conversations: Path | None = None


class RawSearch(BaseModel):
    """Milliseconds of a hybrid search among so many points, within a small tenant or the big one."""

    points: int
    where: str
    p50_ms: float
    p95_ms: float


class RawEdge(BaseModel):
    """What was measured: texts embedded a second, points written a second, searches by size."""

    embedded_per_s: float
    upserted_per_s: float
    searches: list[RawSearch]


class Vectors:
    """Dense and sparse vectors as the embedder makes them."""

    def __init__(self) -> None:
        from engram_embedder.model_static import StaticModel  # noqa: PLC0415 (loads the weights)
        from engram_embedder.sparse import SparseEncoder  # noqa: PLC0415
        from engram_embedder.stems import Stems  # noqa: PLC0415

        self._model = StaticModel()
        self._sparse = SparseEncoder(Stems())

    @property
    def dimension(self) -> int:
        return self._model.dimension

    def of(self, texts: Sequence[str]) -> list[Named]:
        """Named vectors of each text."""
        dense = asyncio.run(self._model.embed(texts)).vectors
        return [{"dense": row.tolist(), "sparse": self._weights(text)} for row, text in zip(dense, texts, strict=True)]

    def _weights(self, text: str) -> SparseVector:
        found = self._sparse.document(text)
        return SparseVector(indices=list(found.indices), values=list(found.values))


def measure(plan: Plan, folder: Path) -> RawEdge:
    """Embed, write and search."""
    supply, vectors = Texts(plan.conversations), Vectors()
    shard = _shard(folder, vectors.dimension)
    texts = supply.texts(max(plan.sizes))
    questions = vectors.of(supply.questions(QUERIES))
    embedding = writing = 0.0
    searches: list[RawSearch] = []
    for start in range(0, len(texts), BATCH):
        began = time.perf_counter()
        made = vectors.of(texts[start : start + BATCH])
        embedded = time.perf_counter()
        shard.update(UpdateOperation.upsert_points(list(_points(start, texts, made, plan.even))))
        embedding, writing = embedding + embedded - began, writing + time.perf_counter() - embedded
        for size in plan.sizes:
            if start < size <= start + len(made):
                searches += _searches(shard, questions, size)
    return RawEdge(embedded_per_s=len(texts) / embedding, upserted_per_s=len(texts) / writing, searches=searches)


def _shard(folder: Path, dimension: int) -> EdgeShard:
    shard = EdgeShard.create(
        str(folder),
        EdgeConfig(
            vectors={"dense": EdgeVectorParams(size=dimension, distance=Distance.Cosine)},
            sparse_vectors={"sparse": EdgeSparseVectorParams(modifier=Modifier.Idf)},
        ),
    )
    index = KeywordIndexParams(is_tenant=True)
    shard.update(UpdateOperation.create_field_index("tenant", index))
    return shard


def _points(start: int, texts: Sequence[str], made: Sequence[Named], even: int) -> Iterator[Point]:
    for number, vectors in enumerate(made, start):
        payload = {"tenant": tenant_of(number // BULK, even=even), "content": texts[number]}
        yield Point(id=UUID(int=number), vector=vectors, payload=payload)


def _searches(shard: EdgeShard, questions: Sequence[Named], size: int) -> Iterator[RawSearch]:
    for where, tenants in (("20 tenants", SMALL), ("big tenant", (BIG,))):
        taken = [_timed(shard, _request(one, tenants[n % len(tenants)])) for n, one in enumerate(questions)]
        yield RawSearch(points=size, where=where, p50_ms=p(50, taken), p95_ms=p(95, taken))


def _timed(shard: EdgeShard, request: QueryRequest) -> float:
    began = time.perf_counter()
    shard.query(request)
    return 1_000 * (time.perf_counter() - began)


def _request(question: Named, tenant: str) -> QueryRequest:
    own = Filter(must=[FieldCondition(key="tenant", match=MatchValue(tenant))])
    legs = [
        Prefetch(limit=LEG, query=Query.Nearest(vector, using=name), filter=own) for name, vector in question.items()
    ]
    fused: Any = Fusion.Rrf(k=60)  # the stubs do not say that this is a Fusion
    return QueryRequest(limit=10, prefetches=legs, query=fused, filter=own, with_payload=True)


def main() -> None:
    """Measure what the argument says and print it."""
    with tempfile.TemporaryDirectory() as scratch:
        print(measure(Plan.model_validate_json(sys.argv[1]), Path(scratch) / "edge").model_dump_json())


if __name__ == "__main__":
    main()
