"""The index in this process: a Qdrant Edge shard in a directory that nobody else may open.

Edge holds the interpreter's lock in every call, so calls run directly, writes in slices between which the event
loop runs. One thread searches: the idle ones of a shard's own pool look for work by spinning, which with the default
of eight took half of a recall's time in this process. There is no HNSW graph: building one (`optimize`) would stop the
process for seconds, while searching 4-bit codes and rescoring the best exactly takes 3 ms at 100,000 points of one
tenant. There is no write-ahead log either: the log stream is one, and what is applied after the last flush is applied
again (see `changes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

import qdrant_edge as edge

from engram_contracts.errors import Conflict, Unavailable
from engram_contracts.facts import SparseVector
from engram_runtime.tracing import traced
from engram_vectors.changes import dimension_of
from engram_vectors.filters import AT, EXPIRES, TENANT, TERMS, Between, Condition, Group, Wanted, Within
from engram_vectors.glances import Glances
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
    uuid_of,
)
from engram_vectors.ports import Candidates, Probe, Scanned, Scored
from engram_vectors.positions_file import replace

T = TypeVar("T")

DENSE, SPARSE = "dense", "sparse"
SLICE = 64
MOST_RENEWED = 200_000
"""Points that are copied in half a minute; more would keep followers waiting for longer than a hang may take."""
QDRANT = {"db.system.name": "qdrant", "engram.adapter": "edge"}
RESCORED = edge.SearchParams(quantization=edge.QuantizationSearchParams(rescore=True, oversampling=2.0))


@contextlib.asynccontextmanager
async def open_edge(folder: Path) -> AsyncIterator[EdgeIndex]:
    """The index in `folder`, flushed and closed with the context.

    Raises `Conflict` when another process has it open.
    """
    with _locked(folder):
        index = EdgeIndex(folder)
        index.load()
        try:
            yield index
        finally:
            index.close()


class EdgeIndex:
    """Implements `VectorIndex`; made by `open_edge`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._about: dict[str, Any] | None = None
        self._glances = Glances()
        self._shard: edge.EdgeShard | None = None
        self._tenants: set[str] = set()
        """Two or more if there are several, not always all of them."""

    @property
    def model(self) -> str | None:
        """See `VectorIndex.model`."""
        return self._about["model"] if self._about else None

    @property
    def generation(self) -> str | None:
        """See `VectorIndex.generation`."""
        return self._about["generation"] if self._about else None

    def load(self) -> None:
        """Open the shard that is there, if one is; one that was about to be replaced is taken back."""
        current, old = self._folder / "current", self._folder / "old"
        if old.exists() and not current.exists():
            old.rename(current)
        shutil.rmtree(old, ignore_errors=True)
        about = self._folder / "current" / "about.json"
        if about.exists():
            self._shard = self._loaded(about.parent / "shard")
            self._about = json.loads(about.read_bytes())
            some = self._call(edge.EdgeShard.facet, edge.FacetRequest(TENANT, limit=2))
            self._tenants = {str(hit.value) for hit in some.hits}

    def _loaded(self, shard: Path) -> edge.EdgeShard:
        try:
            return edge.EdgeShard.load(str(shard), edge.EdgeConfig(sparse_vectors=_by_words(), max_search_threads=1))
        except Exception as error:
            raise Unavailable(
                f"the index in {str(shard.parent)!r} cannot be opened ({error}); move that folder away, and the index "
                "is built again from the log"
            ) from error

    def close(self) -> None:
        """Flush and close the shard."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    async def prepare(self, model: str, dimension: int) -> None:
        """See `VectorIndex.prepare`. The shard is built aside and moved into place, so a crash leaves none or all."""
        if self._shard is not None:
            return
        if (self._folder / "current").exists():
            return self.load()
        draft = self._folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "shard").mkdir(parents=True)
        _guarded(_create, draft / "shard", dimension)
        replace(draft / "about.json", json.dumps({"model": model, "generation": uuid4().hex}).encode())
        draft.rename(self._folder / "current")
        self.load()

    @traced("upsert qdrant", "client", {**QDRANT, "db.operation.name": "update"})
    async def write(self, changes: Changes) -> None:
        """See `VectorIndex.write`; in slices of at most 64 points."""
        self._tenants.update(point.payload[TENANT] for point in changes.put)
        try:
            for operation in _operations(changes):
                self._call(edge.EdgeShard.update, operation)
                await asyncio.sleep(0)
        finally:
            self._glances.change(map(first_of, changes.points()), _arrivals(changes))
        for tenant, looks in _written(changes).items():
            self._glances.arrive(tenant, looks)

    @traced("query qdrant", "client", {**QDRANT, "db.operation.name": "query_batch"})
    async def search(self, wanted: Wanted, probe: Probe) -> Candidates:
        """See `VectorIndex.search`; IDF is of the tenant's own memories."""
        if self._shard is None:
            return Candidates()
        among = _filter(self._without_idle(wanted))
        legs = {}
        if probe.dense is not None:
            legs[DENSE] = _query(probe.dense, DENSE, among, probe.limit, RESCORED)
        if probe.sparse is not None and probe.sparse.indices:
            vector = _sparse(probe.sparse)
            legs[SPARSE] = _query(vector, SPARSE, among, probe.limit, self._own_idf(wanted.tenant))
        found = self._call(edge.EdgeShard.query_batch, edge.QueryBatchRequest(list(legs.values())))
        scored = {name: _scored(points) for name, points in zip(legs, found, strict=True)}
        heads = {first_of(point) for points in scored.values() for point, _ in points}
        return Candidates(**scored, looks=self._looks(heads))

    async def standing(self, wanted: Wanted, places: Sequence[int]) -> dict[PointId, Look]:
        """See `VectorIndex.standing`."""
        if self._shard is None or not places:
            return {}
        found, unknown = self._glances.standing(wanted.tenant, places)
        if unknown:
            found |= self._settle(wanted.tenant, unknown)
        narrowing = self._without_idle(wanted)
        if not found or not (narrowing.must or narrowing.must_not):
            return found
        passed = await self.narrow(narrowing, list(found))
        return {head: look for head, look in found.items() if head in passed}

    def _settle(self, tenant: str, places: Sequence[int]) -> dict[PointId, Look]:
        """Find out who stands at these places, once."""
        here = edge.FieldCondition(PLACE, match=edge.MatchAny(list(places)))
        among = edge.Filter(must=[here, _match(TENANT, tenant)])
        request = edge.ScrollRequest(limit=4 * len(places), filter=among, with_payload=False)
        records, _ = self._call(edge.EdgeShard.scroll, request)
        looks = self._looks({first_of(_id(found)) for found in records})
        self._glances.settle(tenant, places, looks)
        return looks

    def _looks(self, heads: Set[PointId]) -> dict[PointId, Look]:
        """The memories at a glance; reading a payload costs ten times as much as remembering what was in it."""
        known = self._glances.of(heads)
        if len(known) == len(heads):
            return known
        records = self._call(edge.EdgeShard.retrieve, list(map(uuid_of, heads - known.keys())), [LOOK], False)
        texts = {_id(found): (found.payload or {}).get(LOOK) for found in records}
        fresh = {head: read_look(text) for head, text in texts.items() if text is not None}
        self._glances.keep(fresh)
        return known | fresh

    async def tally(self, wanted: Wanted) -> int:
        """See `VectorIndex.tally`."""
        return self._count(_filter(wanted), exact=True)

    async def narrow(self, wanted: Wanted, heads: Sequence[PointId]) -> set[PointId]:
        """See `VectorIndex.narrow`."""
        if self._shard is None or not heads:
            return set()
        among = edge.Filter(must=[edge.HasIdCondition(set(map(uuid_of, heads))), _filter(wanted)])
        request = edge.ScrollRequest(limit=len(heads), filter=among, with_payload=False)
        records, _ = self._call(edge.EdgeShard.scroll, request)
        return {_id(found) for found in records}

    async def fetch(self, tenant: str, heads: Sequence[PointId]) -> dict[PointId, str]:
        """See `VectorIndex.fetch`."""
        if self._shard is None or not heads:
            return {}
        records = self._call(edge.EdgeShard.retrieve, list(map(uuid_of, heads)), [TENANT, RECORD], False)
        payloads = {_id(found): found.payload or {} for found in records}
        return {head: each[RECORD] for head, each in payloads.items() if each.get(TENANT) == tenant}

    async def scan(self, tenant: str | None, start: PointId | None, limit: int) -> list[Scanned]:
        """See `ScannedIndex.scan`."""
        if self._shard is None:
            return []
        among = edge.Filter(must=[_match(TENANT, tenant)]) if tenant else None
        offset = None if start is None else uuid_of(start)
        request = edge.ScrollRequest(offset=offset, limit=limit, filter=among, with_payload=[TENANT, RECORD])
        found, _ = self._call(edge.EdgeShard.scroll, request)
        payloads = ((_id(each), each.payload or {}) for each in found)
        return [(point, payload.get(TENANT), payload.get(RECORD)) for point, payload in payloads]

    async def count(self, tenant: str) -> int:
        """See `VectorIndex.count`."""
        return self._count(_match(TENANT, tenant)) - self._count(_match(TAIL, tenant))

    async def flush(self) -> None:
        """See `VectorIndex.flush`."""
        if self._shard is not None:
            self._call(edge.EdgeShard.flush)

    async def renew(self) -> tuple[int, int]:
        """Copy all that is there to a new shard, which takes this one's place; the bytes of both on the disk.

        So nothing of what was deleted is left. Nobody may write meanwhile; who searches is answered between slices.
        A crash at any moment leaves the old shard or the new one. One of very many points is left as it is.
        """
        if self._shard is None or self._about is None or self._count() > MOST_RENEWED:
            return 0, 0
        current, draft, old = (self._folder / name for name in ("current", "draft", "old"))
        before = _size(current)
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "shard").mkdir(parents=True)
        _guarded(_create, draft / "shard", dimension_of(self._about["model"]))
        await self._copy_to(draft / "shard")
        replace(draft / "about.json", json.dumps(self._about).encode())
        self.close()
        current.rename(old)
        draft.rename(current)
        self.load()
        return before, _size(current)

    async def _copy_to(self, folder: Path) -> None:
        shard = self._loaded(folder)
        try:
            offset: Any = None
            while True:
                request = edge.ScrollRequest(offset=offset, limit=SLICE, with_payload=True, with_vector=True)
                found, offset = self._call(edge.EdgeShard.scroll, request)
                points = [edge.Point(uuid_of(_id(each)), each.vector or {}, each.payload or {}) for each in found]
                if points:
                    _guarded(edge.EdgeShard.update, shard, edge.UpdateOperation.upsert_points(points))
                if offset is None:
                    break
                await asyncio.sleep(0)
            _guarded(edge.EdgeShard.flush, shard)
        finally:
            shard.close()

    def _call(self, what: Callable[..., T], *arguments: Any) -> T:
        """A method of the shard, called."""
        if self._shard is None:
            raise Unavailable("the index is not open")
        return _guarded(what, self._shard, *arguments)

    def _count(self, *must: Any, exact: bool = False) -> int:
        """Points that match, by the payload index alone, which is exact for one condition of an unmerged shard."""
        if self._shard is None:
            return 0
        request = edge.CountRequest(exact=exact or len(must) > 1, filter=edge.Filter(must=list(must)))
        return self._call(edge.EdgeShard.count, request)

    def _without_idle(self, wanted: Wanted) -> Wanted:
        """Without exclusions that hit nothing (0.03 ms to see), for each takes as long as the search itself."""
        tenant = _match(TENANT, wanted.tenant)
        active = (each for each in wanted.must_not if isinstance(each, Group) or self._points_with(each.field))
        hitting = tuple(each for each in active if self._count(tenant, _condition(each)))
        return Wanted(wanted.tenant, wanted.must, hitting)

    def _points_with(self, field: str) -> int:
        assert self._shard is not None
        return self._shard.info().payload_schema[field].points

    def _own_idf(self, tenant: str) -> edge.SearchParams:
        """IDF over the tenant's points; where there is no other tenant the engine's own statistics are the same."""
        if self._tenants == {tenant}:
            return edge.SearchParams()
        return edge.SearchParams(idf=edge.IdfParams(corpus=edge.Filter(must=[_match(TENANT, tenant)])))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"another process has the index in {str(folder)!r} open; stop it, or choose another data directory"
            ) from error
        yield


def _guarded(what: Callable[..., T], *arguments: Any) -> T:
    try:
        return what(*arguments)
    except Exception as error:
        raise Unavailable(f"the index failed: {error}") from error


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _create(folder: Path, dimension: int) -> None:
    codes = edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4, always_ram=True)
    dense = edge.EdgeVectorParams(
        size=dimension,
        distance=edge.Distance.Cosine,
        datatype=edge.VectorStorageDatatype.Float16,
        quantization_config=codes,
    )
    config = edge.EdgeConfig(
        vectors={DENSE: dense},
        sparse_vectors=_by_words(),
        max_search_threads=1,
        wal_enabled=False,
    )
    shard = edge.EdgeShard.create(str(folder), config)
    for name, index in _payload_indexes().items():
        shard.update(edge.UpdateOperation.create_field_index(name, index))
    shard.flush()
    shard.close()


def _by_words() -> dict[str, edge.EdgeSparseVectorParams]:
    return {SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}


def _payload_indexes() -> dict[str, Any]:
    numbers = edge.IntegerIndexParams(lookup=False, range=True)
    return {
        TENANT: edge.KeywordIndexParams(is_tenant=True),
        TAIL: edge.KeywordIndexParams(),
        TERMS: edge.TextIndexParams(tokenizer=edge.TokenizerType.Whitespace, lowercase=False),
        AT: numbers,
        PLACE: edge.IntegerIndexParams(lookup=True, range=False),
        EXPIRES: numbers,
    }


def _operations(changes: Changes) -> Iterator[edge.UpdateOperation]:
    for ids in _slices(changes.drop):
        yield edge.UpdateOperation.delete_points(list(map(uuid_of, ids)))
    for points in _slices(changes.put):
        yield edge.UpdateOperation.upsert_points([_point(point) for point in points])
    for relabel in changes.relabel:
        yield _relabel(relabel)


def _slices(items: Sequence[T]) -> Iterator[list[T]]:
    remaining = iter(items)
    while some := list(islice(remaining, SLICE)):
        yield some


def _point(point: Point) -> edge.Point:
    vectors: dict[str, Any] = {}
    if point.dense is not None:
        vectors[DENSE] = point.dense
    if point.sparse is not None and point.sparse.indices:
        vectors[SPARSE] = _sparse(point.sparse)
    return edge.Point(uuid_of(point.id), vectors, point.payload)


def _relabel(relabel: Relabel) -> edge.UpdateOperation:
    """By filter, which passes over points that are not there."""
    among = edge.Filter(must=[edge.HasIdCondition(set(map(uuid_of, relabel.ids)))])
    return edge.UpdateOperation.set_payload_by_filter(among, relabel.payload)


def _sparse(vector: SparseVector) -> edge.SparseVector:
    return edge.SparseVector(list(vector.indices), list(vector.values))


def _query(vector: Any, leg: str, among: edge.Filter, limit: int, params: edge.SearchParams) -> edge.QueryRequest:
    query = edge.Query.Nearest(vector, using=leg)
    return edge.QueryRequest(limit=limit, query=query, filter=among, with_payload=False, params=params)


def _scored(points: Sequence[edge.ScoredPoint]) -> list[Scored]:
    return [(_id(point), point.score) for point in points]


def _id(point: edge.ScoredPoint | edge.Record) -> PointId:
    return cast(UUID, point.id).int


def _written(changes: Changes) -> Mapping[str, Mapping[PointId, Look]]:
    """The looks of the memories that are put, by tenant."""
    looks: defaultdict[str, dict[PointId, Look]] = defaultdict(dict)
    for point in changes.put:
        if LOOK in point.payload and point.id == first_of(point.id):
            looks[point.payload[TENANT]][point.id] = read_look(point.payload[LOOK])
    return looks


def _arrivals(changes: Changes) -> Iterator[tuple[str, int]]:
    """Tenant and place of every memory that is written."""
    return ((payload[TENANT], place) for payload in changes.payloads() if (place := payload.get(PLACE)))


def _filter(wanted: Wanted) -> edge.Filter:
    must: list[Any] = [_match(TENANT, wanted.tenant), *map(_condition, wanted.must)]
    return edge.Filter(must=must, must_not=[_condition(each) for each in wanted.must_not])


def _condition(condition: Condition) -> edge.FieldCondition | edge.Filter:
    if isinstance(condition, Group):
        return _group(condition)
    if isinstance(condition, Within):
        bounds = edge.RangeFloat(gte=condition.at_least, lt=condition.below)
        return edge.FieldCondition(condition.field, range=bounds)
    if isinstance(condition, Between):
        bounds = edge.RangeFloat(gte=condition.gte, gt=condition.gt, lte=condition.lte, lt=condition.lt)
        return edge.FieldCondition(condition.field, range=bounds)
    tokens: list[Any] = [edge.FieldCondition(condition.field, match=edge.MatchText(each)) for each in condition.any_of]
    return tokens[0] if len(tokens) == 1 else edge.Filter(should=tokens)


def _group(group: Group) -> edge.Filter:
    parts = (group.must, group.should, group.must_not)
    conditions: list[list[Any]] = [[_condition(each) for each in part] for part in parts]
    must, should, must_not = (part or None for part in conditions)
    return edge.Filter(must=must, should=should, must_not=must_not)


def _match(field: str, value: str) -> edge.FieldCondition:
    return edge.FieldCondition(field, match=edge.MatchValue(value))
