"""Memories that were accepted and are not to be seen yet: they lie on the work stream, or on the log before a follower.

Asked for only where neither record nor index knows an id, so what waits is read through then, and nothing is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from engram_contracts.commands import Remember
from engram_contracts.errors import Unavailable
from engram_contracts.facts import Remembered
from engram_contracts.ids import partition_of
from engram_contracts.memory import MemoryFields
from engram_contracts.topology import GRAPH_LOG, LANES, LOG, WORK, Urgency, WorkSubject, log_subject
from engram_runtime.bus import Bus, Stored
from engram_runtime.delivery import FIRST_ID

LOOK_SECONDS = 0.02
PAGE = 500
AT_ONCE = 2
"""So many look at the same time: what one tenant has waiting may be thousands of messages."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A memory on its way. `urgency` is that of the work queue it lies in, `sequence` its place; `None` on the log."""

    memory: MemoryFields
    urgency: Urgency | None = None
    sequence: int | None = None


class Pending:
    """Finds memories on their way. Whoever looks for longer than `within` seconds is told to come back."""

    def __init__(self, bus: Bus, *, within: float) -> None:
        self._bus = bus
        self._within = within
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def find(self, tenant: str, memory_id: str) -> Accepted | None:
        """A memory on its way, or `None`. Raises `Unavailable` when that cannot be told in time."""
        try:
            async with asyncio.timeout(self._within), self._turns:
                return await self._on_work(tenant, memory_id) or await self._on_log(tenant, memory_id)
        except TimeoutError as error:
            raise Unavailable(
                "too much waits to say whether this memory is on its way; try again", retry_after=1.0
            ) from error

    async def on_log(self, tenant: str, memory_id: str) -> None:
        """Return once a memory has left the work stream. Raises `Unavailable` when that takes too long."""
        try:
            async with asyncio.timeout(self._within):
                while True:
                    if await self._on_work(tenant, memory_id) is None:
                        return
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError as error:
            raise Unavailable("this memory was accepted, but is not there yet; try again", retry_after=1.0) from error

    async def _on_work(self, tenant: str, memory_id: str) -> Accepted | None:
        pattern = f"engram.work.*.{Remember.op}.{tenant}"
        archive = self._bus.archive(WORK)
        if not await archive.subjects(pattern):
            return None
        start = 1
        while page := await archive.read(start, pattern=pattern, limit=PAGE):
            if (found := _among(page, memory_id)) is not None:
                lane = WorkSubject.parse(found.subject).lane
                urgency: Urgency = "bulk" if lane in LANES["bulk"] else "interactive"
                return Accepted(Remember.model_validate_json(found.body).memory, urgency, found.sequence)
            start = page[-1].sequence + 1
        return None

    async def _on_log(self, tenant: str, memory_id: str) -> Accepted | None:
        before = await self._bus.backlog(GRAPH_LOG[partition_of(tenant)])
        if not before.depth:
            return None
        archive = self._bus.archive(LOG)
        last = (await archive.extent()).last
        if last <= before.floor:
            return None
        heads = await archive.heads(before.floor + 1, last, pattern=log_subject(tenant, Remembered.event))
        head = _among(heads, memory_id)
        found = await self._bus.read(LOG, head.sequence) if head is not None else None
        return None if found is None else Accepted(Remembered.model_validate_json(found.body).memory)


def _among(stored: Iterable[Stored], memory_id: str) -> Stored | None:
    """The message of the command that made a memory, which bears the memory's id."""
    return next((each for each in stored if memory_id in (each.id, each.headers.get(FIRST_ID))), None)
