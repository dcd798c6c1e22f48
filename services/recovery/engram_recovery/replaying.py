"""Running a replay: dead letters are sent again in order, at a rate, through interruptions.

For each lot: send, write down count and cursor, then take the dead letters out. Whatever is cut short is done again
by the next run, with the same message ids, so nothing is sent twice and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import uuid4

from engram_contracts.errors import EngramError, Forbidden, Internal, Rejected, Unavailable
from engram_contracts.recovery import SYSTEM, DeadFilter, Replay, ReplayRecord, ReplayState
from engram_contracts.topology import LOG, USAGE, WORK, Stream
from engram_recovery import marks, progress
from engram_recovery.graveyard import Graveyard, Lot
from engram_recovery.letters import Buried, is_ours, sent_again
from engram_recovery.metrics import REPLAYS_ENDED
from engram_recovery.payloads import edited
from engram_recovery.progress import Sent
from engram_recovery.replays import LOOK_SECONDS, Held, Replays
from engram_runtime.bus import Appended, Bus, Entry

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
SWALLOWED = "the broker took it for a repeat of another message"
STREAMS: dict[str, Stream] = {"work": WORK, "log": LOG, "usage": USAGE}


class Replayer:
    """Runs replays. A replay has one run at a time, whichever process that is in."""

    def __init__(self, bus: Bus, graveyard: Graveyard, replays: Replays, *, now: Callable[[], datetime]) -> None:
        self._bus = bus
        self._graveyard = graveyard
        self._replays = replays
        self._now = now
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let go of every replay at its next message; other runs go on with them."""
        self._stopping.set()

    async def replay(self, tenant: str, command: Replay) -> None:
        """Run a replay to its end. One that has ended is left as it is.

        Raises what forbids it for good (the record then says `failed`), `Internal` when it was interrupted, and
        `Unavailable` when this process stops: in both cases the next run goes on where this one was.
        """
        try:
            held = await self._claim(tenant, command)
            if held is not None:
                await self._run(held, command)
        except Unavailable as error:
            if self._stopping.is_set():
                raise
            raise Internal(f"interrupted: {error.message}", retry_after=error.retry_after) from error

    async def _run(self, held: Held, command: Replay) -> None:
        try:
            check_reach(held.record.tenant, command.selection.filter)
            await self._work(held, command)
        except EngramError as error:
            if error.retry == "never":
                await self._end(held, "failed", error.message)
            raise

    async def _claim(self, tenant: str, command: Replay) -> Held | None:
        record, revision = await self._found(tenant, command)
        if record.ended:
            return None
        if progress.is_taken(record, self._now()):
            raise Internal(f"another run works on replay {command.id}", retry_after=progress.ALIVE_SECONDS)
        held = Held(self._replays, record, revision, self._now)
        extent = await self._graveyard.extent()
        await held.write(progress.claimed(record, runner=uuid4().hex, extent=extent, now=self._now()))
        log.info("replaying", extra={**_about(held.record), "cursor": held.record.cursor})
        return held

    async def _found(self, tenant: str, command: Replay) -> tuple[ReplayRecord, int]:
        await self._replays.create(new_record(command, tenant, self._now()))
        found = await self._replays.find(tenant, command.id)
        if found is None:
            raise Internal(f"the record of replay {command.id} is gone")
        return found

    async def _work(self, held: Held, command: Replay) -> None:
        pace = progress.pace_of(held.record, began=held.began, now=self._now())
        await self._settle(held, ())
        while await self._rest(held, pace.wait(time.monotonic())):
            lot, cursor = await self._next(held.record, pace.lot(time.monotonic()))
            if cursor is None:
                await self._end(held, "done")
                return
            results = await self._send_all(held, command, lot)
            if len(results) < len(lot):
                cursor = results[-1].sequence if results else held.record.cursor
            if results or held.quiet_seconds > BEAT_SECONDS:
                await held.advance(results, cursor=cursor)
                await self._settle(held, [buried for _, buried in lot if buried])
            else:
                held.record = held.record.model_copy(update={"cursor": cursor})
            pace.sent(sum(sent.outcome != "skipped" for sent in results))
        await self._cut_short(held)

    async def _cut_short(self, held: Held) -> None:
        if self._stopping.is_set():
            await held.release()
            raise Unavailable("this process stops; another goes on with the replay")
        await self._end(held, "cancelled")

    async def _end(self, held: Held, state: ReplayState, reason: str | None = None) -> None:
        await held.end(state, reason)
        REPLAYS_ENDED.labels(state).inc()
        counts = held.record.model_dump(include={"replayed", "skipped", "failed", "swallowed", "dry_run", "seconds"})
        log.info("replay ended", extra={**_about(held.record), **counts, "state": state, "reason": reason})

    async def _next(self, record: ReplayRecord, limit: int) -> tuple[Lot, int | None]:
        return await self._graveyard.lot(
            record.tenant, record.selection, after=record.cursor, until=record.until_sequence or 0, limit=limit
        )

    async def _send_all(self, held: Held, command: Replay, lot: Lot) -> list[Sent]:
        """One result each; fewer when the run is to end in between."""
        results: list[Sent] = []
        for sequence, buried in lot:
            sent = await self._send(held, command, sequence, buried)
            if sent is None:
                break
            results.append(sent)
        return results

    async def _send(self, held: Held, command: Replay, sequence: int, buried: Buried | None) -> Sent | None:
        """Send one dead letter, however often that is refused; `None` when the run is to end first."""
        if buried is None:
            return Sent(sequence=sequence, outcome="skipped")
        body = edited(buried, command.payload) if command.payload is not None else None
        try:
            entry = sent_again(buried, replay=command.id, salt=held.record.salt, body=body)
        except Rejected as error:
            return Sent(sequence=sequence, outcome="failed", reason=error.message)
        if command.dry_run:
            return Sent(sequence=sequence, outcome="replayed")
        while True:
            outcome = (await self._bus.append([entry]))[0]
            if isinstance(outcome, Appended):
                return await self._arrived(held.record, sequence, entry, outcome)
            if not isinstance(outcome, EngramError) or outcome.retry == "never":
                return Sent(sequence=sequence, outcome="failed", reason=str(outcome))
            if not await self._rest(held, outcome.retry_after or 1.0, waiting=outcome.message):
                return None

    async def _arrived(self, record: ReplayRecord, sequence: int, entry: Entry, at: Appended) -> Sent:
        """A repeat must be one of our own, from before an interruption; a worker may have taken it already."""
        if at.duplicate:
            there = await self._bus.read(STREAMS[entry.subject.split(".")[1]], at.sequence)
            if there is not None and not is_ours(there, replay=record.id, sequence=sequence):
                return Sent(sequence=sequence, outcome="swallowed", reason=SWALLOWED)
        return Sent(sequence=sequence, outcome="replayed", landed=at.sequence)

    async def _settle(self, held: Held, known: Sequence[Buried]) -> None:
        """Take out of the dead letters what was sent; what a run before this one sent is looked up."""
        landed = {one.sequence: one.work_sequence for one in held.record.unsettled}
        if not landed:
            return
        found = known or await self._graveyard.find(SYSTEM, list(landed))
        sent = [buried for buried in found if buried and buried.letter.sequence in landed]
        await self._graveyard.take_out(
            sent,
            lambda trouble, buried: marks.replayed(trouble, buried.letter, landed[buried.letter.sequence], self._now()),
        )
        held.record = progress.settled(held.record)

    async def _rest(self, held: Held, seconds: float, *, waiting: str | None = None) -> bool:
        """Wait so long; `False` as soon as the run is to end."""
        until = time.monotonic() + seconds
        while not self._stopping.is_set():
            if await held.is_cancelled():
                return False
            left = until - time.monotonic()
            if left <= 0:
                return True
            if held.quiet_seconds > BEAT_SECONDS:
                await held.beat(waiting)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_SECONDS)):
                    await self._stopping.wait()
        return False


def new_record(command: Replay, tenant: str, now: datetime) -> ReplayRecord:
    """The record of a replay that was just asked for."""
    return progress.queued(command, tenant, salt=secrets.token_hex(16), now=now)


def check_reach(tenant: str, wanted: DeadFilter | None) -> None:
    """Raise `Forbidden` when a filter names another tenant than the one it is asked for."""
    named = wanted.tenant if wanted else None
    if tenant != SYSTEM and named not in (None, tenant):
        raise Forbidden(f"the dead letters of {named!r} are not those of {tenant!r}", field="filter.tenant")


def _about(record: ReplayRecord) -> dict[str, object]:
    return {"replay": record.id, "tenant": record.tenant, "actor": record.actor}
