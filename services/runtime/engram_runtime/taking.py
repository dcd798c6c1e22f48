"""Working off commands: decode each, handle them together, settle each by the delivery policy."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from nats.aio.msg import Msg

from engram_contracts.commands import Command
from engram_contracts.errors import Internal, Unavailable
from engram_contracts.events import JobTrouble, Progress
from engram_contracts.permissions import OPEN, PERMISSIONS
from engram_contracts.topology import waiting_subject
from engram_runtime.breaker import Breaker
from engram_runtime.burying import bury
from engram_runtime.bus import Appended, Bus, Entry
from engram_runtime.cancelling import Cancels
from engram_runtime.delivery import (
    Bury,
    Done,
    End,
    Later,
    Postpone,
    decide,
    waiting_headers,
)
from engram_runtime.held import Held, taken
from engram_runtime.pulling import Puller
from engram_runtime.service import Outcome, OutOfTurn, Taking
from engram_runtime.telemetry import ENDED, HANDLED, RETRIED, waited
from engram_runtime.troubles import INTERRUPTED, Troubles, told, words
from engram_runtime.trying import HANDED_BACK, STEPPED_ASIDE, Hung, Trier
from engram_runtime.vault import vault_of

ACK, NAK, WORKING = b"+ACK", b"-NAK", b"+WPI"
ASIDE_SECONDS = 1.0
DONE_REMEMBERED = 1_024


def _permitted(commands: Sequence[type[Command]]) -> Sequence[type[Command]]:
    """The commands. Raises `ValueError` for one that declares no permission, which nobody may be asked to do."""
    for kind in commands:
        if getattr(kind, "permission", None) not in PERMISSIONS - OPEN:
            raise ValueError(f"{kind.__name__} declares no permission; see engram_contracts.permissions")
    return commands


class Taker:
    """Works off one `Taking` for a stage.

    Fresh messages are handled together. One that was delivered before is handled by itself and its try is written down
    first, so that a message which kills its worker is found by its recorded tries. Where an earlier delivery had no
    answer, nothing else of the stage is in hand in this process meanwhile: no neighbour is blamed.
    """

    def __init__(
        self, bus: Bus, stage: str, taking: Taking, *, breaker: Breaker, cancels: Cancels | None, puller: Puller
    ) -> None:
        self._puller = puller
        self._breaker = breaker
        self._bus = bus
        self._vault = vault_of(bus)
        self._stage = stage
        self._taking = taking
        self._retry = taking.consumer.retry
        self._types = {kind.op: kind for kind in _permitted(taking.commands)}
        self._troubles = Troubles(bus, stage)
        self._trier = Trier(stage, taking, breaker=breaker, cancels=cancels, troubles=self._troubles)
        self._done: deque[tuple[int, datetime]] = deque(maxlen=DONE_REMEMBERED)
        """What was done lately, by sequence and time: a copy may still come, sent while the first was in hand."""

    async def handle(self, batch: Sequence[Msg]) -> None:
        """Handle and settle every message of the batch."""
        await self._vault.learn(message.data for message in batch)
        held = [taken(message, self._types, self._vault.open) for message in batch]
        waited(self._stage, held[0].receipt.at)
        async with _kept_alive(batch, self._puller):
            fresh = [item for item in held if item.receipt.delivered == 1]
            if fresh:
                await self._together(fresh)
            for item in held:
                if item.receipt.delivered > 1:
                    await self._again(item)

    async def _together(self, items: Sequence[Held]) -> None:
        sound = [item for item in items if item.delivery is not None]
        async with self._breaker.room.together():
            outcomes = await self._trier.outcomes(sound) if sound else []
            verdicts = dict(zip((item.receipt.sequence for item in sound), outcomes, strict=True))
            for item in items:
                await self._settle(item, item.broken or verdicts[item.receipt.sequence])

    async def _again(self, item: Held) -> None:
        """A message that comes again, or only its acknowledgement, where it was done here already."""
        if (item.receipt.sequence, item.receipt.at) in self._done:
            await item.raw.respond(ACK)
        else:
            await self._alone(item)

    async def _alone(self, item: Held) -> None:
        """A message that comes again: count the try where a crash cannot undo it, then try."""
        past = await self._troubles.of(item)
        if past and past.state != "retrying":
            await item.raw.respond(ACK)
            return
        attempt = past.attempt + 1 if past else item.attempt - 1 + item.receipt.delivered
        item = replace(
            item, attempt=attempt, tries=past.tries if past else (), unanswered=past.unanswered if past else 0
        )
        if past and self._retry.worn_out(past.attempt):
            await self._settle(item, Unavailable(f"{past.reason}; {past.attempt} tries"))
        elif item.unanswered >= self._retry.endings:
            error = Internal(f"its handling ended the worker, or hung, {item.unanswered} times")
            await self._bury(item, error, Bury("worn out"))
        else:
            answered = past is not None and not past.unanswered
            async with self._breaker.room.together() if answered else self._breaker.room.alone():
                await self._settle(item, await self._alone_noted(item, past))
                await self._puller.flush()

    async def _alone_noted(self, item: Held, past: JobTrouble | None) -> Outcome:
        """The outcome of a try that is written down before."""
        await self._troubles.note(
            item,
            reason=past.reason if past else INTERRUPTED,
            code=past.code if past else "INTERNAL_ERROR",
            unanswered=item.unanswered + 1,
        )
        return item.broken or (await self._trier.outcomes([item]))[0]

    async def _settle(self, item: Held, outcome: Outcome) -> None:
        if outcome is HANDED_BACK:
            await self._hand_back(item)
            return
        if outcome is STEPPED_ASIDE:
            await self._step_aside(item, self._breaker.trouble or INTERRUPTED)
            return
        if isinstance(outcome, OutOfTurn):
            await self._step_aside(item, words(outcome))
            return
        decision = decide(outcome, attempt=item.attempt, retry=self._retry)
        if not isinstance(decision, Later):
            self._trier.forget(item.receipt.sequence)
        if isinstance(decision, Done):
            HANDLED.labels(self._stage).inc()
            self._done.append((item.receipt.sequence, item.receipt.at))
            await item.raw.respond(ACK)
            return
        assert outcome is not None
        if isinstance(decision, Later):
            await self._come_again(item, outcome, decision.delay)
        elif isinstance(decision, Postpone):
            await self._postpone(item, outcome, decision.delay)
        elif isinstance(decision, End):
            await self._end(item, outcome, decision)
        else:
            await self._bury(item, outcome, decision)

    async def _come_again(self, item: Held, error: Exception, delay: float) -> None:
        """Have it delivered again; a try that hung counts as one that nobody came back from."""
        RETRIED.labels(self._stage).inc()
        hung = item.unanswered + 1 if isinstance(error, Hung) else 0
        tried = await self._troubles.with_try(item, error)
        await self._troubles.note(tried, delay=delay, unanswered=hung, **told(error))
        await item.raw.nak(delay=delay)
        await self._announce_retry(item, words(error), delay)

    async def _hand_back(self, item: Held) -> None:
        """Let another worker have it; that it was about to be tried here does not count."""
        if item.receipt.delivered > 1:
            before = replace(item, attempt=item.attempt - 1)
            await self._troubles.note(before, reason=INTERRUPTED, code="INTERNAL_ERROR", unanswered=item.unanswered)
        await item.raw.respond(NAK)

    async def _step_aside(self, item: Held, reason: str) -> None:
        """Let others of the queue go first; the try does not count."""
        uncounted = replace(item, attempt=item.attempt - 1)
        await self._troubles.note(uncounted, reason=reason, code=Unavailable.code, delay=ASIDE_SECONDS)
        await item.raw.nak(delay=ASIDE_SECONDS)
        await self._announce_retry(item, reason, ASIDE_SECONDS)

    async def _postpone(self, item: Held, error: Exception, delay: float) -> None:
        """Have it wait outside of its stream; where that cannot be, in hand."""
        headers = waiting_headers(
            item.raw, receipt=item.receipt, attempt=item.attempt, at=datetime.now(UTC) + timedelta(seconds=delay)
        )
        waiting = Entry(
            subject=waiting_subject(self._stage, item.receipt.sequence),
            body=item.raw.data,
            id=f"{self._stage}-{item.receipt.sequence}-{item.attempt}",
            headers=headers,
        )
        RETRIED.labels(self._stage).inc()
        outside = isinstance((await self._bus.append([waiting]))[0], Appended)
        await self._troubles.note(
            await self._troubles.with_try(item, error), delay=delay, outside=outside, **told(error)
        )
        await (item.raw.respond(ACK) if outside else item.raw.nak(delay=delay))
        await self._announce_retry(item, words(error), delay)

    async def _announce_retry(self, item: Held, reason: str, delay: float) -> None:
        """Tell who listens that a try failed and the next follows; what is settled does not hang on it."""
        now = datetime.now(UTC)
        failed = Progress(
            stage="retrying", commands=(item.job,), at=now, reason=reason, attempt=item.attempt,
            next_at=now + timedelta(seconds=delay),
        )  # fmt: skip
        with contextlib.suppress(Unavailable):
            await self._bus.emit(item.tenant, failed)

    async def _bury(self, item: Held, error: Exception, decision: Bury) -> None:
        sequence = await bury(
            self._bus, self._stage, self._taking.consumer.stream.name, item.raw, item.tenant,
            attempt=item.attempt, why=decision.why, error=error,
        )  # fmt: skip
        if sequence is None:
            await item.raw.nak(delay=5.0)
            return
        await self._troubles.note(
            await self._troubles.with_try(item, error), state="dead", dead=sequence, **told(error)
        )
        await item.raw.respond(ACK)
        died = Progress(stage="dead", commands=(item.job,), at=datetime.now(UTC), reason=words(error))
        await self._bus.emit(item.tenant, died)

    async def _end(self, item: Held, error: Exception, decision: End) -> None:
        """Nothing came of it, and nothing will; that is written down before it leaves its stream."""
        ENDED.labels(self._stage, decision.state).inc()
        known = await self._troubles.with_tries(item)
        await self._troubles.note(known, state=decision.state, **told(error))
        await item.raw.respond(ACK)
        over = Progress(stage=decision.state, commands=(item.job,), at=datetime.now(UTC), reason=words(error))
        await self._bus.emit(item.tenant, over)


@contextlib.asynccontextmanager
async def _kept_alive(batch: Sequence[Msg], puller: Puller) -> AsyncIterator[None]:
    """While the block runs, tell the server in time that the batch is being worked on, and what waits behind it."""
    pause = puller.consumer.ack_wait / 5
    saying: list[asyncio.Task[None]] = []
    timer = asyncio.get_running_loop().call_later(
        pause, lambda: saying.append(asyncio.create_task(_say_working(batch, puller, pause)))
    )  # most batches are done long before, and a timer costs less than a task
    try:
        yield
    finally:
        timer.cancel()
        for task in saying:
            task.cancel()


async def _say_working(batch: Sequence[Msg], puller: Puller, pause: float) -> None:
    while True:
        for message in (*batch, *puller.waiting):
            if not message.is_acked:
                await message.respond(WORKING)
        await asyncio.sleep(pause)
