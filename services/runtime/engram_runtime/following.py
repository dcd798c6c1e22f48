"""Following a log: strictly in order, from the position that is stored with the effects.

Before pulling, the consumer is reset to one past the stored position. Deliveries must then be without a gap; where
one is seen (a pull that was lost with its connection), or the handler raises, the session begins anew. That makes
redelivery harmless and skipping impossible (plain redelivery does skip).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError

from engram_contracts.errors import EngramError, Internal, Unavailable
from engram_contracts.topology import SETTINGS, LogSubject
from engram_runtime.appending import CORRELATION
from engram_runtime.burying import bury
from engram_runtime.bus import Bus
from engram_runtime.cuts import common_end
from engram_runtime.decoding import decode
from engram_runtime.delivery import Receipt
from engram_runtime.pulling import Puller
from engram_runtime.service import Delivery, Following, Outcome
from engram_runtime.taking import ACK
from engram_runtime.telemetry import HANDLED, HANDLING, STANDING, waited
from engram_runtime.tracing import TRACEPARENT, processing
from engram_runtime.tries import MOST, Tries
from engram_runtime.vault import vault_of

log = logging.getLogger(__name__)

LONGEST_PAUSE = 10.0
SLICE = 32
"""Messages decoded in a row before others get their turn: about a millisecond."""


class Follower:
    """Follows one `Following` for a stage. `trouble` says why it stands still, or is `None`."""

    def __init__(self, bus: Bus, client: Client, jetstream: JetStreamContext, stage: str, following: Following) -> None:
        self._bus = bus
        self._vault = vault_of(bus)
        self._client = client
        self._jetstream = jetstream
        self._stage = stage
        self._following = following
        self._position = 0
        self._expected = 1
        self._prepared = True
        self._failures = 0
        self._tries = Tries(bus.bucket(SETTINGS), following.consumer.name)
        self._since: float | None = None
        self._standing = STANDING.labels(stage, following.consumer.name)
        self._standing.set(0)
        self.trouble: str | None = None
        self.puller: Puller

    @property
    def busy_for(self) -> float:
        """Seconds that what is in hand, a batch or a fact by itself, has taken so far; 0 without it."""
        return time.monotonic() - self._since if self._since is not None else 0.0

    async def prepare(self) -> None:
        """Set the consumer to one past the stored position; while that cannot be done, wait longer each time."""
        consumer = self._following.consumer
        try:
            self._position = await self._agreed(consumer.stream.name)
            await self._tries.begin(self._position, ahead=2 * consumer.max_ack_pending)
            await self._jetstream.reset_consumer(consumer.stream.name, consumer.name, self._position + 1)
        except (APIError, EngramError) as error:
            self._prepared = False
            await self._stumble(error, 0)
            raise TimeoutError(self.trouble) from error
        if not self._prepared:
            self._go_on()
        self._prepared, self._expected = True, 1

    async def _agreed(self, stream: str) -> int:
        """The stored position; set back first where the log has lost what was applied of it."""
        position = await self._following.position()
        if not position:
            return position
        appended = await self._following.appended()
        kept = await common_end(self._client, self._jetstream, stream, position=position, appended=appended)
        if kept < position and self._following.rewind is not None:
            log.error("log was cut", extra={"stage": self._stage, "stream": stream, "applied": position, "kept": kept})
            await self._following.rewind(kept)
            await self._tries.forget()
        return kept

    async def handle(self, batch: Sequence[Msg]) -> None:
        """Apply a batch that continues the log; anything else begins the session anew."""
        receipts = [Receipt.of(message) for message in batch]
        if any(receipt.consumer_sequence != self._expected + n for n, receipt in enumerate(receipts)):
            self.puller.restart()
            return
        self._since = time.monotonic()
        waited(self._stage, receipts[0].at)
        try:
            await (self._apply_carefully if self._tries.careful else self._apply)(batch, receipts)
        except Exception as error:
            await self._stumble(error, len(batch))
            return
        finally:
            self._since = None
        self._expected += len(batch)
        self._position = receipts[-1].sequence
        self._go_on()
        HANDLED.labels(self._stage).inc(len(batch))
        await batch[-1].respond(ACK)

    async def _apply(self, batch: Sequence[Msg], receipts: Sequence[Receipt]) -> None:
        known: list[tuple[Msg, Delivery[Any]]] = []
        for number, (message, receipt) in enumerate(zip(batch, receipts, strict=True), 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if receipt.sequence <= self._position or self._tries.is_given_up(receipt.sequence):
                continue
            delivery = await self._decode(message, receipt)
            if delivery is not None:
                known.append((message, delivery))
        if not known:
            return
        consumer = self._following.consumer
        deliveries = [delivery for _, delivery in known]
        with (
            HANDLING.labels(self._stage).time(),
            processing(self._stage, consumer.name, consumer.stream.name, deliveries) as step,
        ):
            outcomes = await self._handle(known)
            step.came_to(outcomes)
        for (message, delivery), outcome in zip(known, outcomes, strict=True):
            if outcome is not None:
                await self._bury(message, delivery.tenant, outcome)

    async def _apply_carefully(self, batch: Sequence[Msg], receipts: Sequence[Receipt]) -> None:
        """One by one, each try written down before, because one of them has ended this worker again and again."""
        for message, receipt in zip(batch, receipts, strict=True):
            sequence = receipt.sequence
            if sequence <= self._position or self._tries.is_given_up(sequence):
                continue
            before = await self._tries.note(sequence)
            self._since = time.monotonic()
            if before >= MOST:
                error = Internal(f"its handling ended the worker {before} times")
                await self._bury(message, _names(message.subject)[0], error, attempt=before, why="worn out")
                await self._tries.give_up(sequence)
                continue
            try:
                await self._apply([message], [receipt])
            except Exception:
                await self._tries.survived(sequence, applied=False)
                raise
            await self._tries.survived(sequence, applied=True)

    async def _handle(self, known: Sequence[tuple[Msg, Delivery[Any]]]) -> Sequence[Outcome]:
        """All at once; after repeated failure one by one, so that only what cannot be applied is given up."""
        deliveries = [delivery for _, delivery in known]
        if self._failures < self._following.consumer.retry.attempts:
            return await self._following.handler(deliveries)
        return [await self._single(delivery) for delivery in deliveries]

    async def _single(self, delivery: Delivery[Any]) -> Outcome:
        try:
            return (await self._following.handler([delivery]))[0]
        except EngramError as error:
            if error.retry == "later":
                raise
            return error
        except OSError:
            raise
        except Exception as error:
            return error

    async def _decode(self, message: Msg, receipt: Receipt) -> Delivery[Any] | None:
        tenant, event = _names(message.subject)
        kind = self._following.messages.get(event)
        if kind is None:
            return None
        try:
            body = decode(kind, await self._vault.opened(message.data))
        except EngramError as error:
            if error.retry == "later":
                raise
            await self._bury(message, tenant, error)
            return None
        headers = message.headers or {}
        return Delivery(
            tenant=tenant,
            event=event,
            message=body,
            sequence=receipt.sequence,
            at=receipt.at,
            correlation=headers.get(CORRELATION),
            trace=headers.get(TRACEPARENT),
        )

    async def _bury(self, message: Msg, tenant: str, error: Exception, *, attempt: int = 1, why: str = "never") -> None:
        stream = self._following.consumer.stream.name
        sequence = await bury(self._bus, self._stage, stream, message, tenant, attempt=attempt, why=why, error=error)
        if sequence is None:
            raise Unavailable("the dead letters cannot be written")

    def _go_on(self) -> None:
        if self.trouble is not None:
            self._failures, self.trouble = 0, None
            self._standing.set(0)

    async def _stumble(self, error: Exception, size: int) -> None:
        """Nothing of the batch counts: wait longer each time, then begin at the stored position."""
        transient = isinstance(error, EngramError) and error.retry == "later"
        self._failures = 1 if transient else self._failures + 1
        consumer = self._following.consumer.name
        self.trouble = f"{consumer} stands still at {self._position}: {type(error).__name__}: {error}"
        self._standing.set(1)
        log.error(
            "log stands still",
            exc_info=None if transient else error,
            extra={"stage": self._stage, "batch": size, "failures": self._failures, "error": self.trouble},
        )
        await asyncio.sleep(min(0.1 * 2.0**self._failures, LONGEST_PAUSE))
        self.puller.restart()


def _names(subject: str) -> tuple[str, str]:
    """Tenant and event of a log subject; a usage subject names its door and has one kind of event."""
    if subject.startswith("engram.log."):
        parsed = LogSubject.parse(subject)
        return parsed.tenant, parsed.event
    return subject.rsplit(".", 1)[1], "usage"
