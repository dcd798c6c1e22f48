"""Running an erasure: out of queues, out of stores, out of the log, until a look through all of it finds nothing.

Every step may be repeated, so whatever is cut short is done again by the next run. Stores are asked once they have
applied everything that is on the log of the tenant; facts are taken out of the log after that.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice

from engram_contracts.erasing import (
    MOST_NAMED,
    CompactIndexed,
    CompactRecorded,
    Erase,
    EraseIndexed,
    EraseMetered,
    EraseRecorded,
    Erasure,
    ErasureRecord,
    ListOfUser,
)
from engram_contracts.errors import Internal, Unavailable
from engram_contracts.ids import partition_of
from engram_contracts.topology import (
    CANCELS,
    CONSUMERS,
    DEAD,
    EXTRACT_LOG,
    GRAPH_LOG,
    IDEMPOTENCY,
    JOBS,
    LANES,
    LOG,
    METERING_LOG,
    REPLAYS,
    SCHEDULE,
    VECTORS_LOG,
    WORK,
    Bucket,
    Consumer,
    Stream,
    behind,
    dead_pattern,
    lane_of,
)
from engram_recovery.choosing import Chosen, as_object
from engram_recovery.erasures import Erasures, queued
from engram_recovery.signing import Signer
from engram_runtime.bus import Bus, Stored

log = logging.getLogger(__name__)

ANSWER_SECONDS = 120.0
LOOK_SECONDS = 0.2
PAGE = 500
AT_ONCE = 32
BUCKETS = (IDEMPOTENCY, JOBS, CANCELS, REPLAYS)
REMAINS = (
    "sums of usage by day and meter, because bills rest on them",
    "requests by id in the usage stream, which have no text and name no user, for 30 days",
    "the audit, which names ids and no text",
    "bytes of deleted points in an index on a server, or of more than 200,000 points, until their place is used again",
    "bytes of kept answers in the broker's files, until it packs them, a day at most",
    "this record, for 30 days",
    "backups that were made before",
)

DOORS_CLOSE = timedelta(seconds=4)
STOPPING = "this process stops; another goes on with the erasure"

Revoke = Callable[[str], int]
"""Takes back what other systems connect with for a tenant; how many credentials that were."""


class Eraser:
    """Runs erasures. Two runs of the same one do no harm."""

    def __init__(
        self, bus: Bus, erasures: Erasures, signer: Signer, *, revoke: Revoke, now: Callable[[], datetime]
    ) -> None:
        self._bus = bus
        self._erasures = erasures
        self._signer = signer
        self._revoke = revoke
        self._now = now
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let go of every erasure at its next step; other runs go on with them."""
        self._stopping.set()

    async def erase(self, command: Erase) -> None:
        """Run an erasure to its end. One that has ended is left as it is.

        Raises `Internal` when it was interrupted; the next run goes on where this one was.
        """
        await self._erasures.create(queued(command, self._now()))
        record = await self._erasures.find(command.tenant, command.id)
        if record is None or record.state == "done":
            return
        try:
            await _Run(self._bus, self._erasures, record, self._stopping, now=self._now, revoke=self._revoke).work(
                self._signer
            )
        except Unavailable as error:
            raise Internal(f"interrupted: {error.message}", retry_after=error.retry_after) from error


class _Run:
    """One run of one erasure."""

    def __init__(
        self,
        bus: Bus,
        erasures: Erasures,
        record: ErasureRecord,
        stopping: asyncio.Event,
        *,
        now: Callable[[], datetime],
        revoke: Revoke,
    ) -> None:
        self._bus = bus
        self._erasures = erasures
        self._record = record
        self._stopping = stopping
        self._now = now
        self._revoke = revoke
        self._chosen = Chosen(record.tenant, record.user_id, record.accepted_at)
        self._pass: Counter[str] = Counter()

    async def work(self, signer: Signer) -> None:
        """Pass after pass until one finds nothing; then the files are written anew, and the report is signed."""
        log.info("erasing", extra=self._about)
        while await self._passed():
            pass
        await self._step("files", self._compact)
        ended = self._now()
        done = Erasure(
            id=self._record.id, tenant=self._record.tenant, user_id=self._record.user_id, actor=self._record.actor,
            accepted_at=self._record.accepted_at, ended_at=ended, removed=self._record.removed, left=dict(self._pass),
            remains=REMAINS,
        )  # fmt: skip
        await self._keep(state="done", step="", waiting=None, ended_at=ended, report=signer.sign(done))
        log.info("erased", extra={**self._about, "removed": self._record.removed})

    async def _passed(self) -> bool:
        """Look through everything, and take out what is found; whether there was anything."""
        self._pass = Counter()
        await self._step("doors", self._let_doors_close)
        await self._step("names", self._learn)
        await self._step("queues", self._empty_queues)
        await self._step("work in hand", self._settle)
        last = await self._step("log", self._read_log)
        await self._step("followers", lambda: self._followed(last))
        await self._step("stores", self._empty_stores)
        await self._step("log", self._empty_log)
        await self._step("buckets", self._empty_buckets)
        await self._step("credentials", self._close_doors)
        return self._pass.total() > 0

    async def _step(self, name: str, work: Callable[[], Awaitable[int]]) -> int:
        if self._stopping.is_set():
            raise Unavailable(STOPPING)
        await self._keep(state="running", step=name, waiting=None)
        found = await work()
        await self._keep()
        return found

    async def _let_doors_close(self) -> int:
        """A tenant that is to go is refused at every door within a second; what they took by then is safe by now."""
        while self._record.user_id is None and self._now() - self._record.accepted_at < DOORS_CLOSE:
            await self._wait("doors are closing")
        return 0

    # --- what it is about

    async def _learn(self) -> int:
        """The memories of the user, from wherever they are named."""
        if self._record.user_id is None:
            return 0
        asked = ListOfUser(tenant=self._record.tenant, user_id=self._record.user_id, until=self._record.accepted_at)
        while True:
            page = await self._bus.ask(asked, within=ANSWER_SECONDS)
            self._chosen.memory_ids.update(page.names)
            if page.after is None:
                break
            asked = asked.model_copy(update={"after": page.after})
        for stream, pattern in self._queues:
            async for stored in self._messages(stream, pattern):
                self._chosen.learn(stored.body)
        return await self._read_log()

    async def _read_log(self) -> int:
        """The sequence of the tenant's last fact, after all of them were looked at."""
        last = 0
        async for stored in self._messages(LOG, self._facts):
            self._chosen.learn(stored.body)
            last = stored.sequence
        return last

    @property
    def _facts(self) -> str:
        return f"engram.log.{partition_of(self._record.tenant)}.{self._record.tenant}.*"

    @property
    def _queues(self) -> Sequence[tuple[Stream, str]]:
        tenant = self._record.tenant
        return ((WORK, f"engram.work.*.*.{tenant}"), (SCHEDULE, "engram.schedule.>"), (DEAD, dead_pattern(tenant)))

    async def _messages(self, stream: Stream, pattern: str) -> AsyncIterator[Stored]:
        """Those of the tenant; what waits for its time names the tenant by where it is going."""
        after = 0
        while page := await self._bus.archive(stream).read(after + 1, pattern=pattern, limit=PAGE):
            for stored in page:
                if stream is not SCHEDULE or _goes_to(stored).endswith(f".{self._record.tenant}"):
                    yield stored
            after = page[-1].sequence

    # --- taking out

    async def _empty_queues(self) -> int:
        for stream, pattern in self._queues:
            await self._take_out(stream, pattern)
        return 0

    async def _empty_log(self) -> int:
        await self._take_out(LOG, self._facts)
        return 0

    async def _take_out(self, stream: Stream, pattern: str) -> None:
        """Write over, and take out, the messages that are to go."""
        archive = self._bus.archive(stream)
        lot: list[int] = []
        async for stored in self._messages(stream, pattern):
            if self._chosen.takes(stored.body):
                lot.append(stored.sequence)
        place = stream.name.removeprefix("ENGRAM_").lower()
        for start in range(0, len(lot), AT_ONCE):
            gone = await asyncio.gather(
                *(archive.delete(sequence, erase=True) for sequence in lot[start : start + AT_ONCE])
            )
            self._count({f"{place}.messages": sum(gone)})

    async def _settle(self) -> int:
        """Wait until no worker has anything in hand that was there before."""
        mark = (await self._bus.archive(WORK).extent()).last
        lanes = {lane_of(self._record.tenant, urgency) for urgency in LANES}
        for consumer in CONSUMERS:
            if consumer.stream is WORK and consumer.name.rpartition("-")[2] in lanes:
                while True:
                    backlog = await self._bus.backlog(consumer)
                    if not backlog.in_hand or backlog.floor >= mark:
                        break
                    await self._wait(f"{consumer.name} has work in hand")
        return 0

    async def _followed(self, last: int) -> int:
        """Wait until every store has applied the tenant's last fact."""
        partition = partition_of(self._record.tenant)
        for consumer in (VECTORS_LOG[partition], GRAPH_LOG[partition], METERING_LOG):
            await self._until_past(consumer, last)
        try:
            await self._until_past(EXTRACT_LOG, last)
        except Unavailable:
            return 0  # nobody extracts here
        return 0

    async def _until_past(self, consumer: Consumer, last: int) -> None:
        while (backlog := await self._bus.backlog(consumer)).depth and backlog.floor < last:
            await self._wait(f"{consumer.name} has not applied all of the log")

    async def _wait(self, why: str) -> None:
        if self._stopping.is_set():
            raise Unavailable(STOPPING)
        if self._record.waiting != why:
            await self._keep(waiting=why)
        await asyncio.sleep(LOOK_SECONDS)

    async def _empty_stores(self) -> int:
        tenant = self._record.tenant
        if self._record.user_id is None:
            for question in (EraseIndexed(tenant=tenant), EraseRecorded(tenant=tenant), EraseMetered(tenant=tenant)):
                await self._ask(question)
            return 0
        async for stored in self._messages(LOG, self._facts):
            self._chosen.takes(stored.body)
        for names in _lots(self._chosen.memory_ids):
            await self._ask(EraseIndexed(tenant=tenant, memory_ids=names))
            await self._ask(EraseRecorded(tenant=tenant, memory_ids=names))
            await self._ask(EraseMetered(tenant=tenant, memory_ids=names))
        for commands in _lots(self._chosen.commands):
            await self._ask(EraseMetered(tenant=tenant, memory_ids=(), commands=commands))
        return 0

    async def _ask(self, question: EraseIndexed | EraseRecorded | EraseMetered) -> None:
        place = {"vectors": "index", "graph": "record", "metering": "ledger"}[question.service]
        removed = (await self._bus.ask(question, within=ANSWER_SECONDS)).removed
        self._count({f"{place}.{name}": number for name, number in removed.items()})

    async def _empty_buckets(self) -> int:
        for bucket in BUCKETS:
            name = bucket.name.removeprefix("engram_")
            self._count({f"{name}.entries": await self._empty(bucket)})
        return 0

    async def _empty(self, bucket: Bucket) -> int:
        tenant = self._record.tenant
        if self._record.user_id is None:
            return await self._bus.archive(behind(bucket)).purge(f"$KV.{bucket.name}.{tenant}.>")
        entries, gone = self._bus.bucket(bucket), 0
        async for entry in entries.watch():
            if entry is None:
                break
            key, value = entry
            if value is not None and key.startswith(f"{tenant}.") and self._is_about(key, value):
                await entries.delete(key)
                gone += 1
        return gone

    def _is_about(self, key: str, value: bytes) -> bool:
        """Whether an entry is of a command that goes, or is an answer that names a memory which goes."""
        if key.partition(".")[2] in self._chosen.commands:
            return True
        return self._chosen.names(_readable(value))

    async def _close_doors(self) -> int:
        if self._record.user_id is None:
            self._count({"credentials": await asyncio.to_thread(self._revoke, self._record.tenant)})
        return 0

    async def _compact(self) -> int:
        tenant = self._record.tenant
        await self._bus.ask(CompactRecorded(tenant=tenant), within=ANSWER_SECONDS)
        await self._bus.ask(CompactIndexed(tenant=tenant), within=ANSWER_SECONDS)
        return 0

    # --- the record

    def _count(self, removed: dict[str, int]) -> None:
        self._pass.update({name: number for name, number in removed.items() if number})
        total = Counter(self._record.removed)
        total.update({name: number for name, number in removed.items() if number})
        self._record = self._record.model_copy(update={"removed": dict(total)})

    async def _keep(self, **changes: object) -> None:
        self._record = self._record.model_copy(update={**changes, "updated_at": self._now()})
        await self._erasures.keep(self._record)

    @property
    def _about(self) -> dict[str, object]:
        return {"erasure": self._record.id, "tenant": self._record.tenant, "actor": self._record.actor}


def _goes_to(stored: Stored) -> str:
    """Where a message that waits for its time is going."""
    return stored.headers.get("Nats-Schedule-Target") or stored.subject


def _readable(value: bytes) -> bytes:
    """What an entry says; an answer that is kept has its body in base64."""
    record = as_object(value) or {}
    answer = record.get("answer")
    body = answer.get("body") if isinstance(answer, dict) else None
    return base64.b64decode(body) if isinstance(body, str) else value


def _lots(names: set[str]) -> Sequence[tuple[str, ...]]:
    remaining = iter(sorted(names))
    lots = []
    while lot := tuple(islice(remaining, MOST_NAMED)):
        lots.append(lot)
    return lots
