"""What ends work without an effect: a cancel mark, or a deadline that passed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from engram_contracts.commands import Command
from engram_contracts.errors import Cancelled, EngramError, Expired
from engram_contracts.events import CancelMark
from engram_contracts.topology import CANCELS
from engram_runtime.bus import Bus
from engram_runtime.mirror import Mirror, ended

PATIENCE_SECONDS = 5.0
"""So long a starting worker waits for the marks; it must not stand still for want of a bucket."""


class Cancels:
    """The cancel marks of all commands, as the bucket tells them."""

    def __init__(self, bus: Bus) -> None:
        self._mirror = Mirror(bus, CANCELS, CancelMark, changed=self._told)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @property
    def mirror(self) -> Mirror[CancelMark]:
        """The marks, to be kept up to date."""
        return self._mirror

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
    task = asyncio.create_task(cancels.mirror.run())
    reconnected.append(cancels.mirror.watch_again)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cancels.mirror.complete.wait(), PATIENCE_SECONDS)
        yield cancels
    finally:
        reconnected.remove(cancels.mirror.watch_again)
        await ended(task)
