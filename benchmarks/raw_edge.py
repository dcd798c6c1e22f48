"""What the static embedder and Qdrant Edge alone do with the same texts, in a process of its own.

    python -m benchmarks.raw_edge '{"sizes": [10000, 100000], "even": 100}'

prints one JSON object. The shard is set up as Engram's own index, points are written in batches of 64, and a search
is what a recall asks of it: a dense and a sparse leg of 50, both narrowed to one tenant, and ten payloads.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import qdrant_edge as edge
from pydantic import BaseModel

from benchmarks.figures import p
from benchmarks.layout import BIG, BULK, SMALL, tenant_of
from benchmarks.texts import Texts

BATCH = 64
RESCORED = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0))
LEG = 50
QUERIES = 300

Named = dict[str, list[float] | edge.SparseVector | list[list[float]]]
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

    def _weights(self, text: str) -> edge.SparseVector:
        found = self._sparse.document(text)
        return edge.SparseVector(indices=list(found.indices), values=list(found.values))


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
        shard.update(edge.UpdateOperation.upsert_points(list(_points(start, texts, made, plan.even))))
        embedding, writing = embedding + embedded - began, writing + time.perf_counter() - embedded
        for size in plan.sizes:
            if start < size <= start + len(made):
                searches += _searches(shard, questions, size)
    return RawEdge(embedded_per_s=len(texts) / embedding, upserted_per_s=len(texts) / writing, searches=searches)


def _shard(folder: Path, dimension: int) -> edge.EdgeShard:
    codes = edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4, always_ram=True)
    dense = edge.EdgeVectorParams(
        size=dimension,
        distance=edge.Distance.Cosine,
        datatype=edge.VectorStorageDatatype.Float16,
        quantization_config=codes,
    )
    config = edge.EdgeConfig(
        vectors={"dense": dense},
        sparse_vectors={"sparse": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        payload_memory=edge.Memory.Cached,
        wal_enabled=False,
    )
    shard = edge.EdgeShard.create(str(folder), config)
    index = edge.KeywordIndexParams(is_tenant=True)
    shard.update(edge.UpdateOperation.create_field_index("tenant", index))
    return shard


def _points(start: int, texts: Sequence[str], made: Sequence[Named], even: int) -> Iterator[edge.Point]:
    for number, vectors in enumerate(made, start):
        payload = {"tenant": tenant_of(number // BULK, even=even), "content": texts[number]}
        yield edge.Point(id=UUID(int=number), vector=vectors, payload=payload)


def _searches(shard: edge.EdgeShard, questions: Sequence[Named], size: int) -> Iterator[RawSearch]:
    for where, tenants in (("20 tenants", SMALL), ("big tenant", (BIG,))):
        taken = [_timed(shard, _request(one, tenants[n % len(tenants)])) for n, one in enumerate(questions)]
        yield RawSearch(points=size, where=where, p50_ms=p(50, taken), p95_ms=p(95, taken))


def _timed(shard: edge.EdgeShard, request: edge.QueryBatchRequest) -> float:
    began = time.perf_counter()
    legs = shard.query_batch(request)
    shard.retrieve([point.id for point in legs[0][:10]], True, False)
    return 1_000 * (time.perf_counter() - began)


def _request(question: Named, tenant: str) -> edge.QueryBatchRequest:
    own = edge.Filter(must=[edge.FieldCondition(key="tenant", match=edge.MatchValue(tenant))])
    params = {"dense": RESCORED, "sparse": edge.SearchParams(idf=edge.IdfParams(corpus=own))}
    return edge.QueryBatchRequest(
        [
            edge.QueryRequest(
                limit=LEG,
                query=edge.Query.Nearest(vector, using=name),
                filter=own,
                with_payload=False,
                params=params[name],
            )
            for name, vector in question.items()
        ]
    )


def main() -> None:
    """Measure what the argument says and print it."""
    with tempfile.TemporaryDirectory() as scratch:
        print(measure(Plan.model_validate_json(sys.argv[1]), Path(scratch) / "edge").model_dump_json())


if __name__ == "__main__":
    main()
