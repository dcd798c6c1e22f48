"""What the record keeps, told page by page, and memories put right in it while the log is followed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from engram_contracts.auditing import (
    Applied,
    AppliedPage,
    Kept,
    KeptPage,
    ListApplied,
    ListRecorded,
    Mended,
    MendRecorded,
    Positions,
    RecordPositions,
    digest_of,
)
from engram_contracts.errors import Unavailable
from engram_contracts.facts import Accessed
from engram_contracts.ids import partition_of
from engram_contracts.memory import Memory
from engram_graph.draft import OPS, Draft, wanted
from engram_graph.following import Follower
from engram_graph.partitions import Partitions
from engram_graph.records import Found, Wanted
from engram_graph.store_duckdb import Partition
from engram_graph.texts import open_record
from engram_graph.vocabulary import Vocabulary
from engram_runtime.refetching import facts_of
from engram_runtime.service import Delivery

FACTS = {kind.event: kind for kind in OPS}

MEMORIES = """
SELECT key, tenant, id, version, record FROM memories
WHERE key > $after AND ($tenant IS NULL OR tenant = $tenant) ORDER BY key LIMIT $limit
"""
JOBS = """
SELECT log_sequence, tenant, command, memory_id FROM jobs
WHERE log_sequence > $after AND ($tenant IS NULL OR tenant = $tenant) ORDER BY log_sequence LIMIT $limit
"""
TAKE_OUT = (
    "DELETE FROM feedback WHERE memory IN (SELECT key FROM memories WHERE tenant = $1 AND list_contains($2, id))",
    "DELETE FROM versions WHERE memory IN (SELECT key FROM memories WHERE tenant = $1 AND list_contains($2, id))",
    "DELETE FROM memories WHERE tenant = $1 AND list_contains($2::VARCHAR[], id)",
    "DELETE FROM jobs WHERE tenant = $1 AND list_contains($2::VARCHAR[], memory_id)",
)


class MendingFollower(Follower):
    """A follower that also puts memories right, never while a batch is applied."""

    @property
    def standing_still(self) -> asyncio.Lock:
        """Held while nothing may be applied."""
        return self._one_at_a_time

    async def mend(self, question: MendRecorded) -> Mended:
        """Take the memories out, then apply their facts again. A crash in between leaves them out."""
        async with self._one_at_a_time:
            position = (await self._partitions.partition(self._number)).position
            facts = await facts_of(self._bus, question, FACTS, position=position)
            names = [mend.memory_id for mend in question.mends]
            async with self._vocabularies.held([question.tenant]) as vocabularies:
                await self._take_out(question.tenant, names, vocabularies, position)
                await self._apply_again(facts, question, vocabularies, position)
            self._graphs.forget(question.tenant)
        return Mended(applied=len(facts))

    async def take_out(self, tenant: str, names: Sequence[str]) -> None:
        """Take memories out, with all that hangs on them; the log goes on where it was. A repeat changes nothing."""
        async with self._one_at_a_time:
            position = (await self._partitions.partition(self._number)).position
            async with self._vocabularies.held([tenant]) as vocabularies:
                await self._take_out(tenant, names, vocabularies, position)
            self._graphs.forget(tenant)

    async def _take_out(
        self, tenant: str, names: Sequence[str], vocabularies: Mapping[str, Vocabulary], position: int
    ) -> None:
        named = frozenset((tenant, name) for name in names)
        asked = Wanted(commands=frozenset(), memories=named, linked=named, triples=frozenset())
        found = await self._partitions.writing(self._number, lambda partition: partition.find(asked))
        draft = self._draft(found, vocabularies)
        for _, name in found.memories:
            draft.tenants[tenant].unlink(name)
        await self._write(draft, position)
        await self._partitions.writing(self._number, lambda partition: _remove(partition, tenant, names))

    async def _apply_again(
        self,
        facts: Sequence[Delivery[Any]],
        question: MendRecorded,
        vocabularies: Mapping[str, Vocabulary],
        position: int,
    ) -> None:
        if not facts:
            return
        asked = wanted(facts, vocabularies)
        found: Found = await self._partitions.writing(self._number, lambda partition: partition.find(asked))
        draft = self._draft(found, vocabularies)
        recalls = [(fact.message.times, fact.message.at) for fact in facts if isinstance(fact.message, Accessed)]
        for fact in facts:
            if not isinstance(fact.message, Accessed):
                draft.apply(fact)
        for recalled, at in (*_recalls(question), *recalls):  # their commands took effect on others too, and stay
            draft.tenants[question.tenant].access(recalled, at)
        await self._write(draft, position)

    async def _write(self, draft: Draft, position: int) -> None:
        """Write what a draft came to; the log goes on where it was."""
        batch = draft.batch()
        batch.sequence = position
        batch.appended = (await self._partitions.partition(self._number)).appended
        await self._partitions.writing(self._number, lambda partition: partition.write(batch))


class Auditor:
    """Answers what the record keeps."""

    def __init__(self, partitions: Partitions, followers: Mapping[int, MendingFollower]) -> None:
        self._partitions = partitions
        self._followers = followers

    async def positions(self, _: RecordPositions) -> Positions:
        """How far in the log each partition that is kept here is."""
        return Positions(positions={number: await each.position() for number, each in self._followers.items()})

    async def kept(self, question: ListRecorded) -> KeptPage:
        """A page of memories, the forgotten ones included."""
        rows = await self._page(question, MEMORIES)
        kept = tuple(self._kept(*row[1:]) for row in rows)
        return KeptPage(kept=kept, after=str(rows[-1][0]) if len(rows) == question.limit else None)

    async def applied(self, question: ListApplied) -> AppliedPage:
        """A page of the commands that took effect."""
        rows = await self._page(question, JOBS)
        applied = tuple(
            Applied(sequence=sequence, tenant=tenant, command=command, memory_id=memory_id)
            for sequence, tenant, command, memory_id in rows
        )
        return AppliedPage(applied=applied, after=str(rows[-1][0]) if len(rows) == question.limit else None)

    async def mend(self, question: MendRecorded) -> Mended:
        """Put memories right."""
        number = partition_of(question.tenant)
        if number not in self._followers:
            raise Unavailable(f"partition {number} is not kept by this instance", retry_after=1)
        return await self._followers[number].mend(question)

    def _kept(self, tenant: str, name: str, version: int, record: str | None) -> Kept:
        if record is None:
            return Kept(tenant=tenant, id=name, version=0)
        content = Memory.model_validate_json(open_record(self._partitions.vault, tenant, record)).content
        return Kept(tenant=tenant, id=name, version=version, size=len(content.encode()), digest=digest_of(content))

    async def _page(self, question: ListRecorded | ListApplied, query: str) -> list[Any]:
        if question.partition not in self._followers:
            raise Unavailable(f"partition {question.partition} is not kept by this instance", retry_after=1)
        if not self._partitions.exists(question.partition):
            return []
        values = {"after": int(question.after or 0), "tenant": question.tenant, "limit": question.limit}
        return await self._partitions.ask(question.partition, lambda cursor: cursor.execute(query, values).fetchall())


def _recalls(question: MendRecorded) -> list[tuple[Mapping[str, int], datetime]]:
    """How often memories were recalled, as the log tells up to the cut, and when last."""
    return [({mend.memory_id: mend.accesses}, mend.accessed_at) for mend in question.mends if mend.accessed_at]


def _remove(partition: Partition, tenant: str, names: Sequence[str]) -> None:
    with partition.reading() as cursor:
        for statement in TAKE_OUT:
            cursor.execute(statement, [tenant, list(names)])
        cursor.execute("COMMIT")
