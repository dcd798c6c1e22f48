"""The log's effects on the record: a batch is looked up, worked out, written in one transaction, and announced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from engram_contracts.events import Progress
from engram_contracts.facts import Fact
from engram_contracts.ids import partition_of
from engram_graph.draft import Draft, wanted
from engram_graph.graphs import Graphs
from engram_graph.partitions import Partitions
from engram_graph.records import Found
from engram_graph.vocabularies import Vocabularies
from engram_graph.vocabulary import Vocabulary
from engram_runtime.bus import Bus
from engram_runtime.service import Delivery, Outcome

log = logging.getLogger(__name__)

SLICE = 16
"""Facts worked out in a row before questions get their turn: about a millisecond."""


class Follower:
    """Follows one partition of the log. Those that share `turn` work facts out one after the other.

    All at once would have a question wait for a slice of each of them at every step of its way.
    """

    def __init__(
        self,
        partition: int,
        partitions: Partitions,
        *,
        vocabularies: Vocabularies,
        graphs: Graphs,
        bus: Bus,
        clock: Callable[[], datetime],
        turn: asyncio.Lock | None = None,
    ) -> None:
        self._number = partition
        self._partitions = partitions
        self._vocabularies = vocabularies
        self._graphs = graphs
        self._bus = bus
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._turn = turn or asyncio.Lock()

    async def position(self) -> int:
        """The log sequence whose effects are stored. Opens the file: whoever holds its lock is the only writer.

        A file that does not exist is made for the first fact. Should two processes begin like this, the second finds
        the file locked, and the first sees the gap in its deliveries and begins anew.
        """
        if not self._partitions.exists(self._number):
            return 0
        return (await self._partitions.partition(self._number)).position

    async def appended(self) -> datetime | None:
        """When the fact at the position was appended to the log, where that is known."""
        if not self._partitions.exists(self._number):
            return None
        return (await self._partitions.partition(self._number)).appended

    async def rewind(self, sequence: int) -> None:
        """Go on behind this sequence, because the log has lost what was applied beyond it; that stays stored."""
        async with self._one_at_a_time:
            await self._partitions.writing(self._number, lambda partition: partition.rewind(sequence))
        await self._graphs.forget_all(lambda tenant: partition_of(tenant) == self._number)

    async def apply(self, deliveries: Sequence[Delivery[Fact]]) -> list[Outcome]:
        """Store what the facts say; those from before the position, or of a known command, change nothing."""
        async with self._one_at_a_time:
            position = (await self._partitions.partition(self._number)).position
            fresh = [delivery for delivery in deliveries if delivery.sequence > position]
            outcomes = await self._apply(fresh) if fresh else {}
        return [outcomes.get(delivery.sequence) for delivery in deliveries]

    async def _apply(self, fresh: Sequence[Delivery[Fact]]) -> dict[int, Outcome]:
        async with self._vocabularies.held(delivery.tenant for delivery in fresh) as vocabularies:
            draft, applied, outcomes = await self._work_out(fresh, vocabularies)
            await self._partitions.writing(self._number, lambda partition: partition.write(draft.batch()))
            self._tell_graphs(draft, fresh[-1].sequence)
        await self._announce(applied)
        return outcomes

    async def _work_out(
        self, fresh: Sequence[Delivery[Fact]], vocabularies: Mapping[str, Vocabulary]
    ) -> tuple[Draft, list[Delivery[Fact]], dict[int, Outcome]]:
        asked = wanted(fresh, vocabularies)
        found = await self._partitions.writing(self._number, lambda partition: partition.find(asked))
        draft = self._draft(found, vocabularies)
        applied, outcomes = [], {}
        async with self._turn:
            for number, delivery in enumerate(fresh):
                effective, outcomes[delivery.sequence] = draft.apply(delivery)
                if effective:
                    applied.append(delivery)
                if number % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
        return draft, applied, outcomes

    def _draft(self, found: Found, vocabularies: Mapping[str, Vocabulary]) -> Draft:
        return Draft(found, vocabularies, linked_at=self._clock(), unread=self._partitions.vault.seals)

    def _tell_graphs(self, draft: Draft, sequence: int) -> None:
        for name, tenant in draft.tenants.items():
            if self._graphs.watches(name):
                try:
                    self._graphs.apply(name, sequence, tenant.change())
                except Exception:  # the batch is stored; a graph in memory can be built anew from it
                    log.exception("graph in memory dropped", extra={"tenant": name, "sequence": sequence})
                    self._graphs.forget(name)

    async def _announce(self, applied: Sequence[Delivery[Fact]]) -> None:
        by_tenant: dict[str, list[Fact]] = {}
        for delivery in applied:
            by_tenant.setdefault(delivery.tenant, []).append(delivery.message)
        at = self._clock()
        for tenant, facts in by_tenant.items():
            commands = tuple(fact.command for fact in facts)
            memories = tuple(_memory_of(fact) for fact in facts)
            await self._bus.emit(tenant, Progress(stage="linked", commands=commands, memory_ids=memories, at=at))


def _memory_of(fact: Fact) -> str:
    """The memory a fact is about, or nothing."""
    memory = getattr(fact, "memory", None)
    return memory.id if memory is not None else getattr(fact, "memory_id", "")
