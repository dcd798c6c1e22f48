"""What the ledger keeps of memories, told page by page, and memories charged anew while the log is followed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from engram_contracts.auditing import (
    Applied,
    AppliedPage,
    Kept,
    KeptPage,
    LedgerPositions,
    ListCharged,
    ListMetered,
    Mend,
    Mended,
    MendMetered,
    Positions,
)
from engram_contracts.erasing import Erased, EraseMetered
from engram_contracts.facts import Remembered
from engram_contracts.ids import PARTITIONS, derived_id
from engram_metering import intake
from engram_metering.handlers import Handlers
from engram_metering.intake import CountedRemembered
from engram_metering.ledger_duckdb import DuckLedger
from engram_metering.tally import FACT_METERS, uuid_of
from engram_metering.trail import Trail
from engram_runtime.bus import Bus
from engram_runtime.refetching import facts_of
from engram_runtime.service import Delivery, Outcome

KEPT = """
SELECT tenant, memory_id::VARCHAR, bytes FROM sizes
WHERE ($tenant IS NULL OR tenant = $tenant) AND (tenant, memory_id::VARCHAR) > ($after_tenant, $after_id)
ORDER BY tenant, memory_id::VARCHAR LIMIT $limit
"""
CHARGED = """
SELECT stream_sequence, tenant, event_id,
       coalesce(sum(amount) FILTER (meter = 'memories_created'), 0)::BIGINT,
       coalesce(sum(amount) FILTER (meter = 'memories_deleted'), 0)::BIGINT,
       coalesce(sum(amount) FILTER (meter = 'storage_bytes'), 0)::BIGINT
FROM ledger WHERE stream_sequence > $after AND ($tenant IS NULL OR tenant = $tenant)
AND meter IN ('memories_created', 'memories_deleted', 'storage_bytes')
GROUP BY stream_sequence, tenant, event_id ORDER BY stream_sequence LIMIT $limit
"""
NO_SIZES = "DELETE FROM sizes WHERE tenant = $1 AND memory_id IN (SELECT unnest($2::VARCHAR[])::UUID)"
NO_CHARGES = """
DELETE FROM ledger WHERE tenant = $1 AND list_contains($2::VARCHAR[], event_id) AND list_contains($3::VARCHAR[], meter)
"""
NOT_APPLIED = "DELETE FROM applied WHERE tenant = $1 AND event_id IN (SELECT unnest($2::VARCHAR[])::UUID)"


class Mender(Handlers):
    """The handlers, which also tell what the ledger keeps and put it right, never while facts are counted."""

    def __init__(self, ledger: DuckLedger, bus: Bus, trail: Trail | None = None) -> None:
        super().__init__(ledger, trail)
        self._duck = ledger
        self._bus = bus
        self._one_at_a_time = asyncio.Lock()

    async def facts(self, deliveries: Sequence[Delivery[Any]]) -> Sequence[Outcome]:
        """See `Handlers.facts`."""
        async with self._one_at_a_time:
            return await super().facts(deliveries)

    async def positions(self, _: LedgerPositions) -> Positions:
        """How far in the log the ledger is."""
        positions = dict.fromkeys(range(PARTITIONS), await self.log_position())
        return Positions(positions=positions, usage=await self.usage_position())

    async def kept(self, question: ListMetered) -> KeptPage:
        """A page of sizes; a memory that was deleted has the version 0."""
        tenant, _, identity = (question.after or "").partition("|")
        values = {"tenant": question.tenant, "after_tenant": tenant, "after_id": identity, "limit": question.limit}
        rows = await self._duck.read(KEPT, values)
        kept = tuple(Kept(tenant=t, id=name, version=size is not None, size=size or 0) for t, name, size in rows)
        return KeptPage(kept=kept, after=f"{rows[-1][0]}|{rows[-1][1]}" if len(rows) == question.limit else None)

    async def charged(self, question: ListCharged) -> AppliedPage:
        """A page of what was charged, in the order of the log."""
        values = {"tenant": question.tenant, "after": int(question.after or 0), "limit": question.limit}
        rows = await self._duck.read(CHARGED, values)
        applied = tuple(
            Applied(sequence=sequence, tenant=tenant, command=command, created=created, deleted=deleted, size=size)
            for sequence, tenant, command, created, deleted, size in rows
        )
        return AppliedPage(applied=applied, after=str(rows[-1][0]) if len(rows) == question.limit else None)

    async def erase(self, question: EraseMetered) -> Erased:
        """Put sums by day in the place of details, and take out the sizes of memories."""
        names = None if question.memory_ids is None else [uuid_of(name) for name in question.memory_ids]
        async with self._one_at_a_time:
            removed = await self._duck.erase(
                question.tenant, names, list(question.commands), day=datetime.now(UTC).date()
            )
        return Erased(removed={name: number for name, number in removed.items() if number})

    async def mend(self, question: MendMetered) -> Mended:
        """Take back what was charged for the memories, and charge their facts anew.

        One whose facts the log has lost is charged as if it had been remembered as it is now, when it was.
        """
        async with self._one_at_a_time:
            position = await self.log_position()
            facts = await facts_of(self._bus, question, intake.FACTS, position=position, name=uuid_of)
            facts += [told for mend in question.mends if (told := _told_by_record(question.tenant, mend))]
            await self._duck.post_anew(facts, _removals(question, facts))
        return Mended(applied=len(facts))


def _told_by_record(tenant: str, mend: Mend) -> Delivery[CountedRemembered] | None:
    """What the record tells of a memory, as the fact that is not there any more."""
    if mend.memory is None or mend.embedding is None:
        return None
    at = mend.memory.created_at
    fact = CountedRemembered(
        command=mend.command, accepted_at=at, at=at,
        memory={"id": mend.memory.id, "content": mend.memory.content}, embedding={"tokens": mend.embedding.tokens},
    )  # fmt: skip
    return Delivery(
        tenant=tenant, event=Remembered.event, message=fact, sequence=mend.sequence, at=at, correlation=None
    )


def _removals(question: MendMetered, facts: Sequence[Delivery[Any]]) -> list[tuple[str, list[object]]]:
    commands = {command for mend in question.mends for command in mend.commands}
    commands |= {fact.message.command for fact in facts}
    counted = [derived_id(fact.event, fact.message.command) for fact in facts]
    return [
        (NO_SIZES, [question.tenant, [mend.memory_id for mend in question.mends]]),
        (NO_CHARGES, [question.tenant, sorted(commands), sorted(FACT_METERS)]),
        (NOT_APPLIED, [question.tenant, counted]),
    ]
