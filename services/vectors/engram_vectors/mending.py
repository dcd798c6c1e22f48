"""What the index keeps, told point by point, and memories put right in it while the log is followed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import ValidationError

from engram_contracts.auditing import (
    DropStray,
    IndexPositions,
    Kept,
    KeptPage,
    ListIndexed,
    Mend,
    Mended,
    MendIndexed,
    digest_of,
)
from engram_contracts.auditing import Positions as Reached
from engram_contracts.erasing import Compacted, CompactIndexed, Erased, EraseIndexed
from engram_contracts.facts import Accessed, Forgotten, Judged, Remembered, Revised
from engram_contracts.ids import PARTITIONS, partition_of
from engram_runtime.bus import Bus
from engram_runtime.refetching import facts_of
from engram_runtime.service import Delivery, Outcome
from engram_vectors.accesses import Accesses
from engram_vectors.changes import Fold, dimension_of, session_of
from engram_vectors.handlers import Batch, Handlers
from engram_vectors.points import (
    Changes,
    Entry,
    Point,
    PointId,
    chunk_number,
    chunk_of,
    first_of,
    head_of,
    point_of,
    points_of,
    spans_of,
    uuid_of,
)
from engram_vectors.ports import Scanned, VectorIndex
from engram_vectors.positions import Positions
from engram_vectors.recalling import Recaller
from engram_vectors.recent import Recent
from engram_vectors.turns import Turns

FACTS = {fact.event: fact for fact in (Remembered, Revised, Forgotten, Judged, Accessed)}
LOT = 500
MOST_CHUNKS = 64
"""More points than one memory can have."""


class ScannedIndex(VectorIndex, Protocol):
    """An index that can also be read from one end to the other."""

    async def scan(self, tenant: str | None, start: PointId | None, limit: int) -> list[Scanned]:
        """Points in the order of their ids, from `start` on, inclusive; of one tenant, or of all."""


@runtime_checkable
class Renewable(Protocol):
    """An index whose files can be written anew."""

    async def renew(self) -> tuple[int, int]:
        """Leave nothing in them of what was deleted; their bytes before and after."""


class Mender(Handlers):
    """The handlers, which also tell what the index keeps and put it right, never while a batch is applied."""

    def __init__(
        self,
        index: ScannedIndex,
        positions: Positions,
        recaller: Recaller,
        bus: Bus,
        *,
        turns: Turns,
        recent: Recent | None = None,
        accesses: Accesses | None = None,
    ) -> None:
        super().__init__(index, positions, recaller, bus, turns=turns, recent=recent, accesses=accesses)
        self._scanned = index
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def apply(self, batch: Batch) -> list[Outcome]:
        """See `Handlers.apply`."""
        if not batch:
            return []
        async with self._locks[partition_of(batch[0].tenant)]:
            return await super().apply(batch)

    async def rewind(self, partition: int, sequence: int) -> None:
        """Go on behind a sequence of the log, which has lost what was applied beyond it."""
        async with self._locks[partition]:
            self._positions.rewind(partition, sequence)

    async def positions(self, _: IndexPositions) -> Reached:
        """How far in the log each partition is."""
        return Reached(positions={partition: self._positions.of(partition) for partition in range(PARTITIONS)})

    async def kept(self, question: ListIndexed) -> KeptPage:
        """A page of what the index keeps. A memory whose points may go on beyond the page is left to the next one."""
        start = None if question.after is None else point_of(question.after)
        scanned = await self._scanned.scan(question.tenant, start, question.limit)
        after = None
        if len(scanned) == question.limit:
            after = first_of(scanned[-1][0])
            scanned = [point for point in scanned if first_of(point[0]) != after]
        return _page(scanned, after)

    async def drop_stray(self, question: DropStray) -> Mended:
        """Take points out."""
        await self._write_changes(Changes(drop=list(map(point_of, question.points))))
        await self._index.flush()
        return Mended(applied=0)

    async def mend(self, question: MendIndexed) -> Mended:
        """Replace all points of memories by what their facts, or what is given instead of them, make of them."""
        partition = partition_of(question.tenant)
        async with self._locks[partition]:
            facts = await facts_of(self._bus, question, FACTS, position=self._positions.of(partition))
            await self._prepare_for(question, facts)
            changes = await self._made_of(facts, question)
            changes.put.extend(point for mend in question.mends for point in self._given(question.tenant, mend))
            there = {point.id for point in changes.put}
            possible = (_possible_points(question.tenant, mend.memory_id) for mend in question.mends)
            changes.drop.extend(point for points in possible for point in points if point not in there)
            await self._write_changes(changes)
            await self._index.flush()
        return Mended(applied=len(facts))

    async def erase(self, question: EraseIndexed) -> Erased:
        """Take out all points of memories, or of a tenant, tombstones included."""
        async with self._locks[partition_of(question.tenant)]:
            removed = 0
            async for points in self._points_of(question):
                await self._write_changes(Changes(drop=points))
                removed += len(points)
            self._places.forget()
            self._recaller.speakers.forget()
            await self._index.flush()
        return Erased(removed={"points": removed} if removed else {})

    async def compact(self, _: CompactIndexed) -> Compacted:
        """Write the index anew without what was taken out, where it is a folder of ours."""
        async with contextlib.AsyncExitStack() as still:
            for partition in range(PARTITIONS):
                await still.enter_async_context(self._locks[partition])
            if not isinstance(self._scanned, Renewable):
                return Compacted()
            before, after = await self._scanned.renew()
        return Compacted(before=before, after=after)

    async def _points_of(self, question: EraseIndexed) -> AsyncIterator[list[PointId]]:
        """The points that are there, some at a time."""
        if question.memory_ids is not None:
            heads = [head_of(question.tenant, name) for name in question.memory_ids]
            records = await self._index.fetch(question.tenant, heads)
            yield [point for head, text in records.items() for point in _reached(head, text)]
            return
        while scanned := await self._scanned.scan(question.tenant, None, LOT):
            yield [point for point, _, _ in scanned]

    async def _prepare_for(self, question: MendIndexed, facts: Sequence[Delivery[Any]]) -> None:
        await self._prepare(facts)
        for embedding in (mend.embedding for mend in question.mends if mend.embedding is not None):
            if self._index.model is None:
                await self._index.prepare(embedding.model, dimension_of(embedding.model))

    async def _made_of(self, facts: Sequence[Delivery[Any]], question: MendIndexed) -> Changes:
        """What the facts make of memories of which nothing is known."""
        await self._places.learn(filter(None, map(session_of, facts)))
        fold = Fold({}, model=self._index.model, places=self._places, now=self._now())
        for fact in facts:
            fold.take(fact)
        for mend in question.mends:
            if mend.accessed_at is not None:
                name, count = mend.memory_id, mend.accesses
                fold.count(question.tenant, name, count, at=mend.accessed_at, sequence=mend.accessed_in)
        return fold.changes()

    def _given(self, tenant: str, mend: Mend) -> list[Point]:
        """The points of a memory that is given with its embedding."""
        if mend.memory is None or mend.embedding is None:
            return []
        chunks = mend.embedding.chunks
        entry = Entry(
            memory=mend.memory,
            command=mend.command,
            log_sequence=mend.sequence,
            born=mend.sequence,
            indexed_at=self._now(),
            spans=spans_of(chunks),
            reach=len(chunks),
        )
        return points_of(tenant, head_of(tenant, mend.memory_id), entry, chunks)


def _reached(head: PointId, record: str) -> list[PointId]:
    """All points that a memory ever had."""
    return [chunk_of(head, number) for number in range(max(Entry.model_validate_json(record).reach, 1))]


def _possible_points(tenant: str, memory_id: str) -> list[PointId]:
    head = head_of(tenant, memory_id)
    return [chunk_of(head, number) for number in range(MOST_CHUNKS)]


def _page(scanned: Sequence[Scanned], after: PointId | None) -> KeptPage:
    """The memories of a stretch of points, which come head first."""
    by_head: dict[PointId, list[Scanned]] = {}
    for point in scanned:
        by_head.setdefault(first_of(point[0]), []).append(point)
    kept: list[Kept] = []
    stray: list[str] = []
    for head, points in by_head.items():
        found = _kept(head, points)
        if found is None:
            stray += [uuid_of(point) for point, _, _ in points]
        elif found.version:
            kept.append(found)
    return KeptPage(kept=tuple(kept), stray=tuple(stray), after=None if after is None else uuid_of(after))


def _kept(head: PointId, points: Sequence[Scanned]) -> Kept | None:
    """The memory that these points are, or `None` where they are none that could be recalled."""
    point, tenant, record = points[0]
    if point != head or tenant is None or record is None:
        return None
    try:
        entry = Entry.model_validate_json(record)
    except ValidationError:
        return None
    if entry.memory is None:
        return Kept(tenant=tenant, id=uuid_of(head), version=0)
    wanted = max(len(entry.spans), 1)
    return Kept(
        tenant=tenant,
        id=entry.memory.id,
        version=entry.memory.version,
        size=len(entry.memory.content.encode()),
        digest=digest_of(entry.memory.content),
        sequence=entry.log_sequence,
        born=entry.born,
        whole=[chunk_number(each) for each, _, _ in points] == list(range(wanted))
        and head_of(tenant, entry.memory.id) == head,
    )
