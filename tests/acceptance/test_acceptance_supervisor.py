"""One machine, every process killed in turn while writes go on: it comes back, and nothing accepted is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.errors import Error as NatsError

from engram.settings import Settings
from engram.supervisor import Supervisor
from engram_contracts.errors import Conflict
from engram_runtime.nats_bus import NatsBus, open_bus
from support.system import System, embedded_system

BACK_WITHIN = 20.0
READY_WITHIN = 20.0
"""Generous: other tests may share the processors. What the machine does alone is measured in benchmarks/."""
IDLE_MEGABYTES = 700
SETTLED_WITHIN = 60.0
TRY_AGAIN = (aiohttp.ClientError, TimeoutError)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("supervised")) as running:
        yield running


@asynccontextmanager
async def client(system: System) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(system.url, headers=system.headers, timeout=timeout) as session:
        yield session


class Writer:
    """Sends one memory after another, each until it is accepted; `jobs` by key holds what was."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.jobs: dict[str, dict[str, str]] = {}
        self.refusals = 0

    async def write(self) -> None:
        for number in range(1_000_000):
            key = f"kill-{number}"
            while key not in self.jobs:
                with suppress(*TRY_AGAIN):
                    await self._try(key)
                await asyncio.sleep(0.01)

    async def _try(self, key: str) -> None:
        body = {"content": f"Entry {key} of the night watch.", "key": key}
        async with self._session.post("/v1/memories", json=body) as answer:
            if answer.status in (200, 201, 202):
                self.jobs[key] = (await answer.json())["data"]
            else:
                self.refusals += 1


async def get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        return (await answer.json())["data"]


async def seconds_until_back(system: System, bus: NatsBus, name: str, old: int) -> float:
    """From now until every process that is to run says on the bus that it is ready, this one under another id."""
    began = time.monotonic()
    while time.monotonic() - began < READY_WITHIN:
        with suppress(NatsError):
            ready = {pong.pid for pong in await bus.ping_all(within=0.1) if pong.ready}
            pids = system.pids
            if pids[name] != old and {pid for service, pid in pids.items() if service != "nats"} <= ready:
                return time.monotonic() - began
    raise AssertionError(f"{name} is not back after {READY_WITHIN:g} s\n{system.logs()}")


async def until_done(session: aiohttp.ClientSession, jobs: list[str]) -> list[tuple[str, str]]:
    """Jobs that are not done, with their states, once all are or time is up."""
    deadline = time.monotonic() + SETTLED_WITHIN
    left = [(job, "unknown") for job in jobs]
    while left and time.monotonic() < deadline:
        states = [(job, (await get(session, f"/v1/jobs/{job}"))["state"]) for job, _ in left]
        left = [(job, state) for job, state in states if state != "done"]
        await asyncio.sleep(0.05)
    return left


def proportional_megabytes(pid: int) -> float:
    """The share of memory that is this process's own, pages shared with others divided among them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss")


def test_it_is_ready_soon(system: System) -> None:
    assert system.ready_after < READY_WITHIN


def test_it_idles_in_little_memory(system: System) -> None:
    pids = [system.process.pid, *system.pids.values()]

    total = sum(proportional_megabytes(pid) for pid in pids)

    assert total < IDLE_MEGABYTES


async def test_every_process_that_is_killed_comes_back_and_nothing_accepted_is_missing(system: System) -> None:
    async with client(system) as session, open_bus(system.nats, name="engram-tests") as bus:
        writer = Writer(session)
        writing = asyncio.create_task(writer.write())
        took = {}
        for name in system.pids:
            count = len(writer.jobs)
            old = system.pids[name]
            os.kill(old, signal.SIGKILL)
            took[name] = await seconds_until_back(system, bus, name, old)
            await until(lambda count=count: len(writer.jobs) > count + 20)
        writing.cancel()

        accepted = writer.jobs
        undone = await until_done(session, [made["job"] for made in accepted.values()])
        listed = await get(session, "/v1/memories?limit=1")
        lost = [key for key, made in accepted.items() if (await get(session, f"/v1/memories/{made['id']}")) is None]

    assert {name: seconds for name, seconds in took.items() if seconds > BACK_WITHIN} == {}
    assert undone == []
    assert lost == []
    assert len({made["id"] for made in accepted.values()}) == len(accepted)
    assert len(accepted) <= listed["total"] <= len(accepted) + 1  # the last write may have been cut off unanswered


async def until(condition: Any, *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "writes do not go on"
        await asyncio.sleep(0.02)


def test_a_second_engram_on_the_same_data_is_refused(system: System) -> None:
    with pytest.raises(Conflict, match="another Engram runs on"):
        Supervisor(Settings(data_dir=system.data_dir), print).run()


def test_after_a_stop_and_a_start_everything_is_there(tmp_path: Path) -> None:
    with embedded_system(tmp_path) as first:
        asyncio.run(keep(first, "The ferry leaves at nine."))
        key = first.admin_key

    with embedded_system(tmp_path) as second:
        found = asyncio.run(recalled(second, "When does the ferry leave?"))

        assert second.admin_key == key
        assert found == ["The ferry leaves at nine."]


async def keep(system: System, content: str) -> None:
    async with client(system) as session, session.post("/v1/memories?wait=done", json={"content": content}) as answer:
        assert answer.status == 201, await answer.text()


async def recalled(system: System, query: str) -> list[str]:
    async with client(system) as session, session.post("/v1/recall", json={"query": query}) as answer:
        return [hit["memory"]["content"] for hit in (await answer.json())["data"]["hits"]]
