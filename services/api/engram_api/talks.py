"""Following one command as it is worked on: its answer piece by piece, its stages, its tries, its end.

Events come over core NATS and may be missed, so the parts that know are asked as well, now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from engram_api import telling
from engram_api.jobs import job
from engram_api.lines import Outlet
from engram_api.telling import Frame, Pieces
from engram_api.waits import Waits
from engram_api.whereabouts import OVER, Whereabouts
from engram_contracts.answers import AcceptedQuestion, Job
from engram_contracts.errors import EngramError
from engram_contracts.events import JobTrouble, Progress, Said, Thinking
from engram_contracts.facts import Thought
from engram_contracts.ids import JobId
from engram_runtime.bus import Bus

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
LAST_SECONDS = 0.25
"""So long the last pieces of an answer may come behind the answer itself, which takes another way."""
MOST_PIECES = 10_000
"""So many events wait for a client; further pieces of an answer are left out, and come with the whole of it."""
ENDS = ("done", *OVER)

Heard = Progress | Thinking | Said


class Ear:
    """Hears of one command, from `open` on: who opens it before the command is written misses nothing of the answer."""

    def __init__(self, bus: Bus, waits: Waits, tenant: str, command: str) -> None:
        self.tenant = tenant
        self.command = command
        self._bus = bus
        self._waits = waits
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Begin to listen."""
        begun = asyncio.Event()
        task = asyncio.create_task(self._listen(begun))
        self._stack.callback(task.cancel)
        await self._stack.enter_async_context(self._waits.told(self.tenant, self.command, self._take))
        await begun.wait()

    async def next(self, within: float) -> Heard | None:
        """The next event, or `None` where none comes in time."""
        try:
            async with asyncio.timeout(within):
                return await self._heard.get()
        except TimeoutError:
            return None

    async def close(self) -> None:
        """Stop listening. A repeat does nothing."""
        await self._stack.aclose()

    def _take(self, _: str, event: Progress | Thinking) -> None:
        self._heard.put_nowait(event)

    async def _listen(self, begun: asyncio.Event) -> None:
        try:
            async with self._bus.events(self.tenant, Said, about=self.command) as pieces:
                begun.set()
                async for said in pieces:
                    if self._heard.qsize() < MOST_PIECES:
                        self._heard.put_nowait(said)
        except Exception as error:
            log.warning("pieces not heard", extra={"tenant_id": self.tenant, "error": repr(error)})
        finally:
            begun.set()


class ThinkTalk:
    """A question, streamed until it is answered or given up. `repeated` says that it was asked before."""

    def __init__(self, ear: Ear, whereabouts: Whereabouts, *, job_id: str, question: str, repeated: bool) -> None:
        self._ear = ear
        self._whereabouts = whereabouts
        self._job_id = job_id
        self._question = question
        self._repeated = repeated

    async def play(self, outlet: Outlet) -> None:
        """See `Stream.play`."""
        await outlet.tell("accepted", AcceptedQuestion(job=self._job_id))
        async for frame in self._frames():
            await outlet.tell(frame.event, frame.data)

    async def close(self) -> None:
        """See `Stream.close`."""
        await self._ear.close()

    async def _frames(self) -> AsyncIterator[Frame]:
        pieces = Pieces()
        end = await self._look() if self._repeated else []
        while not end:
            heard = await self._ear.next(LOOK_SECONDS)
            if isinstance(heard, Said):
                for frame in pieces.take(heard):
                    yield frame
            elif isinstance(heard, Progress) and heard.stage == "retrying":
                for frame in pieces.fail(heard):
                    yield frame
            elif isinstance(heard, Thinking):
                async for frame in self._last(pieces, heard):
                    yield frame
                end = telling.answered(self._job_id, self._question, heard.thought)
            elif heard is None or heard.stage in OVER:
                end = await self._look()
        for frame in end:
            yield frame

    async def _last(self, pieces: Pieces, thinking: Thinking) -> AsyncIterator[Frame]:
        while not pieces.through(thinking) and isinstance(said := await self._ear.next(LAST_SECONDS), Said):
            for frame in pieces.take(said):
                yield frame

    async def _look(self) -> list[Frame]:
        """How it ended, as far as the parts that answer can tell; nothing while it goes on."""
        found = await _end(self._whereabouts, self._ear.tenant, self._ear.command)
        if isinstance(found, Thought):
            return telling.answered(self._job_id, self._question, found)
        return telling.ended(found) if found is not None else []


class JobTalk:
    """A job of any kind, streamed until it has ended. `told` is how it stands now."""

    def __init__(self, ear: Ear, whereabouts: Whereabouts, *, named: JobId, told: Job) -> None:
        self._ear = ear
        self._whereabouts = whereabouts
        self._named = named
        self._told = told

    async def play(self, outlet: Outlet) -> None:
        """See `Stream.play`."""
        await outlet.tell("job", self._told)
        pieces = Pieces()
        while self._told.state not in ENDS:
            heard = await self._ear.next(LOOK_SECONDS)
            for frame in _frames(heard, pieces):
                await outlet.tell(frame.event, frame.data)
            if not isinstance(heard, Said):
                await self._look()
        await outlet.tell("done", self._told)

    async def close(self) -> None:
        """See `Stream.close`."""
        await self._ear.close()

    async def _look(self) -> None:
        seen = await self._whereabouts.sight(self._ear.tenant, self._named)
        self._told = job(self._told.id, self._named.command, seen)


def _frames(heard: Heard | None, pieces: Pieces) -> list[Frame]:
    if isinstance(heard, Said):
        return pieces.take(heard)
    if isinstance(heard, Thinking):
        return telling.rests_on(heard.thought)
    if heard is None:
        return []
    return pieces.fail(heard) if heard.stage == "retrying" else [telling.reached(heard)]


async def _end(whereabouts: Whereabouts, tenant: str, command: str) -> Thought | JobTrouble | None:
    with contextlib.suppress(EngramError):
        record = await whereabouts.record(tenant, command)
        if record is not None and record.thought is not None:
            return record.thought
    with contextlib.suppress(EngramError):
        trouble = await whereabouts.trouble(tenant, command)
        if trouble is not None and trouble.state in OVER:
            return trouble
    return None
