"""Waiting for what a command brings about: told by live events, checked where an event may have been missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

from engram_api.drafts import Draft
from engram_api.feeds import Feeds
from engram_api.whereabouts import OVER, Whereabouts
from engram_contracts.errors import FAMILY, EngramError, Internal
from engram_contracts.events import JobTrouble, Progress, Thinking
from engram_contracts.facts import Thought
from engram_contracts.questions import Stage
from engram_runtime.bus import Bus

RECHECK_SECONDS = 0.5
INDEXED: tuple[Stage, ...] = ("indexed",)
RECHECKED_AT_ONCE = 16


class Wait:
    """Something a request waits for. `end` stops the waiting, whatever was reached."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    def end(self) -> None:
        """Let the request go on."""
        self._over.set()

    async def until(self, seconds: float, recheck: Callable[[], Awaitable[None]], *, at_once: bool = False) -> None:
        """Return when it is over or time is up. `recheck` is called now if `at_once`, and every half second."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                if at_once:
                    await recheck()
                while not await self._told_within(RECHECK_SECONDS):
                    await recheck()

    async def _told_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return False
        return True


class ProgressWait(Wait):
    """Waits until each command has reached its stages, or is dead. `reached` says whether all of them did."""

    def __init__(self, drafts: Sequence[Draft], stages: Collection[Stage]) -> None:
        super().__init__()
        self._left = {draft.id: set(stages) for draft in drafts}
        self._drafts = {draft.id: draft for draft in drafts}
        self._dead = False

    @property
    def reached(self) -> bool:
        """Whether every command that was not dropped reached its stages."""
        return not self._left and not self._dead

    def left(self) -> list[Draft]:
        """Commands that are still waited for."""
        return [self._drafts[command] for command in self._left]

    def told(self, command: str, event: Progress) -> None:
        """Take note of an event."""
        if event.stage in OVER:
            self._dead = True
            self.drop(command)
        elif event.stage in ("indexed", "linked"):
            self.note(command, {event.stage})

    def note(self, command: str, stages: Collection[Stage]) -> None:
        """A command has reached these stages."""
        missing = self._left.get(command)
        if missing is not None:
            missing -= set(stages)
            if not missing:
                self.drop(command)

    def drop(self, command: str) -> None:
        """Wait no more for this command."""
        self._left.pop(command, None)
        if not self._left:
            self.end()


class ThoughtWait(Wait):
    """Waits for the answer to a question."""

    def __init__(self) -> None:
        super().__init__()
        self.thought: Thought | None = None
        self.failure: EngramError | None = None

    def told(self, _: str, event: Thinking) -> None:
        """Take the answer from an event."""
        self.note(event.thought)

    def note(self, thought: Thought) -> None:
        """The answer is there."""
        self.thought = thought
        self.end()

    def fail(self, trouble: JobTrouble) -> None:
        """There will be no answer."""
        self.failure = FAMILY.get(trouble.code, Internal)(trouble.reason)
        self.end()


class Waits:
    """All waiting requests of this process; `close` lets them go on at once."""

    def __init__(self, bus: Bus, whereabouts: Whereabouts) -> None:
        self._whereabouts = whereabouts
        self._progress = Feeds(bus, Progress, lambda event: event.commands)
        self._thinking = Feeds(bus, Thinking, lambda event: (event.thought.command,))
        self._waiting: set[Wait] = set()

    @contextlib.asynccontextmanager
    async def progress(
        self, tenant: str, drafts: Sequence[Draft], stages: Collection[Stage]
    ) -> AsyncIterator[ProgressWait]:
        """Listen for the progress of commands that are about to be published."""
        wait = ProgressWait(drafts, stages)
        ids = [draft.id for draft in drafts]
        async with self._progress.listen(tenant, ids, wait.told), self._counted(wait):
            yield wait

    @contextlib.asynccontextmanager
    async def thought(self, tenant: str, command: str) -> AsyncIterator[ThoughtWait]:
        """Listen for the answer to a question that is about to be published."""
        wait = ThoughtWait()
        async with self._thinking.listen(tenant, [command], wait.told), self._counted(wait):
            yield wait

    @contextlib.asynccontextmanager
    async def told(
        self, tenant: str, command: str, told: Callable[[str, Progress | Thinking], None]
    ) -> AsyncIterator[None]:
        """Have `told` called with everything that is announced of a command, while the context is open."""
        async with self._progress.listen(tenant, [command], told), self._thinking.listen(tenant, [command], told):
            yield

    async def look_for_progress(self, tenant: str, wait: ProgressWait) -> None:
        """Ask the parts about the first commands still waited for."""
        left = wait.left()[:RECHECKED_AT_ONCE]
        found = await asyncio.gather(*(self._whereabouts.stages(tenant, draft) for draft in left))
        for draft, stages in zip(left, found, strict=True):
            wait.note(draft.id, stages)

    async def unseen(self, tenant: str, commands: Sequence[str], seconds: float) -> list[str]:
        """Wait until the index shows what these commands did; those of which it does not, when time is up."""
        async with self.progress(tenant, [Draft("", each, b"") for each in commands], INDEXED) as wait:
            await wait.until(seconds, lambda: self._look_for_effects(tenant, wait), at_once=True)
            return [draft.id for draft in wait.left()]

    async def _look_for_effects(self, tenant: str, wait: ProgressWait) -> None:
        left = [draft.id for draft in wait.left()]
        shown = await asyncio.gather(*(self._whereabouts.shows(tenant, each) for each in left))
        for command, seen in zip(left, shown, strict=True):
            if seen:
                wait.note(command, {"indexed"})

    async def look_for_thought(self, tenant: str, command: str, wait: ThoughtWait) -> None:
        """Ask the record for the answer, and the jobs bucket whether there will be none."""
        with contextlib.suppress(EngramError):
            record = await self._whereabouts.record(tenant, command)
            if record and record.thought:
                wait.note(record.thought)
                return
        with contextlib.suppress(EngramError):
            trouble = await self._whereabouts.trouble(tenant, command)
            if trouble and trouble.state in OVER:
                wait.fail(trouble)

    def close(self) -> None:
        """Let every waiting request answer with what it has."""
        for wait in tuple(self._waiting):
            wait.end()

    @contextlib.asynccontextmanager
    async def _counted(self, wait: Wait) -> AsyncIterator[None]:
        self._waiting.add(wait)
        try:
            yield
        finally:
            self._waiting.discard(wait)
