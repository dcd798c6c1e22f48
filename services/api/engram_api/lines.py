"""Connections that stay open: what a client has unread is bounded, who reads too slowly or is gone is let go.

Bytes go straight to the transport, so that a frame that many clients get is made once and never queued anew. A client
that lags is not fed further until it has read; one that reads nothing for a while is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

from engram_api.metrics import LIVE, LIVE_CLOSED
from engram_api.shares import Shares
from engram_contracts.errors import EngramError
from engram_contracts.messages import Message

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
LOOK_SECONDS, LONGEST_LOOK = 0.02, 0.2
TURN = 25
"""So many connections are looked after before others get their turn."""

Reason = Literal["done", "gone", "slow", "refused", "leaving", "silent", "invalid"]
Kind = Literal["sse", "ws"]


class EndError(Exception):
    """A connection ends, and why; `error` is what its client is told where it lost the right to be here."""

    def __init__(self, reason: Reason, error: EngramError | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error


class Line:
    """One open connection. `most` bounds the bytes a client has not taken, `slow` the seconds it may take none.

    `beat` is sent where nothing else was for `every` seconds; `recheck` raises the refusal of a client that may not
    listen any more. Of a client that `answers`, something has to be heard now and then. `over` is set, once, when the
    connection is to end.
    """

    def __init__(
        self,
        kind: Kind,
        transport: asyncio.Transport,
        *,
        most: int,
        slow: float,
        every: float,
        beat: Callable[[], bytes],
        recheck: Callable[[], object],
        answers: bool = False,
    ) -> None:
        self.kind = kind
        self.transport = transport
        self.over: asyncio.Future[EndError] = asyncio.get_running_loop().create_future()
        self._most = most
        self._slow = slow
        self._every = every
        self._beat = beat
        self._recheck = recheck
        self._answers = answers
        self._quiet = 0.0
        self._silent = 0.0
        _bound(transport, most)

    @property
    def unread(self) -> int:
        """Bytes that wait for the client."""
        return self.transport.get_write_buffer_size()

    def end(self, reason: Reason, error: EngramError | None = None) -> None:
        """Have the connection end; the first reason counts."""
        if not self.over.done():
            self.over.set_result(EndError(reason, error))

    def offer(self, chunk: bytes) -> bool:
        """Send bytes, unless the client has too much unread or is leaving; whether they were sent."""
        if self.over.done() or self.transport.is_closing() or self.unread > self._most:
            return False
        try:
            self.transport.write(chunk)
        except (OSError, RuntimeError):  # uvloop's word for one that was closed a moment ago
            self.end("gone")
            return False
        if not self._answers:
            self._quiet = 0.0
        return True

    def heard(self) -> None:
        """The client gave a sign of life."""
        self._silent = 0.0

    async def send(self, chunk: bytes) -> None:
        """Send bytes once there is room for them. Raises `EndError`."""
        await self.room()
        while not self.offer(chunk):
            await self.room()

    async def room(self) -> None:
        """Return once the client has read most of what it was sent. Raises `EndError` where it reads nothing."""
        loop = asyncio.get_running_loop()
        least, deadline, pause = self.unread, loop.time() + self._slow, LOOK_SECONDS
        while self.unread > self._most // 2:
            self._check()
            await asyncio.sleep(pause)
            if self.unread < least:
                least, deadline, pause = self.unread, loop.time() + self._slow, LOOK_SECONDS
            elif loop.time() > deadline:
                self.end("slow")
            pause = min(2 * pause, LONGEST_LOOK)
        self._check()

    def _check(self) -> None:
        if self.transport.is_closing():
            self.end("gone")
        if self.over.done():
            raise self.over.result()

    def sweep(self, seconds: float) -> None:
        """Look after the connection, `seconds` after the last time."""
        if self.transport.is_closing():
            self.end("gone")
            return
        try:
            self._recheck()
        except EngramError as error:
            if error.retry == "never":
                self.end("refused", error)
            return
        self._quiet += seconds
        self._silent += seconds
        if self._answers and self._silent > 2 * self._every + seconds:
            self.end("silent")
        elif self._quiet >= self._every:
            self._quiet = 0.0
            self.offer(self._beat())


def _bound(transport: asyncio.Transport, most: int) -> None:
    """Have the system, too, hold no more for the client than that; by itself it would keep megabytes."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, most)


Frame = Callable[[str, bytes, int | None], bytes]
"""A frame's bytes, of its event, its data as JSON and its id where it has one."""


class Outlet:
    """One stream on a line: frames in its own form. Outlets of the same `form` share their frames' bytes."""

    def __init__(self, line: Line, form: str, frame: Frame) -> None:
        self.line = line
        self.form = form
        self.frame = frame

    async def tell(self, event: str, data: Message, at: int | None = None) -> None:
        """Send one frame, once there is room. Raises `EndError`."""
        await self.line.send(self.frame(event, data.encode(), at))


class Lines:
    """All open connections of this door: so many of one tenant, so many in all."""

    def __init__(self, *, total: int, each: int) -> None:
        self._seats = Shares("open connections", total=total, each=each)
        self._lines: set[Line] = set()
        self.leaving = False

    def take(self, tenant: str) -> None:
        """A seat for a connection. Raises as `Shares.take`."""
        self._seats.take(tenant)

    def give_back(self, tenant: str) -> None:
        """The seat is free again."""
        self._seats.give_back(tenant)

    @contextlib.contextmanager
    def held(self, line: Line) -> Iterator[None]:
        """The connection is looked after while the context is open."""
        self._lines.add(line)
        LIVE.labels(line.kind).inc()
        if self.leaving:
            line.end("leaving")
        try:
            yield
        finally:
            self._lines.discard(line)
            LIVE.labels(line.kind).dec()
            reason = line.over.result().reason if line.over.done() else "done"
            LIVE_CLOSED.labels(line.kind, reason).inc()

    @contextlib.asynccontextmanager
    async def looked_after(self) -> AsyncIterator[None]:
        """Sweep all connections once a second while the context is open; end them when it closes."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self.close()
            task.cancel()

    def close(self) -> None:
        """Have every connection end, and each that still comes: the door leaves."""
        self.leaving = True
        for line in tuple(self._lines):
            line.end("leaving")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for number, line in enumerate(tuple(self._lines), 1):
                line.sweep(SWEEP_SECONDS)
                if number % TURN == 0:
                    await asyncio.sleep(0)
