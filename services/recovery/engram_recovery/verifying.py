"""Comparing the log with every store that follows it, and putting right what differs, while all of them work."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from engram_contracts.auditing import (
    AppliedPage,
    DropStray,
    EmbedDocument,
    KeptPage,
    ListApplied,
    ListCharged,
    ListIndexed,
    ListMetered,
    ListRecorded,
    Mend,
    MendIndexed,
    Mending,
    MendMetered,
    MendRecorded,
)
from engram_contracts.errors import EngramError, NotFound
from engram_contracts.ids import PARTITIONS, partition_of
from engram_contracts.questions import GetMemory, Question
from engram_contracts.topology import DEAD, LOG, LogSubject
from engram_recovery.balance import STAGE, Balance, Difference, Store
from engram_recovery.expecting import MEMORY_EVENTS, Fold, memory_of, said_by
from engram_runtime.bus import Bus, Extent, Stored

T = TypeVar("T")

ANSWER_SECONDS = 60.0
PAGE = 500
HEADS = 2_000
TOGETHER = 50
"""Memories that are put right by one question; the store serves nobody else of their partition meanwhile."""

Bar = Callable[[int, str], contextlib.AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar of so many steps, and a name."""

QUESTIONS: dict[Store, type[Mending]] = {"index": MendIndexed, "record": MendRecorded, "ledger": MendMetered}
EVENTS: dict[Store, tuple[str, ...]] = {
    "index": (*MEMORY_EVENTS, "judged"),
    "record": (*MEMORY_EVENTS, "judged", "linked"),
    "ledger": MEMORY_EVENTS,
}
NO_MEMORY = "00000000-0000-0000-0000-000000000000"
HOPELESS = ("unapplied",)
"""What only building the record anew puts right."""


@dataclass(slots=True)
class Report:
    """What was found: live memories and differences by tenant, and what became of them.

    `cut` is the log sequence up to which everything was compared, `listed` names at most so many differences as were
    asked for, `tallies` counts all of them. `mended` counts what was put right, `failed` says what could not be.
    """

    cut: int
    log: Extent
    counts: dict[str, dict[str, int]]
    tallies: list[tuple[str, str, str, int]]
    listed: list[Difference]
    strays: list[str]
    mended: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every store is as it should be."""
        return not self.tallies and not self.strays


class Verifier:
    """Compares, for one tenant or for all. `passed` tells by partition how far all followers are."""

    def __init__(
        self, bus: Bus, passed: Callable[[], Any], bar: Bar, *, tenant: str | None = None, most: int = 1_000
    ) -> None:
        self._bus = bus
        self._passed = passed
        self._bar = bar
        self._tenant = tenant
        self._most = most

    async def verify(self, *, repair: bool = False, renew: bool = False) -> Report:
        """What differs. With `repair` it is put right, and then everything is compared again.

        With `renew` every memory in the index is written anew from the log, or from the record where the log does not
        hold it any more. May be repeated, and interrupted at any moment: each memory is put right on its own.
        """
        with _balance() as balance:
            report, cuts = await self._compare(balance)
            if not renew and (not repair or report.equal):
                return report
            mended, failed = await self._repair(balance, cuts, renew=renew)
        with _balance() as balance:
            report, _ = await self._compare(balance)
        report.mended, report.failed = mended, failed
        return report

    async def _compare(self, balance: Balance) -> tuple[Report, dict[int, int]]:
        archive = self._bus.archive(LOG)
        cuts: dict[int, int] = await self._passed()
        extent = await archive.extent()
        cut = max(cuts.values(), default=0)
        await self._read_log(balance, extent, cuts)
        await self._read_stores(balance)
        await self._read_dead(balance)
        await self._read_moved(balance, cuts)
        balance.settle()
        report = Report(
            cut=cut,
            log=extent,
            counts=balance.counts(),
            tallies=balance.tallies(),
            listed=list(islice(balance.differences(), self._most)),
            strays=balance.strays() if self._tenant is None else [],
        )
        return report, cuts

    async def _read_log(self, balance: Balance, extent: Extent, cuts: Mapping[int, int]) -> None:
        """Fold the log up to the cut of each partition."""
        fold = Fold(balance, whole=extent.first <= 1 and extent.messages >= extent.last)
        last = max(cuts.values(), default=0)
        with self._bar(max(last - extent.first + 1, 0), "log") as advance:
            reached = extent.first - 1
            async for stored in self._facts(reached, last):
                if stored.sequence <= cuts[LogSubject.parse(stored.subject).partition]:
                    fold.take(stored)
                advance(stored.sequence - reached)
                reached = stored.sequence

    async def _facts(self, after: int, last: int) -> AsyncIterator[Stored]:
        archive, pattern = self._bus.archive(LOG), self._pattern
        while after < last:
            page = await archive.read(after + 1, pattern=pattern, limit=PAGE)
            for stored in page:
                if stored.sequence > last:
                    return
                yield stored
            if not page:
                return
            after = page[-1].sequence

    @property
    def _pattern(self) -> str:
        if self._tenant is None:
            return "engram.log.>"
        return f"engram.log.{partition_of(self._tenant)}.{self._tenant}.*"

    async def _read_stores(self, balance: Balance) -> None:
        partitions = range(PARTITIONS) if self._tenant is None else (partition_of(self._tenant),)
        with self._bar(3 + 2 * len(partitions), "stores") as advance:
            for partition in partitions:
                async for page in self._kept(ListRecorded(partition=partition, tenant=self._tenant)):
                    balance.add_kept("record", page.kept)
                advance(1)
                async for jobs in self._applied(ListApplied(partition=partition, tenant=self._tenant)):
                    balance.add_jobs(jobs.applied)
                advance(1)
            async for page in self._kept(ListIndexed(tenant=self._tenant)):
                balance.add_kept("index", page.kept)
                balance.add_strays(page.stray)
            advance(1)
            async for page in self._kept(ListMetered(tenant=self._tenant)):
                balance.add_kept("ledger", page.kept)
            advance(1)
            async for charges in self._applied(ListCharged(tenant=self._tenant)):
                balance.add_charges(charges.applied)
            advance(1)

    async def _kept(self, question: ListRecorded | ListIndexed | ListMetered) -> AsyncIterator[KeptPage]:
        async for page in self._pages(question):
            yield page

    async def _applied(self, question: ListApplied | ListCharged) -> AsyncIterator[AppliedPage]:
        async for page in self._pages(question):
            yield page

    async def _pages(self, question: Question[Any]) -> AsyncIterator[Any]:
        while True:
            page = await self._bus.ask(question, within=ANSWER_SECONDS)
            yield page
            if page.after is None:
                return
            question = question.model_copy(update={"after": page.after})

    async def _read_dead(self, balance: Balance) -> None:
        """Facts that a store gave up."""
        archive = self._bus.archive(DEAD)
        extent = await archive.extent()
        for stage in STAGE.values():
            for start in range(max(extent.first, 1), extent.last + 1, HEADS):
                end = min(start + HEADS - 1, extent.last)
                heads = await archive.heads(start, end, pattern=f"engram.dead.{stage}.*")
                balance.add_dead((stage, int(head.headers.get("Engram-Dead-Sequence", 0)), head.sequence)
                                 for head in heads if head.headers.get("Engram-Dead-Stream") == LOG.name)  # fmt: skip

    async def _read_moved(self, balance: Balance, cuts: Mapping[int, int]) -> None:
        """What changed beyond the cut, and may have been seen in some stores already."""
        last = (await self._bus.archive(LOG).extent()).last
        async for stored in self._facts(min(cuts.values(), default=0), last):
            subject = LogSubject.parse(stored.subject)
            said = said_by(stored)
            if said is None or stored.sequence <= cuts[subject.partition]:
                continue
            for name in (memory_of(said), said.get("command")):
                if name is not None:
                    balance.add_moved(subject.tenant, name)

    async def _repair(self, balance: Balance, cuts: Mapping[int, int], *, renew: bool) -> tuple[int, list[str]]:
        mended, failed = 0, []
        if strays := balance.strays():
            await self._bus.ask(DropStray(points=tuple(strays)), within=ANSWER_SECONDS)
        wrong = balance.tallies()
        total = sum(number for *_, number in wrong) + (sum(1 for _ in balance.expected_ids()) if renew else 0)
        with self._bar(total, "repair") as advance:
            for lot in _lots(_in_turn(balance, renew=renew)):
                failures = await self._mend(balance, lot, cuts)
                failed += failures
                mended += len(lot) - len(failures)
                advance(len(lot))
        return mended + len(strays), failed

    async def _mend(self, balance: Balance, lot: list[Difference], cuts: Mapping[int, int]) -> list[str]:
        """Put a lot of one store and tenant right together; where that fails, one by one. What failed, and why."""
        store, tenant = lot[0].store, lot[0].tenant
        mends, failures = [], []
        for difference in lot:
            try:
                mends.append(await self._mend_for(balance, difference))
            except EngramError as error:
                failures.append(f"{store} {tenant} {difference.id}: {error.message}")
        question = QUESTIONS[store](tenant=tenant, mends=tuple(mends), cut=cuts[partition_of(tenant)])
        try:
            if mends:
                await self._bus.ask(question, within=ANSWER_SECONDS)
        except EngramError as error:
            if len(lot) == 1:
                return [f"{store} {tenant} {lot[0].id}: {error.message}"]
            return [failure for difference in lot for failure in await self._mend(balance, [difference], cuts)]
        return failures

    async def _mend_for(self, balance: Balance, difference: Difference) -> Mend:
        """What is to be sent for a difference. Raises `NotFound` where nothing says how it should be."""
        store, tenant, name = difference.store, difference.tenant, difference.id
        if difference.letter is not None:
            raise NotFound(f"given up in dead letter {difference.letter}; replay or drop that first")
        if difference.kind in HOPELESS:
            raise NotFound(f"command {name} has no effect; `engram rebuild graph` applies the whole log again")
        if difference.kind == "overpaid":
            return Mend(memory_id=NO_MEMORY, commands=(name,))
        sequences = balance.sequences(tenant, name, EVENTS[store])
        if difference.source != "record":
            return _from_log(balance, difference, sequences)
        if store == "record":
            raise NotFound("its facts are not on the log any more")
        return await self._from_record(balance, difference)

    async def _from_record(self, balance: Balance, difference: Difference) -> Mend:
        """A memory whose facts are gone: its text is in the record, and is embedded again.

        The ledger charges it in the name of the first command that took effect on it, the index keeps the last one.
        """
        tenant, name = difference.tenant, difference.id
        memory = await self._bus.ask(GetMemory(tenant=tenant, memory_id=name), within=ANSWER_SECONDS)
        asked = EmbedDocument(
            text=memory.content, speaker=memory.speaker, occurred_at=memory.occurred_at, tenant=tenant
        )
        embedding = await self._bus.ask(asked, within=ANSWER_SECONDS)
        jobs = balance.jobs(tenant, name)
        command, sequence = jobs[0 if difference.store == "ledger" else -1]
        return Mend(
            memory_id=difference.uid if difference.store == "ledger" else name,
            memory=memory, embedding=embedding, command=command, sequence=sequence,
            commands=tuple(job for job, _ in jobs),
        )  # fmt: skip


def _from_log(balance: Balance, difference: Difference, sequences: tuple[int, ...]) -> Mend:
    """A memory as its facts make it, with how often it was recalled, which the ledger does not keep."""
    if difference.store == "ledger":
        return Mend(memory_id=difference.uid, sequences=sequences)
    times, at, sequence = balance.accesses(difference.tenant, difference.id)
    return Mend(memory_id=difference.id, sequences=sequences, accesses=times, accessed_at=at, accessed_in=sequence)


def _in_turn(balance: Balance, *, renew: bool) -> Iterator[Difference]:
    yield from balance.differences()
    if renew:
        yield from balance.expected_ids()


def _lots(differences: Iterable[Difference]) -> Iterator[list[Difference]]:
    """Differences of one store and tenant, a few at a time."""
    for _, group in groupby(differences, key=lambda each: (each.store, each.tenant)):
        while lot := list(islice(group, TOGETHER)):
            yield lot


@contextlib.contextmanager
def _balance() -> Iterator[Balance]:
    with tempfile.TemporaryDirectory(prefix="engram-verify-") as folder, Balance.open(Path(folder)) as balance:
        yield balance
