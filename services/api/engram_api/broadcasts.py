"""A tenant's events for everyone who listens: the log is read once for all of them, and what they get is made once.

Who comes back catches up from the log by itself, at its own pace, and joins the rest when it has what they have. Who
falls behind leaves them and catches up in the same way. Both know where they stand by sequences of the log, so that
nothing is left out where they meet and nothing told twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from engram_api.happenings import happening, wanted
from engram_api.lines import Outlet
from engram_api.metrics import LIVE_EVENTS
from engram_contracts.control import Bounds
from engram_contracts.errors import EngramError, Rejected
from engram_contracts.ids import partition_of
from engram_contracts.live import EventFilter, Happening, Lost, Opened
from engram_contracts.topology import LOG
from engram_runtime.bus import Bus, Stored

log = logging.getLogger(__name__)

LINGER_SECONDS, EACH_SECONDS = 0.025, 0.001
"""Batches of events are at least so far apart, and so much is taken over each who listens: writing to all of them takes
the same small share of any stretch of the door's time, however many they are. A crowd of 500 is told twice a second, of
all that has happened since.
"""
TURN = 8
"""So many listeners are written to in one go."""
CHUNK_BYTES = 32 * 1024
TOGETHER = 128
READING = 8
"""So many listeners read the log for themselves at once."""
AGAIN_SECONDS = 0.2
UNSEEN_TRIES = 3

Chunk = tuple[int, bytes]
"""Frames put together, and the sequence of the last."""
Frame = Callable[[str, bytes, int | None], bytes]


class Listener:
    """One who listens. `at` is the last sequence it has been told, or that holds nothing for it."""

    def __init__(self, outlet: Outlet, chosen: EventFilter, bounds: Bounds, at: int) -> None:
        self.outlet = outlet
        self.chosen = chosen
        self.bounds = bounds
        self.at = at
        self.behind = asyncio.Event()

    @property
    def group(self) -> tuple[str, EventFilter, Bounds]:
        """Listeners of one group get the same bytes."""
        return self.outlet.form, self.chosen, self.bounds


class Broadcast:
    """One tenant's events. `position` is the last sequence that was handed on to those who are in step."""

    def __init__(self, bus: Bus, tenant: str, reading: asyncio.Semaphore) -> None:
        self.users = 0
        self.position = 0
        self._pattern = f"engram.log.{partition_of(tenant)}.{tenant}.>"
        self._bus = bus
        self._archive = bus.archive(LOG)
        self._reading = reading
        self._groups: defaultdict[tuple[str, EventFilter, Bounds], set[Listener]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Begin to follow the log; a repeat does nothing. Raises `Unavailable`."""
        async with self._starting:
            if self._task is None:
                newest = await self._archive.newest(self._pattern)
                self.position = newest.sequence if newest else (await self._archive.extent()).last
                self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Follow it no more."""
        if self._task is not None:
            self._task.cancel()

    async def first_after(self, after: int) -> Lost | None:
        """Whether the log still reaches back to `after`. Raises `Rejected` where it never came so far."""
        extent = await self._archive.extent()
        if after > max(extent.last, self.position):
            raise Rejected(f"no event has the id {after}; leave it out to begin with what is new", field="after")
        return Lost(after=after, first=extent.first) if after + 1 < extent.first else None

    async def tell(self, listener: Listener) -> None:
        """Tell a listener everything from where it stands, until its line ends. Raises `EndError`."""
        while True:
            await self._catch_up(listener)
            members = self._groups[listener.group]
            members.add(listener)
            try:
                await listener.behind.wait()
            finally:
                members.discard(listener)
                if not members:
                    self._groups.pop(listener.group, None)
            listener.behind.clear()

    async def _catch_up(self, listener: Listener) -> None:
        """Return when the listener has what all others have; what it does next is done before anything happens."""
        unseen = 0
        while listener.at < self.position:
            before = self.position
            await listener.outlet.line.room()
            async with self._reading:
                batch = await self._read(listener.at + 1)
            for last, chunk in _chunks(_happened(batch), listener):
                await listener.outlet.line.send(chunk)
                listener.at = last
            unseen = 0 if batch else unseen + 1
            if batch:
                listener.at = batch[-1].sequence
            elif unseen >= UNSEEN_TRIES:
                listener.at = max(listener.at, before)
            else:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _read(self, start: int) -> list[Stored]:
        while True:
            try:
                return await self._archive.read(start, pattern=self._pattern, limit=TOGETHER)
            except EngramError:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _run(self) -> None:
        while True:
            try:
                async with self._bus.tail(LOG, self._pattern, after=self.position) as batches:
                    async for batch in batches:
                        await self._hand_on(batch)
                        await asyncio.sleep(LINGER_SECONDS)
            except Exception as error:
                log.warning("events interrupted", exc_info=error, extra={"error": repr(error)})
                await asyncio.sleep(AGAIN_SECONDS)

    async def _hand_on(self, batch: Sequence[Stored]) -> None:
        happened = _happened(batch)
        LIVE_EVENTS.inc(len(happened))
        self.position = batch[-1].sequence
        turns = 0
        for members in tuple(self._groups.values()):
            chunks: list[Chunk] | None = None
            for listener in tuple(members):
                if listener not in members:
                    continue
                if listener.at >= batch[0].sequence:
                    _offer(
                        listener, _chunks((h for h in happened if h.sequence > listener.at), listener), self.position
                    )
                else:
                    chunks = _chunks(happened, listener) if chunks is None else chunks
                    _offer(listener, chunks, self.position)
                turns += 1
                if turns % TURN == 0:
                    await asyncio.sleep(TURN * EACH_SECONDS)


def _offer(listener: Listener, chunks: Iterable[Chunk], last: int) -> None:
    """Hand over what the listener has not got; one that does not take it falls behind."""
    for reached, chunk in chunks:
        if not listener.outlet.line.offer(chunk):
            listener.behind.set()
            return
        listener.at = reached
    listener.at = max(listener.at, last)


def _happened(batch: Sequence[Stored]) -> list[Happening]:
    return [found for stored in batch if (found := happening(stored)) is not None]


def _chunks(happened: Iterable[Happening], listener: Listener) -> list[Chunk]:
    """The frames that listeners of this one's group get, put together to chunks of bounded size."""
    chunks: list[Chunk] = []
    parts: list[bytes] = []
    size = 0
    for each in happened:
        if not wanted(each, listener.chosen, listener.bounds):
            continue
        parts.append(listener.outlet.frame(each.event, each.encode(), each.sequence))
        size += len(parts[-1])
        if size >= CHUNK_BYTES:
            chunks.append((each.sequence, b"".join(parts)))
            parts, size = [], 0
        last = each.sequence
    return [*chunks, (last, b"".join(parts))] if parts else chunks


class Broadcasts:
    """The tenants that somebody listens to at this door."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._reading = asyncio.Semaphore(READING)
        self._of: dict[str, Broadcast] = {}

    async def enter(self, tenant: str) -> Broadcast:
        """The tenant's events, followed from now on at the latest; `leave` it. Raises `Unavailable`."""
        found = self._of.get(tenant)
        if found is None:
            found = self._of[tenant] = Broadcast(self._bus, tenant, self._reading)
        found.users += 1
        try:
            await found.start()
        except BaseException:
            self.leave(tenant)
            raise
        return found

    def leave(self, tenant: str) -> None:
        """One listener less; with the last one, the tenant's events are followed no more."""
        found = self._of[tenant]
        found.users -= 1
        if not found.users:
            del self._of[tenant]
            found.stop()


class EventTalk:
    """A tenant's events for one listener, from now on or from behind `after`. See `Stream`."""

    def __init__(self, broadcasts: Broadcasts, tenant: str, chosen: EventFilter, bounds: Bounds) -> None:
        self._broadcasts = broadcasts
        self._tenant = tenant
        self._chosen = chosen
        self._bounds = bounds
        self._at = 0
        self._lost: Lost | None = None
        self._broadcast: Broadcast | None = None

    async def open(self, after: int | None) -> None:
        """Begin to listen. Raises `Unavailable`, and `Rejected` for an `after` that no event has."""
        self._broadcast = await self._broadcasts.enter(self._tenant)
        self._at = self._broadcast.position
        if after is not None:
            try:
                self._lost = await self._broadcast.first_after(after)
            except BaseException:
                await self.close()
                raise
            self._at = after

    async def play(self, outlet: Outlet) -> None:
        """See `Stream.play`."""
        assert self._broadcast is not None
        await outlet.tell("open", Opened(position=self._at), self._at)
        if self._lost is not None:
            await outlet.tell("lost", self._lost)
        await self._broadcast.tell(Listener(outlet, self._chosen, self._bounds, self._at))

    async def close(self) -> None:
        """See `Stream.close`."""
        if self._broadcast is not None:
            self._broadcast = None
            self._broadcasts.leave(self._tenant)
