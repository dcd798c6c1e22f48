"""The metering service: what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from engram_contracts.auditing import LedgerPositions, ListCharged, ListMetered, MendMetered
from engram_contracts.erasing import EraseMetered
from engram_contracts.questions import ExportUsage, GetStanding, GetUsage, ListHeads, ReadUsageExport, ReconcileUsage
from engram_contracts.topology import METERING_LOG, METERING_USAGE
from engram_metering import intake
from engram_metering.exports import Exports
from engram_metering.ledger_duckdb import open_ledger
from engram_metering.mending import Mender
from engram_metering.reconciling import Reconciler
from engram_metering.settings import Settings
from engram_metering.trail import Trail
from engram_runtime.bus import Bus
from engram_runtime.service import Following, Service


@asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The service over the ledger in `<data_dir>/metering/ledger.duckdb`; one process at a time may hold it."""
    file = settings.data_dir.expanduser() / "metering" / "ledger.duckdb"
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(file, memory_mb=settings.metering.memory_mb))
        audited = settings.audit.enabled
        handlers = Mender(ledger, bus, Trail(bus, ledger.heads) if audited else None)
        log = Following(
            consumer=METERING_LOG,
            handler=handlers.facts,
            position=handlers.log_position,
            messages={**intake.FACTS, **intake.NOTED} if audited else intake.FACTS,
            appended=handlers.log_appended,
            rewind=handlers.rewind_log,
        )
        usage = Following(
            consumer=METERING_USAGE,
            handler=handlers.usage,
            position=handlers.usage_position,
            messages=intake.USAGE,
            appended=handlers.usage_appended,
            rewind=handlers.rewind_usage,
        )
        exports = Exports(ledger, file.parent / "exports")
        reconciler = Reconciler(bus, ledger, file.parent)
        await stack.enter_async_context(reconciler.repeated(settings.metering.reconcile_hours))
        yield Service(
            name="metering",
            answers={
                GetUsage: handlers.get_usage,
                ListMetered: handlers.kept,
                ListCharged: handlers.charged,
                MendMetered: handlers.mend,
                EraseMetered: handlers.erase,
                LedgerPositions: handlers.positions,
                ExportUsage: exports.export,
                ReadUsageExport: exports.read,
                ReconcileUsage: reconciler.reconcile,
                GetStanding: handlers.get_standing,
                ListHeads: handlers.list_heads,
            },
            follows=(log, usage),
            checks={"ledger": handlers.check},
        )
