"""Live events for waiting requests: one subscription per tenant in this process, however many wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Generic, TypeVar

from engram_contracts.events import Event
from engram_runtime.bus import Bus

log = logging.getLogger(__name__)
E = TypeVar("E", bound=Event)

START_SECONDS = 1.0


class Feeds(Generic[E]):
    """Tells waiting requests about events of one kind. `commands_of` names the commands an event is about."""

    def __init__(self, bus: Bus, kind: type[E], commands_of: Callable[[E], Sequence[str]]) -> None:
        self._bus = bus
        self._kind = kind
        self._commands_of = commands_of
        self._feeds: dict[str, _Feed[E]] = {}

    @contextlib.asynccontextmanager
    async def listen(
        self, tenant: str, commands: Collection[str], told: Callable[[str, E], None]
    ) -> AsyncIterator[None]:
        """While the context is open, `told(command, event)` is called for each event about these commands.

        Listening has begun when the context is entered, unless the broker is away; then nothing is told.
        """
        feed = self._feeds.get(tenant)
        if feed is None:
            feed = self._feeds[tenant] = _Feed(self._bus, tenant, self._kind, self._commands_of)
        feed.users += 1
        try:
            await feed.started()
            feed.add(commands, told)
            yield
        finally:
            feed.remove(commands, told)
            feed.users -= 1
            if not feed.users:
                del self._feeds[tenant]
                feed.stop()


class _Feed(Generic[E]):
    def __init__(self, bus: Bus, tenant: str, kind: type[E], commands_of: Callable[[E], Sequence[str]]) -> None:
        self.users = 0
        self._commands_of = commands_of
        self._told: dict[str, list[Callable[[str, E], None]]] = defaultdict(list)
        self._begun = asyncio.Event()
        self._task = asyncio.create_task(self._run(bus, tenant, kind))

    async def started(self) -> None:
        if self._begun.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await self._begun.wait()

    def add(self, commands: Collection[str], told: Callable[[str, E], None]) -> None:
        for command in commands:
            self._told[command].append(told)

    def remove(self, commands: Collection[str], told: Callable[[str, E], None]) -> None:
        for command in commands:
            listeners = self._told.get(command, [])
            if told in listeners:
                listeners.remove(told)
            if not listeners:
                self._told.pop(command, None)

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self, bus: Bus, tenant: str, kind: type[E]) -> None:
        try:
            async with bus.events(tenant, kind) as events:
                self._begun.set()
                async for event in events:
                    self._tell(event)
        except Exception as error:
            log.warning("live events lost", extra={"tenant_id": tenant, "error": repr(error)})
        finally:
            self._begun.set()

    def _tell(self, event: E) -> None:
        for command in self._commands_of(event):
            for told in tuple(self._told.get(command, ())):
                told(command, event)
