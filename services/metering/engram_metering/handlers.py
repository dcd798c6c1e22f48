"""What metering does with each message, as plain typed methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

from engram_contracts.errors import EngramError
from engram_contracts.questions import Check, GetStanding, GetUsage, Heads, ListHeads, Standing, Usage
from engram_contracts.topology import LOG, USAGE
from engram_contracts.trail import Act, Head, Reached
from engram_metering.acts import of_facts, of_requests
from engram_metering.days import day_range
from engram_metering.ports import Ledger
from engram_metering.trail import Trail
from engram_runtime.service import Delivery, Outcome


class Handlers:
    """Follows facts and usage, as `intake` reads them, into the ledger, and answers from it."""

    def __init__(self, ledger: Ledger, trail: Trail | None = None) -> None:
        self._ledger = ledger
        self._trail = trail

    async def facts(self, deliveries: Sequence[Delivery[Any]]) -> Sequence[Outcome]:
        """Count a stretch of the LOG, once it is in the audit trail. A repeat changes nothing."""
        await self._ledger.post_facts(deliveries, await self._note(LOG.name, of_facts(deliveries)))
        return [None] * len(deliveries)

    async def usage(self, deliveries: Sequence[Delivery[Any]]) -> Sequence[Outcome]:
        """Count a stretch of the USAGE stream, once it is in the audit trail. A repeat changes nothing."""
        await self._ledger.post_usage(deliveries, await self._note(USAGE.name, of_requests(deliveries)))
        return [None] * len(deliveries)

    async def _note(self, stream: str, acts: Iterable[tuple[Reached, Act]]) -> Sequence[Head]:
        return await self._trail.write(stream, acts) if self._trail else ()

    async def get_standing(self, question: GetStanding) -> Standing:
        """What a tenant has and used today (UTC). An unknown tenant has nothing."""
        today = datetime.now(UTC).date()
        tomorrow = datetime.combine(today + timedelta(days=1), time.min, UTC)
        used = await self._ledger.standing(question.tenant, today)
        return Standing(tenant=question.tenant, used=used, resets_at=tomorrow)

    async def list_heads(self, question: ListHeads) -> Heads:
        """Where audit chains have come to."""
        return Heads(heads=tuple(await self._ledger.heads(question.tenant)))

    async def log_position(self) -> int:
        """The LOG sequence up to which the ledger has counted."""
        return await self._ledger.position(LOG.name)

    async def usage_position(self) -> int:
        """The USAGE sequence up to which the ledger has counted."""
        return await self._ledger.position(USAGE.name)

    async def log_appended(self) -> datetime | None:
        """When the fact at the LOG's position was appended, where that is known."""
        return await self._ledger.appended(LOG.name)

    async def usage_appended(self) -> datetime | None:
        """When what is at the USAGE stream's position was appended, where that is known."""
        return await self._ledger.appended(USAGE.name)

    async def rewind_log(self, sequence: int) -> None:
        """Go on behind a sequence of the LOG, which has lost what was counted beyond it."""
        await self._ledger.rewind(LOG.name, sequence)

    async def rewind_usage(self, sequence: int) -> None:
        """Go on behind a sequence of the USAGE stream, which has lost what was counted beyond it."""
        await self._ledger.rewind(USAGE.name, sequence)

    async def get_usage(self, question: GetUsage) -> Usage:
        """A tenant's totals. `storage_bytes` is what the range added or took; without a range, what is stored.

        Raises `Rejected`, naming the field, for a bad range. An unknown tenant or meter has no totals.
        """
        first, last = day_range(question.since, question.until)
        days = await self._ledger.meters(question.tenant, first, last, meter=question.meter, by=question.by)
        totals: Counter[str] = Counter()
        for day in days:
            totals[day.meter] += day.total
        return Usage(tenant=question.tenant, totals=dict(totals), days=tuple(days))

    async def check(self) -> Check:
        """Whether the ledger answers."""
        try:
            await self._ledger.ping()
        except EngramError as error:
            return Check(ok=False, detail=error.message)
        return Check(ok=True)
