"""What ends work without an effect: a cancel mark, a deadline that passed, or a tenant that is suspended."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from engram_contracts.commands import Command
from engram_contracts.control import TenantRecord
from engram_contracts.errors import Cancelled, EngramError, Expired, Forbidden
from engram_contracts.events import CancelMark
from engram_contracts.topology import CANCELS, TENANTS
from engram_runtime.bus import Bus
from engram_runtime.mirror import Mirror, ended

PATIENCE_SECONDS = 5.0
"""So long a starting worker waits for the marks; it must not stand still for want of a bucket."""


class Cancels:
    """The cancel marks of all commands, and the state of all tenants, as their buckets tell them."""

    def __init__(self, bus: Bus) -> None:
        self._mirror = Mirror(bus, CANCELS, CancelMark, changed=self._told)
        self._tenants = Mirror(bus, TENANTS, TenantRecord)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @property
    def mirrors(self) -> tuple[Mirror[CancelMark], Mirror[TenantRecord]]:
        """Marks and states, to be kept up to date."""
        return self._mirror, self._tenants

    def refused(self, tenant: str, at: datetime) -> EngramError | None:
        """Why what lies in the queue since then is not worked on: its tenant was suspended before, or is deleted.

        Doors refuse such a tenant; this meets what passed none of them, or one that was told a moment too late. What
        was accepted before is finished.
        """
        record = self._tenants.get(tenant)
        if record is None or record.status == "active" or record.changed_at is None or at < record.changed_at:
            return None
        return Forbidden(f"tenant {tenant!r} is {record.status} since {record.changed_at.isoformat()}")

    def over(self, tenant: str, command: Command) -> EngramError | None:
        """Why a command is not to be worked on any more, or `None`."""
        if f"{tenant}.{command.id}" in self._mirror:
            return Cancelled("it was cancelled")
        if command.deadline is not None and command.deadline <= datetime.now(UTC):
            return Expired(f"its deadline passed at {command.deadline.isoformat()}")
        return None

    async def until_over(self, tenant: str, command: Command) -> EngramError:
        """Return when a command is not to be worked on any more, and say why."""
        key, told = f"{tenant}.{command.id}", asyncio.Event()
        self._waiting[key].add(told)
        try:
            while (reason := self.over(tenant, command)) is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_seconds_left(command)):
                        await told.wait()
                told.clear()
            return reason
        finally:
            self._waiting[key].discard(told)
            if not self._waiting[key]:
                del self._waiting[key]

    def _told(self, key: str) -> None:
        for event in self._waiting.get(key, ()):
            event.set()


def _seconds_left(command: Command) -> float | None:
    return None if command.deadline is None else max((command.deadline - datetime.now(UTC)).total_seconds(), 0.0)


@contextlib.asynccontextmanager
async def watching(bus: Bus, reconnected: list[Callable[[], None]]) -> AsyncIterator[Cancels]:
    """The cancel marks, followed while the context is open, and read as a whole when it is entered."""
    cancels = Cancels(bus)
    tasks = [asyncio.create_task(mirror.run()) for mirror in cancels.mirrors]
    again = [mirror.watch_again for mirror in cancels.mirrors]
    reconnected.extend(again)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*(mirror.complete.wait() for mirror in cancels.mirrors))
        yield cancels
    finally:
        for each in again:
            reconnected.remove(each)
        await ended(*tasks)
