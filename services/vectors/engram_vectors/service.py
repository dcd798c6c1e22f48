"""The composition root of the vectors service: what is built here is built nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from engram_contracts.auditing import DropStray, IndexPositions, ListIndexed, MendIndexed
from engram_contracts.control import TenantRecord
from engram_contracts.erasing import CompactIndexed, EraseIndexed
from engram_contracts.errors import EngramError
from engram_contracts.questions import CountIndexed, FindIndexed, Recall
from engram_contracts.topology import SETTINGS, TENANTS, VECTORS_LOG
from engram_runtime.bus import Bus
from engram_runtime.mirror import mirrored
from engram_runtime.service import Following, Service
from engram_runtime.vault import vault_of
from engram_vectors.accesses import Accesses
from engram_vectors.index_sealed import SealedIndex
from engram_vectors.mending import FACTS, Mender, ScannedIndex
from engram_vectors.ports import PositionStore, VectorIndex
from engram_vectors.positions import Positions
from engram_vectors.positions_bucket import BucketPositions
from engram_vectors.positions_file import FilePositions
from engram_vectors.recalling import Recaller
from engram_vectors.recent import Recent
from engram_vectors.settings import Settings
from engram_vectors.speakers import Speakers
from engram_vectors.turns import MANY, Turns

ANSWERS_REMEMBERED = 500

T = TypeVar("T")


@contextlib.asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The vectors service; leaving it flushes the index and keeps the positions."""
    how = settings.vectors
    async with (
        _index(settings, bus) as index,
        _positions(index, settings, bus) as positions,
        _accesses(index, bus, how.access_seconds) as accesses,
        mirrored(bus, TENANTS, TenantRecord) as tenants,
    ):
        speakers = Speakers(index, alone=settings.adapter == "edge")
        recaller = Recaller(
            index, bus, weights=how.weights, candidates=how.candidates, speakers=speakers, tenant=tenants.get
        )
        turns = Turns() if settings.adapter == "edge" else Turns(writers=len(how.partitions), few=MANY)
        recent = Recent(ANSWERS_REMEMBERED if settings.adapter == "edge" and not how.graph_weight else 0)
        handlers = Mender(index, positions, recaller, bus, turns=turns, recent=recent, accesses=accesses)
        yield Service(
            name="vectors",
            answers={
                Recall: handlers.recall,
                FindIndexed: handlers.find,
                CountIndexed: handlers.count,
                ListIndexed: handlers.kept,
                MendIndexed: handlers.mend,
                DropStray: handlers.drop_stray,
                EraseIndexed: handlers.erase,
                CompactIndexed: handlers.compact,
                IndexPositions: handlers.positions,
            },
            follows=tuple(_following(partition, handlers, positions) for partition in how.partitions),
            checks={"index": handlers.check},
        )


@contextlib.asynccontextmanager
async def _accesses(index: VectorIndex, bus: Bus, every: float) -> AsyncIterator[Accesses | None]:
    """What counts recalls and tells the log of them, for the last time on leaving; nothing where it never is to."""
    if not every:
        yield None
        return
    accesses = Accesses(index, bus)
    telling = asyncio.create_task(accesses.keep_telling(every))
    try:
        yield accesses
    finally:
        telling.cancel()
        with contextlib.suppress(EngramError):
            await accesses.tell()


@contextlib.asynccontextmanager
async def _index(settings: Settings, bus: Bus) -> AsyncIterator[ScannedIndex]:
    async with _adapter(settings) as index:
        yield SealedIndex(index, vault_of(bus))


def _adapter(settings: Settings) -> AbstractAsyncContextManager[ScannedIndex]:
    if settings.adapter == "edge":
        from engram_vectors.index_edge import open_edge  # noqa: PLC0415  # 36 MB that the server adapter does without

        return open_edge(settings.data_dir.expanduser() / "vectors")
    from engram_vectors.index_server import open_server  # noqa: PLC0415  # its import takes 2 s and 99 MB

    return open_server(settings.qdrant)


def _store(settings: Settings, bus: Bus) -> PositionStore:
    if settings.adapter == "edge":
        return FilePositions(settings.data_dir.expanduser() / "vectors" / "positions.json")
    return BucketPositions(bus.bucket(SETTINGS), settings.vectors.partitions)


@contextlib.asynccontextmanager
async def _positions(index: VectorIndex, settings: Settings, bus: Bus) -> AsyncIterator[Positions]:
    how = settings.vectors
    positions = Positions(index, _store(settings, bus), every=how.flush_seconds, points=how.flush_points)
    await positions.load()
    saving = asyncio.create_task(positions.keep_saving())
    try:
        yield positions
    finally:
        saving.cancel()
        await positions.save()


def _following(partition: int, handlers: Mender, positions: Positions) -> Following:
    return Following(
        consumer=VECTORS_LOG[partition],
        handler=handlers.apply,
        position=_told(positions.of, partition),
        messages=dict(FACTS),
        appended=_told(positions.appended, partition),
        rewind=lambda sequence: handlers.rewind(partition, sequence),
    )


def _told(tell: Callable[[int], T], partition: int) -> Callable[[], Awaitable[T]]:
    async def told() -> T:
        return tell(partition)

    return told
