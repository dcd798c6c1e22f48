"""Handles on load generators: processes that are told what to send and tell what came of it."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.load import Outcome, Task
from support.servers import ROOT

LONGEST_LINE = 1 << 30


class Generator:
    """One load generator."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def perform(self, task: Task) -> Outcome:
        """Prepare a task and do it."""
        await self.prepare(task)
        return await self.go()

    async def prepare(self, task: Task) -> None:
        """Hand over a task; it is ready to go when this returns."""
        await self._say(task.model_dump_json())
        await self._hear()

    async def go(self) -> Outcome:
        """Do the task that was prepared. Raises what the generator died of."""
        await self._say("go")
        return Outcome.model_validate_json(await self._hear())

    async def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def _hear(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load generator ended with {await self._process.wait()}; see its words above")
        return line


@asynccontextmanager
async def generator() -> AsyncIterator[Generator]:
    """A load generator, ended with the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.load", stdin=PIPE, stdout=PIPE, cwd=ROOT, limit=LONGEST_LINE
    )
    try:
        yield Generator(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
