"""Who was recalled: counted in memory, and told to the log now and then, so that recall itself writes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from engram_contracts.facts import Accessed
from engram_contracts.ids import new_id
from engram_contracts.topology import log_subject
from engram_runtime.bus import Bus, Entry
from engram_vectors.points import Entry as Known
from engram_vectors.points import PointId
from engram_vectors.ports import VectorIndex

log = logging.getLogger(__name__)

MOST_IN_A_FACT = 50
MOST_WAITING = 20_000
"""Memories whose counts wait to be told; beyond them, the rest of the interval goes uncounted."""


class Accesses:
    """Counts recalls of memories. What could not be told, for a crash or a broker that is away, is never doubled."""

    def __init__(self, index: VectorIndex, bus: Bus) -> None:
        self._index = index
        self._bus = bus
        self._counts: Counter[tuple[str, PointId]] = Counter()

    def note(self, tenant: str, heads: Sequence[PointId]) -> None:
        """These memories, named by their first points, were recalled once more."""
        if len(self._counts) < MOST_WAITING:
            self._counts.update([(tenant, head) for head in heads])

    async def keep_telling(self, every: float) -> None:
        """Tell the log every so many seconds, for ever."""
        while True:
            await asyncio.sleep(every)
            try:
                await self.tell()
            except Exception as error:
                log.warning("recalls not counted", extra={"error": repr(error)})

    async def tell(self) -> None:
        """Append what was counted since the last time."""
        counts, self._counts = self._counts, Counter()
        by_tenant: defaultdict[str, dict[PointId, int]] = defaultdict(dict)
        for (tenant, head), times in counts.items():
            by_tenant[tenant][head] = times
        for tenant, heads in by_tenant.items():
            remaining = iter(heads.items())
            while some := dict(islice(remaining, MOST_IN_A_FACT)):
                await self._append(tenant, some)

    async def _append(self, tenant: str, heads: dict[PointId, int]) -> None:
        records = await self._index.fetch(tenant, list(heads))
        memories = {head: Known.model_validate_json(record).memory for head, record in records.items()}
        times = {memory.id: heads[head] for head, memory in memories.items() if memory is not None}
        if not times:
            return
        now = datetime.now(UTC)
        fact = Accessed(command=new_id(), accepted_at=now, at=now, times=times)
        subject = log_subject(tenant, Accessed.event)
        (outcome,) = await self._bus.append([Entry(subject=subject, body=fact.encode(), id=fact.command)])
        if isinstance(outcome, Exception):
            raise outcome
