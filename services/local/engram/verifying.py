"""What operators ask of all stores together: whether they hold what the log says, and that they do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from engram.operating import bounded, settings_for
from engram_contracts.auditing import (
    IndexPositions,
    LedgerPositions,
    RebuildRecord,
    RebuildStatus,
    RecordPositions,
)
from engram_contracts.errors import Unavailable
from engram_contracts.ids import PARTITIONS
from engram_contracts.questions import ReconcileUsage
from engram_contracts.topology import LOG, USAGE, Stream
from engram_recovery.relaying import fill, is_kept, keep_aside
from engram_recovery.verifying import Bar, Report, Verifier
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.passing import begin_anew, passed, seal
from engram_runtime.vault import open_vault

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
LOOK_SECONDS = 0.1
CATCH_UP_SECONDS = 10.0
"""So long is waited for followers that are behind; what they lack then is not compared."""


async def verify(
    data_dir: Path, bar: Bar, *, tenant: str | None, repair: bool = False, renew: bool = False, most: int = 1_000
) -> dict[str, Any]:
    """What differs, and what became of it. Raises `Rejected` where text is encrypted and its key was not given."""
    encryption = settings_for(data_dir).encryption
    async with connected(data_dir) as bus, open_vault(bus, encryption) as bus.vault:
        verifier = Verifier(bus, partial(passed, bus, within=CATCH_UP_SECONDS), bar, tenant=tenant, most=most)
        return _told(await verifier.verify(repair=repair, renew=renew))


async def rebuild_log(data_dir: Path, bar: Bar) -> list[dict[str, Any]]:
    """Have each log that ends before what the stores have applied of it go on behind that; what became of each.

    What was appended since it was lost is kept. Meanwhile nothing can be appended, and is tried again.
    """
    settings = settings_for(data_dir)
    told = []
    async with connected(data_dir) as bus:
        for stream, applied in (await _applied(bus)).items():
            file = data_dir / f"rebuild-{stream.name.lower()}.jsonl"
            interrupted = is_kept(file)
            last = 0 if interrupted else (await bus.archive(stream).extent()).last
            if last < applied:
                if not interrupted:
                    await seal(bus, stream)
                kept = await keep_aside(bus, stream, file)
                await begin_anew(bus, stream, first=applied + 1, replicas=settings.nats.replicas)
                with bar(kept, stream.name) as advance:
                    await fill(bus, file, advance)
            told.append({"stream": stream.name, "applied": applied, "ended": last, "rebuilt": last < applied})
    return told


async def _applied(bus: NatsBus) -> dict[Stream, int]:
    """How far the stores are, at most, in each log they follow."""
    asked = (IndexPositions(), RecordPositions(), LedgerPositions())
    index, record, ledger = [await bus.ask(question, within=ANSWER_SECONDS) for question in asked]
    every = (*index.positions.values(), *record.positions.values(), *ledger.positions.values())
    return {LOG: max(every, default=0), USAGE: ledger.usage}


async def rebuild_graph(data_dir: Path, bar: Bar, partition: int | None) -> list[dict[str, Any]]:
    """Build partitions of the record anew, one after the other; what became of each."""
    built = []
    async with connected(data_dir) as bus:
        for number in range(PARTITIONS) if partition is None else (partition,):
            status = await bus.ask(RebuildRecord(partition=number, begin=True), within=ANSWER_SECONDS)
            built.append({"partition": number, **(await _followed(bus, number, status, bar)).model_dump(mode="json")})
    return built


async def _followed(bus: NatsBus, number: int, status: RebuildStatus, bar: Bar) -> RebuildStatus:
    with bar(status.last, f"partition {number}") as advance:
        shown = 0
        while status.state == "running":
            advance(status.position - shown)
            shown = status.position
            await asyncio.sleep(LOOK_SECONDS)
            status = await bus.ask(RebuildRecord(partition=number), within=ANSWER_SECONDS)
    if status.state == "idle":
        return status.model_copy(update={"state": "failed", "reason": "the service was started again; try once more"})
    return status


async def reconciled(data_dir: Path) -> dict[str, Any]:
    """Have the ledger compared with its streams, and wait for the outcome."""
    async with connected(data_dir) as bus:
        told = await bus.ask(ReconcileUsage(begin=True), within=ANSWER_SECONDS)
        while told.state == "running":
            await asyncio.sleep(LOOK_SECONDS)
            told = await bus.ask(ReconcileUsage(), within=ANSWER_SECONDS)
    if told.state == "idle":
        raise Unavailable("the service was started again meanwhile; try once more")
    return told.model_dump(mode="json", exclude_none=True)


@contextlib.asynccontextmanager
async def connected(data_dir: Path) -> AsyncIterator[NatsBus]:
    """A connection to the broker of the Engram on this data directory, which has to be there soon."""
    settings = settings_for(data_dir)
    async with contextlib.AsyncExitStack() as stack:
        async with bounded(settings, CONNECT_SECONDS):
            bus = await stack.enter_async_context(open_bus(settings.nats, name="engram-verify"))
        yield bus


def _told(report: Report) -> dict[str, Any]:
    differences = [
        {name: value for name, value in each._asdict().items() if value is not None and name != "uid"}
        for each in report.listed
    ]
    return {
        "equal": report.equal,
        "cut": report.cut,
        "log": asdict(report.log),
        "tenants": report.counts,
        "tallies": [
            {"store": store, "tenant": tenant, "kind": kind, "count": count}
            for store, tenant, kind, count in report.tallies
        ],
        "differences": differences,
        "strays": report.strays,
        "mended": report.mended,
        "failed": report.failed,
    }
