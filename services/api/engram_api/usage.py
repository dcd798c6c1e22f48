"""Usage events: one for each request of a tenant, durable before its answer leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus

from engram_api.committer import Committer
from engram_api.metrics import USAGE_FAILURES
from engram_contracts.errors import EngramError, Unavailable
from engram_contracts.facts import UsageBatch, UsageEvent
from engram_contracts.ids import derived_id, new_id
from engram_contracts.topology import usage_subject
from engram_contracts.trail import Mark
from engram_runtime.bus import Appended, Bus, Entry
from engram_runtime.tracing import publishing

log = logging.getLogger(__name__)


class UsageLog:
    """Writes usage events of concurrent requests together, as batches on the usage stream."""

    def __init__(self, bus: Bus, door: str, *, waiting: int, within: float) -> None:
        self._bus = bus
        self._within = within
        self._subject = usage_subject(door)
        self._committer: Committer[UsageEvent, Appended] = Committer(self._write, waiting=waiting, patience=within)
        self._unwatched: set[asyncio.Task[None]] = set()

    async def record(
        self,
        *,
        tenant: str,
        route: str,
        status: int,
        counters: Mapping[str, int],
        request_id: str,
        idempotency_key: str | None,
        mark: Mark | None = None,
    ) -> None:
        """Return once the event is durable. Raises where it cannot be written.

        What succeeds under one idempotency key is one event, however often it is repeated. A request that failed on
        our side, or came too fast, is written in the background: its refusal must not wait for the broker.
        """
        once = idempotency_key is not None and status < HTTPStatus.BAD_REQUEST
        event = UsageEvent(
            request_id=derived_id("usage", tenant, route, str(idempotency_key)) if once else request_id,
            tenant=tenant,
            route=route,
            status=status,
            at=datetime.now(UTC),
            counters=dict(counters),
            audit=mark,
        )
        if status >= HTTPStatus.TOO_MANY_REQUESTS:
            self._in_background(event)
            return
        with publishing(self._subject):
            outcome = (await self._committer.commit([event]))[0]
        if isinstance(outcome, Exception):
            raise Unavailable("the request could not be metered; try again", retry_after=1.0) from outcome

    async def close(self) -> None:
        """Return once all events that were handed in are written or refused."""
        await self._committer.close()
        await asyncio.gather(*self._unwatched)

    def _in_background(self, event: UsageEvent) -> None:
        task = asyncio.create_task(self._try(event))
        self._unwatched.add(task)
        task.add_done_callback(self._unwatched.discard)

    async def _try(self, event: UsageEvent) -> None:
        with contextlib.suppress(EngramError):
            await self._committer.commit([event])

    async def _write(self, events: Sequence[UsageEvent]) -> Sequence[Appended | Exception]:
        batch = UsageBatch.model_construct(events=tuple(events))
        entry = Entry(subject=self._subject, body=batch.encode(), id=new_id())
        outcome = (await self._bus.append([entry], within=self._within))[0]
        if isinstance(outcome, Exception):
            USAGE_FAILURES.inc()
            log.error("usage not written", extra={"events": len(events), "error": repr(outcome)})
        return [outcome] * len(events)
