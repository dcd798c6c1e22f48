"""A TCP proxy that does what networks do: delay, cut, fall silent, close one half, crawl, swallow.

It runs on a thread of its own, so that a test that blocks does not slow what it breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Literal

CHUNK = 64 * 1024

Ill = Literal["reset", "refuse", "black hole", "half open"]


@dataclass(frozen=True, slots=True)
class Toxin:
    """What is wrong with the network. `latency` and `jitter` are seconds each way, `bandwidth` bytes a second.

    `reset` cuts every connection as soon as it is used, `refuse` closes new ones at once and cuts those there are,
    `black hole` takes bytes and passes none on, `half open` passes on what is asked and swallows the answers.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    ill: Ill | None = None


WELL = Toxin()


class ToxicProxy:
    """Listens on `port` and passes on to `target`; `infect` and `cure` may be called from any thread."""

    def __init__(self, target: int, *, chance: Iterator[float]) -> None:
        self._target = target
        self._chance = chance
        self._loop = asyncio.new_event_loop()
        self._links: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{target}", daemon=True)
        self.toxin = WELL
        self.port = 0
        self.connections = 0

    def start(self) -> None:
        """Listen on a free port of the loopback."""
        self._thread.start()
        self._ready.wait(5.0)

    def stop(self) -> None:
        """Cut everything and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def infect(self, toxin: Toxin) -> None:
        """From now on the network is like this. Connections that are there feel it too."""
        self._loop.call_soon_threadsafe(self._change, toxin)

    def cure(self) -> None:
        """All is well again. What was swallowed stays swallowed, so links that lost bytes are cut."""
        self.infect(WELL)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()
        for link in self._links:
            link.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._links, return_exceptions=True))
        self._loop.close()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()

    def _change(self, toxin: Toxin) -> None:
        lossy = self.toxin.ill in {"black hole", "half open"}
        self.toxin = toxin
        if lossy or toxin.ill == "refuse":
            for link in list(self._links):
                link.cancel()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            if self.toxin.ill != "refuse":
                await self._link(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(task)
            writer.transport.abort()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        pumps = [
            asyncio.create_task(self._pump(reader, back, answers=False)),
            asyncio.create_task(self._pump(there, writer, answers=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while chunk := await source.read(CHUNK):
            toxin = self.toxin
            if toxin.ill == "reset":
                return
            if toxin.ill == "black hole" or (toxin.ill == "half open" and answers):
                continue
            await self._drag(toxin, len(chunk))
            sink.write(chunk)
            await sink.drain()

    async def _drag(self, toxin: Toxin, size: int) -> None:
        """Wait as long as the bytes would be under way; a cure ends the waiting."""
        seconds = toxin.latency + toxin.jitter * next(self._chance)
        if toxin.bandwidth:
            seconds += size / toxin.bandwidth
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)


@contextlib.contextmanager
def toxic_proxy(target: int, *, chance: Iterator[float]) -> Iterator[ToxicProxy]:
    """A running proxy before a port of the loopback. `chance` gives numbers from 0 to 1 for the jitter."""
    proxy = ToxicProxy(target, chance=chance)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@contextlib.asynccontextmanager
async def infected(proxy: ToxicProxy, toxin: Toxin) -> AsyncIterator[None]:
    """The proxy is ill for the length of the block."""
    proxy.infect(toxin)
    try:
        yield
    finally:
        proxy.cure()
