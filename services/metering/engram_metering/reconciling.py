"""Whether the ledger says what the streams say: everything is counted anew beside it, and the totals are compared.

The second count is made by the same rules in a file that is thrown away, from all the streams still hold, up to where
the ledger stood at the beginning. Nothing has to stop for it, and nothing is changed by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import Gauge

from engram_contracts.errors import EngramError
from engram_contracts.messages import Message
from engram_contracts.questions import ReconcileUsage, Reconciliation, UsageDifference
from engram_contracts.topology import LOG, USAGE, Stream
from engram_metering import intake
from engram_metering.intake import CountedForgotten, CountedRevised
from engram_metering.ledger_duckdb import DuckLedger, open_ledger
from engram_metering.tally import FACT_METERS, Key, uuid_of
from engram_runtime.bus import Bus, Stored
from engram_runtime.decoding import decode
from engram_runtime.mirror import ended
from engram_runtime.refetching import delivered
from engram_runtime.service import Delivery

log = logging.getLogger(__name__)
DIFFERENCES = Gauge("engram_usage_differences", "Totals that the last reconciliation found to differ from the streams.")

READ = 500
LISTED = 100
TOTALS = """
SELECT tenant, strftime(day, '%Y-%m-%d') AS day, meter, sum(amount)::BIGINT, count(*)::BIGINT FROM ledger
WHERE ((list_contains($facts::VARCHAR[], meter) AND stream_sequence BETWEEN $from_log AND $log)
    OR (NOT list_contains($facts::VARCHAR[], meter) AND stream_sequence BETWEEN $from_usage AND $usage))
AND NOT list_contains($untold::VARCHAR[], tenant || '|' || event_id)
AND NOT list_contains($erased::VARCHAR[], tenant) GROUP BY ALL
"""
ERASED = "SELECT DISTINCT tenant FROM ledger WHERE event_id = 'erased'"
Totals = dict[tuple[str, str, str], int]


@dataclass(slots=True)
class Reach:
    """What of the streams is compared, how far reading has come, and which changes cannot be told.

    Tenants of which something was erased are left out: the streams do not tell everything of them any more.
    """

    from_log: int
    log: int
    from_usage: int
    usage: int
    read: int = 0
    untold: set[str] = field(default_factory=set)
    erased: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        """How much there is to read."""
        return max(self.log - self.from_log + 1, 0) + max(self.usage - self.from_usage + 1, 0)


class Reconciler:
    """Compares on demand, and every so many hours."""

    def __init__(self, bus: Bus, ledger: DuckLedger, folder: Path) -> None:
        self._bus = bus
        self._ledger = ledger
        self._folder = folder
        self._state = Reconciliation(state="idle")
        self._reach: Reach | None = None
        self._running: asyncio.Task[None] | None = None

    async def reconcile(self, question: ReconcileUsage) -> Reconciliation:
        """How it stands. `begin` while one is under way changes nothing."""
        if question.begin and self._running is None:
            self._state = Reconciliation(state="running", started_at=datetime.now(UTC))
            self._running = asyncio.create_task(self._run())
        if self._reach is not None and self._state.state == "running":
            return self._state.model_copy(update={"read": self._reach.read, "last": self._reach.last})
        return self._state

    @contextlib.asynccontextmanager
    async def repeated(self, hours: float) -> AsyncIterator[None]:
        """Compare every so many hours (0: never) while the context is open."""
        repeating = asyncio.create_task(self._repeat(hours))
        try:
            yield
        finally:
            await ended(repeating, *([self._running] if self._running else []))

    async def _repeat(self, hours: float) -> None:
        while hours:
            await asyncio.sleep(hours * 3600)
            await self.reconcile(ReconcileUsage(begin=True))

    async def _run(self) -> None:
        try:
            self._state = await self._compared()
            DIFFERENCES.set(self._state.different)
            if self._state.different:
                log.error("usage differs from the streams", extra={"different": self._state.different})
        except Exception as error:
            reason = error.message if isinstance(error, EngramError) else f"{type(error).__name__}: {error}"
            log.error("reconciliation failed", exc_info=error)
            self._state = self._state.model_copy(
                update={"state": "failed", "reason": reason, "ended_at": datetime.now(UTC)}
            )
        finally:
            self._running = None

    async def _compared(self) -> Reconciliation:
        reach = self._reach = await self._reached()
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="reconcile-") as folder:
            async with open_ledger(Path(folder) / "ledger.duckdb", memory_mb=64) as anew:
                await self._count_facts(anew, reach)
                await self._count_usage(anew, reach)
                streams, charges = await _totals(anew, reach)
        ledger, _ = await _totals(self._ledger, reach)
        differences = _differences(ledger, streams)
        return Reconciliation(
            state="done", started_at=self._state.started_at, ended_at=datetime.now(UTC), read=reach.read,
            last=reach.last, from_log=reach.from_log, log=reach.log, from_usage=reach.from_usage, usage=reach.usage,
            charges=charges, untold=len(reach.untold), erased=len(reach.erased), different=len(differences),
            differences=tuple(differences[:LISTED]),
        )  # fmt: skip

    async def _reached(self) -> Reach:
        log_at, usage_at = await self._ledger.position(LOG.name), await self._ledger.position(USAGE.name)
        facts, usage = [await self._bus.archive(stream).extent() for stream in (LOG, USAGE)]
        erased = sorted(tenant for (tenant,) in await self._ledger.read(ERASED, {}))
        return Reach(facts.first, log_at, usage.first, usage_at, erased=erased)

    async def _count_facts(self, anew: DuckLedger, reach: Reach) -> None:
        async for page in self._pages(LOG, "engram.log.>", reach.from_log, reach.log, reach):
            facts = list(_facts(page, intake.FACTS))
            if not facts:
                continue
            await anew.post_facts(facts)
            if reach.from_log > 1:
                reach.untold |= await _untold(anew, facts)

    async def _count_usage(self, anew: DuckLedger, reach: Reach) -> None:
        async for page in self._pages(USAGE, "engram.usage.>", reach.from_usage, reach.usage, reach):
            if batches := list(_batches(page)):
                await anew.post_usage(batches)

    async def _pages(
        self, stream: Stream, pattern: str, start: int, last: int, reach: Reach
    ) -> AsyncIterator[list[Stored]]:
        archive = self._bus.archive(stream)
        while start <= last:
            page = await archive.read(start, pattern=pattern, limit=READ)
            if kept := [stored for stored in page if stored.sequence <= last]:
                yield kept
            after = page[-1].sequence + 1 if page else last + 1
            reach.read += min(after, last + 1) - start
            start = after


def _facts(page: Sequence[Stored], kinds: Mapping[str, type[Message]]) -> Iterable[Delivery[Any]]:
    """Facts as metering reads them; what cannot be read was buried when it was followed."""
    for stored in page:
        with contextlib.suppress(EngramError):
            if (fact := delivered(stored, kinds)) is not None:
                yield fact


def _batches(page: Sequence[Stored]) -> Iterable[Delivery[Any]]:
    for stored in page:
        with contextlib.suppress(EngramError):
            message = decode(intake.CountedUsage, stored.body)
            yield Delivery(
                tenant="", event="usage", message=message, sequence=stored.sequence, at=stored.at,
                correlation=None,
            )  # fmt: skip


async def _untold(anew: DuckLedger, facts: Sequence[Delivery[Any]]) -> set[str]:
    """Changes of memories that the log does not know from their beginning."""
    changes = [fact for fact in facts if isinstance(fact.message, CountedRevised | CountedForgotten)]
    known = await anew.knows([_key(fact) for fact in changes])
    return {f"{fact.tenant}|{fact.message.command}" for fact in changes if _key(fact) not in known}


def _key(fact: Delivery[Any]) -> Key:
    return fact.tenant, uuid_of(fact.message.memory_id)


async def _totals(ledger: DuckLedger, reach: Reach) -> tuple[Totals, int]:
    values = {
        "facts": sorted(FACT_METERS), "from_log": reach.from_log, "log": reach.log,
        "from_usage": reach.from_usage, "usage": reach.usage, "untold": sorted(reach.untold), "erased": reach.erased,
    }  # fmt: skip
    rows = await ledger.read(TOTALS, values)
    return {(tenant, day, meter): total for tenant, day, meter, total, _ in rows}, sum(row[-1] for row in rows)


def _differences(ledger: Totals, streams: Totals) -> list[UsageDifference]:
    return [
        UsageDifference(tenant=key[0], day=key[1], meter=key[2], ledger=ledger.get(key, 0), streams=streams.get(key, 0))
        for key in sorted(ledger.keys() | streams.keys())
        if ledger.get(key, 0) != streams.get(key, 0)
    ]
