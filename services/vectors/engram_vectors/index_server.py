"""The index in a Qdrant server, spoken to over gRPC: one collection for all tenants.

The HNSW graph is built per tenant (`m=0` for the whole, `payload_m` within the `is_tenant` index), so a tenant's
search never walks through others' points. Importing this module costs 2 s and 99 MB. The IDF over the tenant's own
memories is asked for; servers that do not know it yet use the collection's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as qdrant
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from engram_contracts.errors import Unavailable
from engram_contracts.facts import SparseVector
from engram_runtime.tracing import traced
from engram_vectors.filters import AT, EXPIRES, TENANT, TERMS, Between, Condition, Group, Wanted, Within
from engram_vectors.looks import Look, read_look
from engram_vectors.points import (
    LOOK,
    PLACE,
    RECORD,
    TAIL,
    Changes,
    Point,
    PointId,
    Relabel,
    first_of,
    point_of,
    uuid_of,
)
from engram_vectors.ports import Candidates, Probe, Scanned, Scored
from engram_vectors.settings import QdrantSettings

T = TypeVar("T")

COLLECTION = "engram"
QDRANT = {"db.system.name": "qdrant", "db.collection.name": COLLECTION}
DENSE, SPARSE = "dense", "sparse"
MODEL, GENERATION = "engram_model", "engram_generation"
TIMEOUT_SECONDS = 10
CHANNEL = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 2_000}
GONE = (grpc.RpcError, ApiException, QdrantException, OSError)


@contextlib.asynccontextmanager
async def open_server(settings: QdrantSettings) -> AsyncIterator[ServerIndex]:
    """The index on the server that the settings name. Raises `Unavailable` where none answers."""
    client = AsyncQdrantClient(
        url=settings.url,
        grpc_port=settings.grpc_port,
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        prefer_grpc=True,
        timeout=TIMEOUT_SECONDS,
        grpc_options=CHANNEL,
        check_compatibility=False,
    )
    try:
        index = ServerIndex(client)
        await index.load()
        yield index
    finally:
        await client.close()


class ServerIndex:
    """Implements `VectorIndex`; made by `open_server`. Several processes may share one collection."""

    def __init__(self, client: AsyncQdrantClient) -> None:
        self._client = client
        self._about: dict[str, Any] = {}

    @property
    def model(self) -> str | None:
        """See `VectorIndex.model`."""
        return self._about.get(MODEL)

    @property
    def generation(self) -> str | None:
        """See `VectorIndex.generation`."""
        return self._about.get(GENERATION)

    async def load(self) -> bool:
        """Whether the collection is there; what it remembers of itself is known then."""
        if not self._about and await _sent(self._client.collection_exists(COLLECTION)):
            info = await _sent(self._client.get_collection(COLLECTION))
            self._about = info.config.metadata or {}
            await self._index_payload()
        return bool(self._about)

    async def prepare(self, model: str, dimension: int) -> None:
        """See `VectorIndex.prepare`. Of several processes that try at once, one's collection is everybody's."""
        if await self.load():
            return
        try:
            await _sent(self._create(model, dimension))
        except Unavailable:
            if not await self.load():
                raise
        await self.load()

    @traced("upsert qdrant", "client", {**QDRANT, "db.operation.name": "batch_update_points"})
    async def write(self, changes: Changes) -> None:
        """See `VectorIndex.write`; in one round trip, on the server's disk when it returns."""
        operations = _operations(changes)
        if operations:
            await _sent(self._client.batch_update_points(COLLECTION, operations, wait=True))

    @traced("query qdrant", "client", {**QDRANT, "db.operation.name": "query_batch_points"})
    async def search(self, wanted: Wanted, probe: Probe) -> Candidates:
        """See `VectorIndex.search`."""
        legs = _legs(wanted, probe)
        if not legs or not await self.load():
            return Candidates()
        answers = await _sent(self._client.query_batch_points(COLLECTION, list(legs.values())))
        scored = {name: _scored(answer) for name, answer in zip(legs, answers, strict=True)}
        return Candidates(**scored, looks=_looks(*(answer.points for answer in answers)))

    async def standing(self, wanted: Wanted, places: Sequence[int]) -> dict[PointId, Look]:
        """See `VectorIndex.standing`."""
        if not places or not await self.load():
            return {}
        here = qdrant.FieldCondition(key=PLACE, match=qdrant.MatchAny(any=list(places)))
        among = qdrant.Filter(must=[here, _filter(wanted)])
        scrolled = self._client.scroll(COLLECTION, scroll_filter=among, limit=4 * len(places), with_payload=[LOOK])
        records, _ = await _sent(scrolled)
        return _looks(records)

    async def tally(self, wanted: Wanted) -> int:
        """See `VectorIndex.tally`."""
        if not await self.load():
            return 0
        return (await _sent(self._client.count(COLLECTION, count_filter=_filter(wanted), exact=True))).count

    async def narrow(self, wanted: Wanted, heads: Sequence[PointId]) -> set[PointId]:
        """See `VectorIndex.narrow`."""
        if not heads or not await self.load():
            return set()
        among = qdrant.Filter(must=[qdrant.HasIdCondition(has_id=list(map(uuid_of, heads))), _filter(wanted)])
        scrolled = self._client.scroll(COLLECTION, scroll_filter=among, limit=len(heads), with_payload=False)
        records, _ = await _sent(scrolled)
        return {_id(found) for found in records}

    async def fetch(self, tenant: str, heads: Sequence[PointId]) -> dict[PointId, str]:
        """See `VectorIndex.fetch`."""
        if not heads or not await self.load():
            return {}
        records = await _sent(
            self._client.retrieve(COLLECTION, list(map(uuid_of, heads)), with_payload=[TENANT, RECORD])
        )
        payloads = {_id(found): found.payload or {} for found in records}
        return {head: each[RECORD] for head, each in payloads.items() if each.get(TENANT) == tenant}

    async def scan(self, tenant: str | None, start: PointId | None, limit: int) -> list[Scanned]:
        """See `ScannedIndex.scan`."""
        if not await self.load():
            return []
        among = qdrant.Filter(must=[_match(TENANT, tenant)]) if tenant else None
        offset = None if start is None else uuid_of(start)
        scrolled = self._client.scroll(
            COLLECTION, scroll_filter=among, offset=offset, limit=limit, with_payload=[TENANT, RECORD]
        )
        payloads = [(_id(each), each.payload or {}) for each in (await _sent(scrolled))[0]]
        return [(point, payload.get(TENANT), payload.get(RECORD)) for point, payload in payloads]

    async def count(self, tenant: str) -> int:
        """See `VectorIndex.count`."""
        if not await self.load():
            return 0
        points, tails = await asyncio.gather(self._count(TENANT, tenant), self._count(TAIL, tenant))
        return points - tails

    async def flush(self) -> None:
        """See `VectorIndex.flush`; every write has waited for the server's disk already."""

    async def _count(self, field: str, value: str) -> int:
        among = qdrant.Filter(must=[_match(field, value)])
        return (await _sent(self._client.count(COLLECTION, count_filter=among, exact=True))).count

    async def _create(self, model: str, dimension: int) -> None:
        dense = qdrant.VectorParams(size=dimension, distance=qdrant.Distance.COSINE, datatype=qdrant.Datatype.FLOAT16)
        await self._client.create_collection(
            COLLECTION,
            vectors_config={DENSE: dense},
            sparse_vectors_config={SPARSE: qdrant.SparseVectorParams(modifier=qdrant.Modifier.IDF)},
            hnsw_config=qdrant.HnswConfigDiff(m=0, payload_m=16),
            metadata={MODEL: model, GENERATION: uuid4().hex},
        )

    async def _index_payload(self) -> None:
        """Have the payload indexed; indexes that exist are left as they are."""
        for name, schema in _payload_indexes().items():
            await _sent(self._client.create_payload_index(COLLECTION, name, schema, wait=True))


async def _sent(request: Awaitable[T]) -> T:
    try:
        return await request
    except GONE as error:
        raise Unavailable(f"Qdrant did not do it: {_reason(error)}", retry_after=1.0) from error


def _reason(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)


def _payload_indexes() -> dict[str, Any]:
    whole_words = qdrant.TextIndexParams(
        type=qdrant.TextIndexType.TEXT, tokenizer=qdrant.TokenizerType.WHITESPACE, lowercase=False
    )
    numbers = qdrant.IntegerIndexParams(type=qdrant.IntegerIndexType.INTEGER, lookup=False, range=True)
    return {
        TENANT: qdrant.KeywordIndexParams(type=qdrant.KeywordIndexType.KEYWORD, is_tenant=True),
        TAIL: qdrant.KeywordIndexParams(type=qdrant.KeywordIndexType.KEYWORD),
        TERMS: whole_words,
        AT: numbers,
        PLACE: qdrant.IntegerIndexParams(type=qdrant.IntegerIndexType.INTEGER, lookup=True, range=False),
        EXPIRES: numbers,
    }


def _operations(changes: Changes) -> list[Any]:
    operations: list[Any] = []
    if changes.drop:
        operations.append(qdrant.DeleteOperation(delete=qdrant.PointIdsList(points=list(map(uuid_of, changes.drop)))))
    if changes.put:
        points = [_point(point) for point in changes.put]
        operations.append(qdrant.UpsertOperation(upsert=qdrant.PointsList(points=points)))
    operations.extend(_relabel(relabel) for relabel in changes.relabel)
    return operations


def _point(point: Point) -> qdrant.PointStruct:
    vectors: dict[str, Any] = {}
    if point.dense is not None:
        vectors[DENSE] = list(point.dense)
    if point.sparse is not None and point.sparse.indices:
        vectors[SPARSE] = _sparse(point.sparse)
    return qdrant.PointStruct(id=uuid_of(point.id), vector=vectors, payload=point.payload)


def _relabel(relabel: Relabel) -> qdrant.SetPayloadOperation:
    """By filter, which passes over points that are not there."""
    among = qdrant.Filter(must=[qdrant.HasIdCondition(has_id=list(map(uuid_of, relabel.ids)))])
    return qdrant.SetPayloadOperation(set_payload=qdrant.SetPayload(payload=relabel.payload, filter=among))


def _legs(wanted: Wanted, probe: Probe) -> dict[str, qdrant.QueryRequest]:
    among = _filter(wanted)
    legs = {}
    if probe.dense is not None:
        query = qdrant.NearestQuery(nearest=list(probe.dense))
        legs[DENSE] = qdrant.QueryRequest(
            query=query, using=DENSE, filter=among, limit=probe.limit, with_payload=[LOOK]
        )
    if probe.sparse is not None and probe.sparse.indices:
        own = qdrant.IdfCorpusParams(corpus=qdrant.Filter(must=[_match(TENANT, wanted.tenant)]))
        legs[SPARSE] = qdrant.QueryRequest(
            query=qdrant.NearestQuery(nearest=_sparse(probe.sparse)),
            using=SPARSE,
            filter=among,
            limit=probe.limit,
            with_payload=[LOOK],
            params=qdrant.SearchParams(idf=own),
        )
    return legs


def _sparse(vector: SparseVector) -> qdrant.SparseVector:
    return qdrant.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _scored(answer: qdrant.QueryResponse) -> list[Scored]:
    return [(_id(point), point.score) for point in answer.points]


def _looks(*found: Sequence[qdrant.ScoredPoint | qdrant.Record]) -> dict[PointId, Look]:
    texts = {first_of(_id(point)): (point.payload or {}).get(LOOK) for points in found for point in points}
    return {head: read_look(text) for head, text in texts.items() if text is not None}


def _id(point: qdrant.ScoredPoint | qdrant.Record) -> PointId:
    return point_of(str(point.id))


def _filter(wanted: Wanted) -> qdrant.Filter:
    must = [_match(TENANT, wanted.tenant), *map(_condition, wanted.must)]
    return qdrant.Filter(must=must, must_not=[_condition(each) for each in wanted.must_not])


def _condition(condition: Condition) -> Any:
    if isinstance(condition, Group):
        return _group(condition)
    if isinstance(condition, Within):
        bounds = qdrant.Range(gte=condition.at_least, lt=condition.below)
        return qdrant.FieldCondition(key=condition.field, range=bounds)
    if isinstance(condition, Between):
        bounds = qdrant.Range(gte=condition.gte, gt=condition.gt, lte=condition.lte, lt=condition.lt)
        return qdrant.FieldCondition(key=condition.field, range=bounds)
    tokens = [
        qdrant.FieldCondition(key=condition.field, match=qdrant.MatchText(text=token)) for token in condition.any_of
    ]
    return tokens[0] if len(tokens) == 1 else qdrant.Filter(should=tokens)


def _group(group: Group) -> qdrant.Filter:
    parts = (group.must, group.should, group.must_not)
    must, should, must_not = ([_condition(each) for each in part] or None for part in parts)
    return qdrant.Filter(must=must, should=should, must_not=must_not)


def _match(field: str, value: str) -> qdrant.FieldCondition:
    return qdrant.FieldCondition(key=field, match=qdrant.MatchValue(value=value))
