"""Erasures asked for, run, and told of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from engram_contracts.commands import Command
from engram_contracts.erasing import (
    Erase,
    ErasurePage,
    ErasureRecord,
    ErasureStatus,
    ListErasures,
    StartErasure,
    StatusErasure,
)
from engram_contracts.errors import EngramError, NotFound, Rejected
from engram_contracts.ids import new_id
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import work_subject
from engram_recovery.erasing import Eraser
from engram_recovery.erasures import Erasures, queued
from engram_runtime.bus import Bus, Entry
from engram_runtime.service import Delivery, Outcome


class ErasureHandlers:
    """One method per contract; `now` is the clock."""

    def __init__(self, bus: Bus, eraser: Eraser, erasures: Erasures, *, now: Callable[[], datetime]) -> None:
        self._bus = bus
        self._eraser = eraser
        self._erasures = erasures
        self._now = now

    async def start(self, question: StartErasure) -> ErasureStatus:
        """Put an erasure to work. A repeat answers with the one that there is."""
        identity = question.id or new_id()
        known = await self._erasures.find(question.tenant, identity)
        if known is not None:
            return known.status()
        command = Erase(
            id=identity,
            accepted_at=self._now(),
            actor=question.actor,
            tenant=question.tenant,
            user_id=question.user_id,
        )
        entry = Entry(subject=work_subject(SYSTEM, Erase.op), body=command.encode(), id=identity)
        outcome = (await self._bus.append([entry]))[0]
        if isinstance(outcome, Exception):
            raise outcome
        await self._erasures.create(queued(command, self._now()))
        return (await self._record(question.tenant, identity)).status()

    async def status(self, question: StatusErasure) -> ErasureStatus:
        """How far an erasure is."""
        return (await self._record(question.tenant, question.id)).status()

    async def list(self, question: ListErasures) -> ErasurePage:
        """Erasures, newest first."""
        records = (await self._erasures.all_of(question.tenant))[: question.limit]
        return ErasurePage(erasures=tuple(record.status() for record in records))

    async def erase(self, batch: Sequence[Delivery[Command]]) -> Sequence[Outcome]:
        """Run erasures to their end."""
        return [await self._outcome(delivery) for delivery in batch]

    async def _outcome(self, delivery: Delivery[Command]) -> Outcome:
        if not isinstance(delivery.message, Erase):
            return Rejected(f"recovery does not take {delivery.event!r} here", field="op")
        try:
            await self._eraser.erase(delivery.message)
        except EngramError as error:
            return error
        return None

    async def _record(self, tenant: str, identity: str) -> ErasureRecord:
        found = await self._erasures.find(tenant, identity)
        if found is None:
            raise NotFound(f"there is no erasure {identity!r}")
        return found
