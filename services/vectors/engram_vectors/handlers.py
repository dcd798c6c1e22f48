"""What the vectors service does: follows the log into the index, recalls, finds and counts."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from engram_contracts.errors import EngramError, Rejected
from engram_contracts.events import Progress
from engram_contracts.facts import Accessed, Fact
from engram_contracts.ids import partition_of
from engram_contracts.questions import (
    Check,
    Count,
    CountIndexed,
    FindIndexed,
    Indexed,
    IndexedMemory,
    Recall,
)
from engram_runtime.bus import Bus
from engram_runtime.service import Delivery, Outcome
from engram_vectors.accesses import Accesses
from engram_vectors.changes import Fold, dimension_of, memories_of, session_of
from engram_vectors.filters import session_among
from engram_vectors.places import Places
from engram_vectors.points import Changes, Entry, PointId, head_of
from engram_vectors.ports import Position, VectorIndex
from engram_vectors.positions import Positions
from engram_vectors.recalling import Recaller
from engram_vectors.recent import Recent
from engram_vectors.told import Told
from engram_vectors.turns import Turns

Batch = Sequence[Delivery[Fact]]


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Handlers:
    """One method per contract; `now` is the clock."""

    def __init__(
        self,
        index: VectorIndex,
        positions: Positions,
        recaller: Recaller,
        bus: Bus,
        *,
        turns: Turns,
        recent: Recent | None = None,
        accesses: Accesses | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._index = index
        self._positions = positions
        self._recaller = recaller
        self._bus = bus
        self._now = now
        self._turns = turns
        self._recent = recent or Recent(0)
        self._accesses = accesses
        self._places = Places(self._in_session)

    async def recall(self, question: Recall) -> Told:
        """The memories that best answer a query; whatever cannot help is named in `degraded`."""
        now = self._now()
        known = self._recent.of(question, now=now)
        if known is not None:
            self._recalled(question, known)
            return known
        version = self._recent.version(question.tenant)
        with self._turns.recall():
            answer = await self._recaller.recall(question, now=now)
        self._recent.keep(question, answer, version=version)
        self._recalled(question, answer)
        return answer

    def _recalled(self, question: Recall, answer: Told) -> None:
        if self._accesses is not None:
            self._accesses.note(question.tenant, answer.heads)

    async def find(self, question: FindIndexed) -> Indexed:
        """What the index holds under a memory's id."""
        head = head_of(question.tenant, question.memory_id)
        records = await self._index.fetch(question.tenant, [head])
        entry = Entry.model_validate_json(records[head]) if head in records else None
        if entry is None or entry.memory is None:
            return Indexed()
        found = IndexedMemory(
            memory=entry.memory, indexed_at=entry.indexed_at, command=entry.command, earlier=entry.earlier or ()
        )
        return Indexed(found=found)

    async def count(self, question: CountIndexed) -> Count:
        """How many of a tenant's memories can be recalled."""
        return Count(memories=await self._index.count(question.tenant))

    async def check(self) -> Check:
        """Whether the index answers and its positions are kept."""
        try:
            await self._index.count("none")
        except EngramError as error:
            return Check(ok=False, detail=error.message)
        return Check(ok=self._positions.trouble is None, detail=self._positions.trouble or self._index.model)

    async def apply(self, batch: Batch) -> list[Outcome]:
        """Bring the index up to date with facts of one partition, in order; a repeat changes nothing.

        A fact that can never be applied is an outcome; trouble with the index is raised, and nothing counts.
        """
        if not batch:
            return []
        await self._prepare(batch)
        outcomes, points = await self._write(batch)
        reached = Position(batch[-1].sequence, batch[-1].at)
        await self._positions.advance(partition_of(batch[0].tenant), reached, points=points)
        await self._announce([each for each, outcome in zip(batch, outcomes, strict=True) if outcome is None])
        return outcomes

    async def _prepare(self, batch: Batch) -> None:
        """The first embedding whose model names its dimension decides the model of a new index."""
        if self._index.model is not None:
            return
        for embedding in filter(None, (getattr(delivery.message, "embedding", None) for delivery in batch)):
            with contextlib.suppress(Rejected):
                return await self._index.prepare(embedding.model, dimension_of(embedding.model))

    async def _write(self, batch: Batch) -> tuple[list[Outcome], int]:
        outcomes: list[Outcome] = []
        points = 0
        while len(outcomes) < len(batch):
            async with self._turns.write() as most:
                some, touched = await self._write_slice(batch[len(outcomes) : len(outcomes) + most])
            outcomes += some
            points += touched
        return outcomes, points

    async def _write_slice(self, batch: Batch) -> tuple[list[Outcome], int]:
        entries: dict[PointId, Entry] = {}
        for tenant, heads in _heads(batch).items():
            records = await self._index.fetch(tenant, list(heads))
            entries.update((head, Entry.model_validate_json(record)) for head, record in records.items())
        await self._places.learn(filter(None, map(session_of, batch)))
        fold = Fold(entries, model=self._index.model, places=self._places, now=self._now())
        outcomes = [fold.take(delivery) for delivery in batch]
        changes = fold.changes()
        if self._index.model is not None:
            await self._write_changes(changes)
        return outcomes, changes.size

    async def _write_changes(self, changes: Changes) -> None:
        try:
            await self._index.write(changes)
        except BaseException:
            self._places.forget()
            raise
        finally:
            self._recent.change(changes)
        self._recaller.speakers.heard(changes)
        self._places.trim()

    async def _in_session(self, tenant: str, session: str) -> int:
        return await self._index.tally(session_among(tenant, session))

    async def _announce(self, done: Batch) -> None:
        by_tenant: defaultdict[str, list[Fact]] = defaultdict(list)
        for delivery in done:
            if not isinstance(delivery.message, Accessed):
                by_tenant[delivery.tenant].append(delivery.message)
        for tenant, facts in by_tenant.items():
            await self._bus.emit(tenant, _progress(facts, self._now()))


def _heads(batch: Batch) -> dict[str, set[PointId]]:
    heads: defaultdict[str, set[PointId]] = defaultdict(set)
    for delivery in batch:
        heads[delivery.tenant].update(head_of(delivery.tenant, each) for each in memories_of(delivery.message))
    return heads


def _progress(facts: Sequence[Fact], at: datetime) -> Progress:
    commands = tuple(fact.command for fact in facts)
    return Progress(
        stage="indexed",
        commands=commands,
        memory_ids=tuple(each for fact in facts for each in memories_of(fact)),
        at=at,
    )
