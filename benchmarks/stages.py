"""What is done to a running Engram to measure it, a stage at a time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.generator import Generator, generator
from benchmarks.layout import BIG, SMALL
from benchmarks.load import Outcome, Task
from benchmarks.machine import Spent, Stopwatch
from benchmarks.texts import Texts
from engram import broker
from engram_contracts.questions import CountIndexed, CountRecorded
from engram_contracts.topology import STREAMS
from engram_runtime.keys import create_key, create_tenant, load_pepper
from engram_runtime.nats_bus import NatsBus, open_bus
from support.system import System

QUIET_SECONDS = 120.0
CONNECTIONS = 8
SINGLE_CONNECTIONS = 32
RECALLS_PER_S = 50
GENERATOR = "load generator"


@dataclass(frozen=True)
class Rig:
    """A running Engram with keys for every tenant, and two generators to load it with."""

    system: System
    bus: NatsBus
    keys: dict[str, str]
    first: Generator
    second: Generator
    texts: Texts

    def pids(self) -> dict[str, int]:
        """Every process of Engram, the supervisor among them."""
        return {**self.system.pids, "supervisor": self.system.process.pid}

    def follow(self) -> dict[str, str]:
        """How a generator reaches the broker."""
        password = broker.password(self.system.data_dir / "nats")
        return {"url": self.system.nats.url, "user": broker.USER, "password": password}


@asynccontextmanager
async def rigged(system: System, texts: Texts) -> AsyncIterator[Rig]:
    """Keys and generators for a system; it is warm when the context is entered."""
    async with open_bus(system.nats, name="engram-bench") as bus, generator() as first, generator() as second:
        pepper = load_pepper(system.data_dir, None)
        keys = {tenant: await _key(bus, tenant, pepper) for tenant in (*SMALL, BIG)}
        rig = Rig(system, bus, keys, first, second, texts)
        await flood(rig, SMALL, batch=5)
        await recall(rig, SMALL, count=40)
        yield rig


async def _key(bus: NatsBus, tenant: str, pepper: bytes) -> str:
    await create_tenant(bus, tenant)
    return await create_key(bus, tenant, "writer", "bench", pepper)


@dataclass(frozen=True)
class Done:
    """What came of so many things done, and what they took until everything that follows from them was done too."""

    count: int
    outcome: Outcome
    spent: Spent

    @property
    def accepted_per_s(self) -> float:
        """Answers a second, from the first request to the last answer."""
        return self.count / self.outcome.answered

    @property
    def searchable_per_s(self) -> float:
        """Memories that could be recalled a second, from the first request to the last event."""
        return self.count / self.outcome.searchable

    @property
    def linked_per_s(self) -> float:
        """Memories in the record and the graph a second, from the first request to the last event."""
        return self.count / self.outcome.linked

    def each_ms(self) -> dict[str, float]:
        """Milliseconds of processor for each, by process."""
        return self.spent.each_ms(self.count)


async def flood(rig: Rig, tenants: Sequence[str], *, batch: int) -> Done:
    """A request of `batch` memories for each of these tenants in turn, as fast as they are taken."""
    connections = CONNECTIONS if batch > 1 else SINGLE_CONNECTIONS
    expected = await stored(rig.bus) + batch * len(tenants)
    done = await _do(rig, rig.first, writes(rig, tenants, batch=batch, connections=connections), batch)
    assert not done.outcome.unseen, f"{done.outcome.unseen} memories were accepted but never seen indexed and linked"
    assert await stored(rig.bus) == expected, f"{await stored(rig.bus)} memories are stored, not {expected}"
    return done


async def pace(rig: Rig, *, rate: float, seconds: float, wait: bool = False) -> Done:
    """Single writes at a rate, over the small tenants in turn; with `wait` each is answered when it can be recalled."""
    tenants = [SMALL[number % len(SMALL)] for number in range(int(rate * seconds))]
    return await _do(rig, rig.first, writes(rig, tenants, batch=1, rate=rate, wait=wait))


async def recall(rig: Rig, tenants: Sequence[str], *, count: int) -> Done:
    """Recalls one after the other, from these tenants in turn."""
    return await _do(rig, rig.second, asks(rig, tenants, rig.texts.questions(count)))


async def recall_again(rig: Rig, tenants: Sequence[str], *, count: int) -> Done:
    """Recalls one after the other, each of which was made before, with nothing written meanwhile."""
    task = asks(rig, tenants, rig.texts.questions(count))
    await _do(rig, rig.second, task)
    return await _do(rig, rig.second, task)


async def think(rig: Rig, *, count: int) -> Done:
    """Questions to think about, one after the other."""
    bodies = [json.dumps({"question": question}) for question in rig.texts.questions(count)]
    keys = [rig.keys[tenant] for tenant in SMALL]
    return await _do(
        rig, rig.second, Task(url=rig.system.url, path="/v1/think", bodies=bodies, keys=keys, connections=1)
    )


async def _do(rig: Rig, generator: Generator, task: Task, each: int = 1) -> Done:
    await generator.prepare(task)
    stopwatch = Stopwatch(rig.pids())
    outcome = await generator.go()
    await quiet(rig.bus)
    return Done(each * len(task.bodies), outcome, stopwatch.stop(**{GENERATOR: outcome.cpu}))


async def recall_under_ingest(rig: Rig, *, rate: int, seconds: float) -> Done:
    """Recalls at a steady rate while memories come in, in requests of ten where there are many."""
    batch = 1 if rate <= 200 else 10
    tenants = [SMALL[number % len(SMALL)] for number in range(int(rate * (seconds + 2) / batch))]
    await rig.first.prepare(writes(rig, tenants, batch=batch, rate=rate / batch))
    writing = asyncio.create_task(rig.first.go())
    await asyncio.sleep(1.0)
    questions = rig.texts.questions(int(RECALLS_PER_S * seconds))
    done = await _do(rig, rig.second, asks(rig, SMALL, questions, rate=RECALLS_PER_S))
    await writing
    return done


def writes(
    rig: Rig,
    tenants: Sequence[str],
    *,
    batch: int,
    connections: int = CONNECTIONS,
    rate: float | None = None,
    wait: bool = False,
) -> Task:
    """Requests to remember, one for each of these tenants in turn."""
    texts = iter(rig.texts.texts(batch * len(tenants)))
    memories = [[memory(next(texts), number) for _ in range(batch)] for number in range(len(tenants))]
    return Task(
        url=rig.system.url,
        path="/v1/memories?wait=indexed" if wait else "/v1/memories",
        bodies=[json.dumps(some[0] if batch == 1 else {"memories": some}) for some in memories],
        keys=[rig.keys[tenant] for tenant in tenants],
        connections=connections,
        rate=rate,
        follow=None if wait else rig.follow(),
    )


def asks(rig: Rig, tenants: Sequence[str], questions: Sequence[str], *, rate: float | None = None) -> Task:
    """Recalls of ten, from these tenants in turn; one at a time where there is no rate."""
    bodies = [json.dumps({"query": question, "limit": 10}) for question in questions]
    keys = [rig.keys[tenant] for tenant in tenants]
    return Task(url=rig.system.url, path="/v1/recall", bodies=bodies, keys=keys, connections=1, rate=rate)


def memory(text: str, number: int) -> dict[str, Any]:
    """A memory as an agent would send it."""
    user = f"user-{number % 50}"
    return {
        "content": text,
        "kind": "episode",
        "user_id": user,
        "session_id": f"{user}/session-{number % 7}",
        "speaker": "user",
        "occurred_at": "2026-11-02T10:00:00Z",
    }


async def stored(bus: NatsBus) -> int:
    """Memories of all tenants, which index and record must agree on. Raises when they do not."""
    counts = []
    for kind in (CountIndexed, CountRecorded):
        asked = [bus.ask(kind(tenant=tenant), within=10.0) for tenant in (*SMALL, BIG)]
        counts.append(sum(count.memories for count in await asyncio.gather(*asked)))
    assert counts[0] == counts[1], f"{counts[0]} memories can be recalled, {counts[1]} are on record"
    return counts[0]


async def quiet(bus: NatsBus) -> None:
    """Return once no consumer has anything left to do. Raises `TimeoutError` naming those that have."""
    deadline = time.monotonic() + QUIET_SECONDS
    while waiting := await _waiting(bus):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {QUIET_SECONDS:g} s work is still waiting: {waiting}")
        await asyncio.sleep(0.2)


async def _waiting(bus: NatsBus) -> dict[str, int]:
    """What each consumer has left, without the one that is worked off only where a model extracts."""
    per_stream = [await bus.jetstream.consumers_info(stream.name) for stream in STREAMS]
    left = {one.name: (one.num_pending or 0) + (one.num_ack_pending or 0) for infos in per_stream for one in infos}
    return {name: count for name, count in left.items() if count}
