"""Working off commands: decode each, handle them together, settle each by the delivery policy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict

from nats.aio.msg import Msg
from pydantic import ValidationError

from engram_contracts.commands import Command
from engram_contracts.errors import EngramError, Failure, Internal, Rejected, Unavailable
from engram_contracts.events import JobTrouble, JobTry, Progress
from engram_contracts.permissions import OPEN, PERMISSIONS
from engram_contracts.topology import JOBS, WorkSubject, dead_subject, waiting_subject
from engram_runtime.appending import CORRELATION
from engram_runtime.breaker import Breaker, is_away
from engram_runtime.bus import Appended, Bus, Entry
from engram_runtime.cancelling import Cancels
from engram_runtime.context import correlation
from engram_runtime.delivery import (
    ATTEMPTS,
    FIRST_ID,
    Bury,
    Done,
    End,
    Later,
    Postpone,
    Receipt,
    bounded,
    burial_headers,
    decide,
    waiting_headers,
)
from engram_runtime.mirror import ended
from engram_runtime.pulling import Puller
from engram_runtime.service import Delivery, Outcome, Taking
from engram_runtime.telemetry import BURIED, ENDED, HANDLED, HANDLING, RETRIED, waited
from engram_runtime.tracing import TRACEPARENT, processing

log = logging.getLogger(__name__)

ACK, NAK, WORKING = b"+ACK", b"-NAK", b"+WPI"
HANDED_BACK = Unavailable("handed back at shutdown")
STEPPED_ASIDE = Unavailable("tried alone while its dependency was away")
ASIDE_SECONDS = 1.0
TOGETHER = 2
"""So often a batch is tried together before each of its messages is on its own."""
MOST_TRIES = 20
"""So many failed tries of a job are remembered."""
DONE_REMEMBERED = 1_024
INTERRUPTED = "an earlier try ended without an answer"


class Hung(Internal):
    """A handler took longer than any should."""


def _permitted(commands: Sequence[type[Command]]) -> Sequence[type[Command]]:
    """The commands. Raises `ValueError` for one that declares no permission, which nobody may be asked to do."""
    for kind in commands:
        if getattr(kind, "permission", None) not in PERMISSIONS - OPEN:
            raise ValueError(f"{kind.__name__} declares no permission; see engram_contracts.permissions")
    return commands


@dataclass(frozen=True, slots=True)
class Held:
    """One message in hand: raw, with its receipt, and decoded or with the reason why not."""

    raw: Msg
    receipt: Receipt
    tenant: str
    job: str
    delivery: Delivery[Command] | None
    broken: EngramError | None = None
    attempt: int = 1
    tries: tuple[JobTry, ...] = ()
    unanswered: int = 0
    """Tries before this one that nobody came back from."""


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
        self._cancels = cancels
        self._bus = bus
        self._stage = stage
        self._taking = taking
        self._retry = taking.consumer.retry
        self._types = {kind.op: kind for kind in _permitted(taking.commands)}
        self._jobs = bus.bucket(JOBS)
        self._failed: dict[int, float] = {}
        """When messages failed that were tried alone, by sequence, as long as they are tried."""
        self._done: deque[tuple[int, datetime]] = deque(maxlen=DONE_REMEMBERED)
        """What was done lately, by sequence and time: a copy may still come, sent while the first was in hand."""

    async def handle(self, batch: Sequence[Msg]) -> None:
        """Handle and settle every message of the batch."""
        held = [self._decode(message) for message in batch]
        waited(self._stage, held[0].receipt.at)
        async with _kept_alive(batch, self._puller):
            fresh = [item for item in held if item.receipt.delivered == 1]
            if fresh:
                await self._together(fresh)
            for item in held:
                if item.receipt.delivered > 1:
                    await self._again(item)

    def _decode(self, message: Msg) -> Held:
        receipt = Receipt.of(message)
        headers = message.headers or {}
        job = headers.get("Nats-Msg-Id") or f"sequence-{receipt.sequence}"
        subject = WorkSubject.parse(message.subject)
        try:
            command = decode(self._types[subject.op], message.data)
        except EngramError as error:
            return Held(message, receipt, subject.tenant, job, None, error)
        delivery = Delivery(
            tenant=subject.tenant,
            event=subject.op,
            message=command,
            sequence=receipt.sequence,
            at=receipt.at,
            attempt=1,
            correlation=headers.get(CORRELATION),
            trace=headers.get(TRACEPARENT),
        )
        return Held(message, receipt, subject.tenant, command.id, delivery, attempt=1 + _tries_before(headers))

    async def _together(self, items: Sequence[Held]) -> None:
        sound = [item for item in items if item.delivery is not None]
        async with self._breaker.room.together():
            outcomes = await self._attempt(sound) if sound else []
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
        past = await self._trouble(item)
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
        await self._note(
            item,
            reason=past.reason if past else INTERRUPTED,
            code=past.code if past else "INTERNAL_ERROR",
            unanswered=item.unanswered + 1,
        )
        return item.broken or (await self._attempt([item]))[0]

    async def _attempt(self, items: Sequence[Held]) -> list[Outcome]:
        """Outcomes of the items; while the dependency is away they are held, and one of them is tried now and then.

        What fails again and again, though the dependency answers others, is tried on its own.
        """
        outcomes: dict[int, Outcome] = {}
        left = list(items)
        failures = 0
        while left:
            outcomes.update(self._over(left))
            left = [item for item in left if item.receipt.sequence not in outcomes]
            if not left:
                break
            if len(left) == 1 or (self._breaker.closed and failures == TOGETHER):
                outcomes[left[0].receipt.sequence] = await self._lone(left[0])
            elif self._breaker.closed:
                outcomes.update(await self._together_or_trip(left))
                failures += 1
            else:
                outcomes.update(await self._probe(left))
            left = [item for item in left if item.receipt.sequence not in outcomes]
        return [outcomes[item.receipt.sequence] for item in items]

    def _over(self, items: Sequence[Held]) -> dict[int, Outcome]:
        """Those that are not wanted any more, and why."""
        if self._cancels is None:
            return {}
        found = {
            item.receipt.sequence: self._cancels.refused(item.tenant, item.receipt.at)
            or self._cancels.over(item.tenant, item.delivery.message)
            for item in items
            if item.delivery is not None
        }
        return {sequence: reason for sequence, reason in found.items() if reason is not None}

    async def _lone(self, item: Held) -> Outcome:
        """One item by itself. While the dependency is away it steps aside, so that others find out whether it is.

        Its failure is its own once the dependency has answered others since it failed before.
        """
        async with self._turn() as going:
            if not going:
                return HANDED_BACK
            outcome = (await self._try([item]))[0]
            if not is_away(outcome):
                if not self._breaker.closed:
                    self._breaker.close()
                return outcome
            before = self._failed.get(item.receipt.sequence)
            self._failed[item.receipt.sequence] = time.monotonic()
            if before is not None and self._breaker.answered > before:
                return outcome
            self._breaker.trip(outcome)
            return STEPPED_ASIDE

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Whether to go on: at once while the breaker is closed, else as the one who tries, once the pause is over."""
        if self._breaker.closed:
            yield True
            return
        async with self._breaker.probing.taken():
            yield self._breaker.closed or await self._breaker.pause()

    async def _together_or_trip(self, items: Sequence[Held]) -> dict[int, Outcome]:
        results = await self._try(items)
        away = [result for result in results if is_away(result)]
        if len(away) == len(items):
            self._breaker.trip(away[0])
            for item in items:
                await self._note(item, reason=_words(away[0]), code=away[0].code)
            return {}
        return {item.receipt.sequence: result for item, result in zip(items, results, strict=True)}

    async def _apart(self, items: Sequence[Held]) -> dict[int, Outcome]:
        """Each item on its own; two that fail in a row say that the dependency is away again."""
        outcomes: dict[int, Outcome] = {}
        before: Outcome = None
        for item in items:
            outcome = (await self._try([item]))[0]
            outcomes[item.receipt.sequence] = outcome
            if is_away(outcome) and is_away(before):
                self._breaker.trip(outcome)
                break
            before = outcome
        return outcomes

    async def _probe(self, items: list[Held]) -> dict[int, Outcome]:
        """When the pause is over, try one item; another one the next time, should it be the item's own fault."""
        async with self._breaker.probing.taken():
            if self._breaker.closed:
                return {}
            if not await self._breaker.pause():
                return {item.receipt.sequence: HANDED_BACK for item in items}
            item = items.pop(0)
            items.append(item)
            outcome = (await self._try([item]))[0]
            if is_away(outcome):
                self._breaker.trip(outcome)
                return {}
            self._breaker.close()
            return {item.receipt.sequence: outcome}

    async def _try(self, items: Sequence[Held]) -> Sequence[Outcome]:
        deliveries = [item.delivery for item in items if item.delivery is not None]
        token = correlation.set(deliveries[0].correlation if len(deliveries) == 1 else None)
        try:
            consumer = self._taking.consumer
            with (
                HANDLING.labels(self._stage).time(),
                processing(self._stage, consumer.name, consumer.stream.name, deliveries) as step,
            ):
                outcomes = await self._handled(deliveries)
                step.came_to(outcomes)
            if not all(is_away(outcome) for outcome in outcomes):
                self._breaker.answered = time.monotonic()
            return outcomes
        except Exception as error:
            if not isinstance(error, EngramError):
                log.exception("handler failed", extra={"stage": self._stage, "batch": len(items)})
            return [error] * len(items)
        finally:
            correlation.reset(token)

    async def _handled(self, deliveries: Sequence[Delivery[Command]]) -> Sequence[Outcome]:
        """What the handler says. One that takes a single command is interrupted when that is not wanted any more."""
        longest = self._taking.consumer.longest
        if self._cancels is None or self._taking.consumer.batch > 1:
            return await self._within(longest, deliveries)
        working = asyncio.ensure_future(self._taking.handler(deliveries))
        over = asyncio.create_task(self._cancels.until_over(deliveries[0].tenant, deliveries[0].message))
        try:
            done, _ = await asyncio.wait((working, over), timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise Hung(f"its handling did not end within {longest:g} s")
            return working.result() if working.done() else [over.result()]
        finally:
            await ended(working, over)

    async def _within(self, seconds: float | None, deliveries: Sequence[Delivery[Command]]) -> Sequence[Outcome]:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._taking.handler(deliveries)
        except TimeoutError as error:
            if limit.expired():
                raise Hung(f"its handling did not end within {seconds:g} s") from error
            raise

    async def _settle(self, item: Held, outcome: Outcome) -> None:
        if outcome is HANDED_BACK:
            await self._hand_back(item)
            return
        if outcome is STEPPED_ASIDE:
            await self._step_aside(item)
            return
        decision = decide(outcome, attempt=item.attempt, retry=self._retry)
        if not isinstance(decision, Later):
            self._failed.pop(item.receipt.sequence, None)
        if isinstance(decision, Done):
            HANDLED.labels(self._stage).inc()
            self._done.append((item.receipt.sequence, item.receipt.at))
            await item.raw.respond(ACK)
        elif isinstance(decision, Later):
            assert outcome is not None
            RETRIED.labels(self._stage).inc()
            hung = item.unanswered + 1 if isinstance(outcome, Hung) else 0
            tried = await self._tried(item, outcome)
            await self._note(tried, delay=decision.delay, unanswered=hung, **_told(outcome))
            await item.raw.nak(delay=decision.delay)
            await self._announce_retry(item, _words(outcome), decision.delay)
        elif isinstance(decision, Postpone):
            assert outcome is not None
            await self._postpone(item, outcome, decision.delay)
        elif isinstance(decision, End):
            assert outcome is not None
            await self._end(item, outcome, decision)
        else:
            assert outcome is not None
            await self._bury(item, outcome, decision)

    async def _hand_back(self, item: Held) -> None:
        """Let another worker have it; that it was about to be tried here does not count."""
        if item.receipt.delivered > 1:
            before = replace(item, attempt=item.attempt - 1)
            await self._note(before, reason=INTERRUPTED, code="INTERNAL_ERROR", unanswered=item.unanswered)
        await item.raw.respond(NAK)

    async def _step_aside(self, item: Held) -> None:
        """Let others of the queue go first; the try does not count."""
        uncounted = replace(item, attempt=item.attempt - 1)
        reason = self._breaker.trouble or INTERRUPTED
        await self._note(uncounted, reason=reason, code=Unavailable.code, delay=ASIDE_SECONDS)
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
        await self._note(await self._tried(item, error), delay=delay, outside=outside, **_told(error))
        await (item.raw.respond(ACK) if outside else item.raw.nak(delay=delay))
        await self._announce_retry(item, _words(error), delay)

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
        await self._note(await self._tried(item, error), state="dead", dead=sequence, **_told(error))
        await item.raw.respond(ACK)
        died = Progress(stage="dead", commands=(item.job,), at=datetime.now(UTC), reason=_words(error))
        await self._bus.emit(item.tenant, died)

    async def _end(self, item: Held, error: Exception, decision: End) -> None:
        """Nothing came of it, and nothing will; that is written down before it leaves its stream."""
        ENDED.labels(self._stage, decision.state).inc()
        known = await self._with_tries(item)
        await self._note(known, state=decision.state, **_told(error))
        await item.raw.respond(ACK)
        over = Progress(stage=decision.state, commands=(item.job,), at=datetime.now(UTC), reason=_words(error))
        await self._bus.emit(item.tenant, over)

    async def _tried(self, item: Held, error: Exception) -> Held:
        """The item with one more failed try among those that are remembered."""
        item = await self._with_tries(item)
        tried = JobTry(stage=self._stage, attempt=item.attempt, at=datetime.now(UTC), **_told(error))
        return replace(item, tries=(*item.tries, tried)[-MOST_TRIES:])

    async def _with_tries(self, item: Held) -> Held:
        """The item with its tries from before it came back to its stream."""
        if item.tries or FIRST_ID not in (item.raw.headers or {}):
            return item
        value = await self._jobs.get(f"{item.tenant}.{item.job}")
        return replace(item, tries=JobTrouble.model_validate_json(value).tries) if value else item

    async def _trouble(self, item: Held) -> JobTrouble | None:
        """What is written down of the message: that its job is being retried, or that just this one has ended."""
        value = await self._jobs.get(f"{item.tenant}.{item.job}")
        trouble = JobTrouble.model_validate_json(value) if value else None
        if trouble and (trouble.state == "retrying" or trouble.work_sequence == item.receipt.sequence):
            return trouble
        return None

    async def _note(
        self,
        item: Held,
        *,
        reason: str,
        code: str,
        state: Literal["retrying", "dead", "cancelled", "expired"] = "retrying",
        delay: float | None = None,
        dead: int | None = None,
        outside: bool = False,
        unanswered: int = 0,
    ) -> None:
        """Write down where the job stands, for who asks and for the next try."""
        now = datetime.now(UTC)
        trouble = JobTrouble(
            state=state,
            stage=self._stage,
            attempt=item.attempt,
            reason=reason,
            code=code,
            at=now,
            next_at=now + timedelta(seconds=delay) if delay is not None else None,
            dead_sequence=dead,
            work_sequence=item.receipt.sequence,
            tries=item.tries,
            waits_outside=outside,
            unanswered=unanswered,
        )
        with contextlib.suppress(Unavailable):
            await self._jobs.put(f"{item.tenant}.{item.job}", trouble.encode())


def _tries_before(headers: Mapping[str, str]) -> int:
    """Tries that a message had before it waited outside of its stream."""
    said = headers.get(ATTEMPTS, "")
    return int(said) if said.isdecimal() else 0


def decode(kind: type[Any], body: bytes) -> Any:
    """The message in `body`. Raises `Rejected` when it is none, or of a version this release does not know."""
    try:
        message = kind.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        raise Rejected(f"{kind.__name__}.{where}: {problem['msg']}", field=where) from error
    if message.v > kind.newest:
        raise Rejected(
            f"{kind.__name__} version {message.v} is newer than {kind.newest}; update this worker", field="v"
        )
    return message


async def bury(
    bus: Bus, stage: str, stream: str, raw: Msg, tenant: str, *, attempt: int, why: str, error: Exception
) -> int | None:
    """Write a message to the dead letters; its sequence there, or `None` when it could not be written."""
    receipt = Receipt.of(raw)
    headers = burial_headers(raw, stage=stage, stream=stream, receipt=receipt, attempt=attempt, why=why, error=error)
    identity = f"{stage}-{stream}-{receipt.sequence}-{receipt.at.timestamp():.6f}"
    entry = Entry(subject=dead_subject(stage, tenant), body=raw.data, id=identity, headers=headers)
    outcome = (await bus.append([entry]))[0]
    if not isinstance(outcome, Appended):
        log.error("cannot bury", extra={"stage": stage, "sequence": receipt.sequence, "error": repr(outcome)})
        return None
    BURIED.labels(stage).inc()
    log.warning(
        "buried",
        extra={
            "stage": stage,
            "tenant": tenant,
            "why": why,
            "reason": _words(error),
            "dead_sequence": outcome.sequence,
        },
    )
    return outcome.sequence


class _Told(TypedDict):
    reason: str
    code: str


def _told(error: Exception) -> _Told:
    return {"reason": _words(error), "code": Failure.of(error).code}


def _words(error: Exception) -> str:
    return bounded(Failure.of(error).message)


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
