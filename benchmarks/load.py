"""The load on the door, made in a process of its own so that it can be told apart from what it measures.

It reads one JSON task a line from standard input. To each it answers twice on standard output: `{"prepared": n}` once
the bodies are built, and, after a line `go`, the JSON of an `Outcome`.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvloop
from nats.aio.msg import Msg
from pydantic import BaseModel, Field

from engram_contracts.events import Progress
from engram_contracts.topology import event_subject
from engram_runtime.nats_bus import open_bus
from engram_runtime.settings import NatsSettings

SETTLE_SECONDS = 60.0
PATIENCE = 120.0


class Task(BaseModel):
    """What to send, to whom, how fast.

    `bodies` go out in order, `keys` in turn. Without a `rate` (requests a second) as fast as `connections` allow,
    each sending its next when the last was answered. With a rate, each is due at its time, whatever became of the
    ones before, and its latency counts from when it was due. `follow` names the broker whose progress events tell
    when each memory could be recalled, and when the graph had linked it.
    """

    url: str
    path: str
    bodies: list[str]
    keys: list[str]
    connections: int = 8
    rate: float | None = None
    follow: dict[str, str] | None = None


class Outcome(BaseModel):
    """What came of a task, in seconds where the name does not say milliseconds.

    `answered`, `searchable` and `linked` run from the first request to the last answer and the last event.
    `answer_ms` runs from sending (or from being due) to the answer, `searchable_ms` from the moment an answer was read
    to the moment the event `indexed` was, `late_ms` is how far the generator itself fell behind at worst. `busy` counts
    requests refused for now, in whole or in part, and sent again; `unseen` memories whose events did not come. `cpu` is
    the generator's own.
    """

    answered: float
    cpu: float
    answer_ms: list[float]
    busy: int
    late_ms: float
    searchable: float = 0.0
    linked: float = 0.0
    searchable_ms: list[float] = Field(default_factory=list)
    unseen: int = 0


class Sender:
    """Sends a task's bodies and notes when each was answered."""

    def __init__(self, task: Task, session: aiohttp.ClientSession, watch: Watch | None) -> None:
        self._task = task
        self._session = session
        self._watch = watch
        content = {"Content-Type": "application/json"}
        self._headers = [{"Authorization": f"Bearer {key}", **content} for key in task.keys]
        self._payloads = [body.encode() for body in task.bodies]
        self.answer_ms: list[float] = []
        self.busy = 0
        self.late = 0.0

    async def flood(self) -> None:
        """All bodies, as fast as the connections allow."""
        numbers = iter(range(len(self._payloads)))

        async def connection() -> None:
            for number in numbers:
                await self._send(number, time.perf_counter())

        await asyncio.gather(*(connection() for _ in range(self._task.connections)))

    async def pace(self, rate: float) -> None:
        """Each body at its time."""
        began = time.perf_counter()
        sending = []
        for number in range(len(self._payloads)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self.late = max(self.late, time.perf_counter() - due)
            sending.append(asyncio.create_task(self._send(number, due)))
        await asyncio.gather(*sending)

    async def _send(self, number: int, since: float) -> None:
        deadline = time.perf_counter() + PATIENCE
        left, pause = await self._try(number, self._payloads[number])
        while left is not None:
            self.busy += 1
            if time.perf_counter() > deadline:
                raise TimeoutError(f"refused for {PATIENCE:g} s")
            await asyncio.sleep(pause)
            left, pause = await self._try(number, left)
        self.answer_ms.append(1_000 * (time.perf_counter() - since))

    async def _try(self, number: int, payload: bytes) -> tuple[bytes | None, float]:
        """Send once; what is left to be sent again, and after how many seconds."""
        headers = self._headers[number % len(self._headers)]
        async with self._session.post(self._task.url + self._task.path, data=payload, headers=headers) as answer:
            body = await answer.read()
        if answer.status in (429, 503):
            return payload, float(answer.headers.get("Retry-After", "1"))
        if answer.status >= 300:
            raise RuntimeError(f"{self._task.path} answered {answer.status}: {body[:300]!r}")
        if self._watch is None:
            return None, 0.0
        refused = self._watch.accepted(body)
        return (only(payload, refused), 1.0) if refused else (None, 0.0)


def only(payload: bytes, places: Sequence[int]) -> bytes:
    """A bulk request with the memories at these places alone."""
    memories = json.loads(payload)["memories"]
    return json.dumps({"memories": [memories[place] for place in places]}).encode()


class Watch:
    """Matches answers with the events that say how far each memory is."""

    def __init__(self) -> None:
        self._accepted: dict[str, float] = {}
        self._reached: dict[str, dict[str, float]] = {"indexed": {}, "linked": {}}

    def accepted(self, body: bytes) -> list[int]:
        """Note the ids in an answer; the places of memories that were refused for now."""
        now = time.perf_counter()
        data = json.loads(body)["data"]
        outcomes = data.get("memories", [data])
        self._accepted.update((one["id"], now) for one in outcomes if "id" in one)
        return [place for place, one in enumerate(outcomes) if "id" not in one]

    async def told(self, message: Msg) -> None:
        """Note the ids in an event."""
        now = time.perf_counter()
        event = json.loads(message.data)
        reached = self._reached.get(event["stage"])
        if reached is not None:
            reached.update((memory_id, now) for memory_id in event["memory_ids"])

    async def settle(self) -> None:
        """Wait for the events of all that was accepted."""
        deadline = time.perf_counter() + SETTLE_SECONDS
        while self.unseen and time.perf_counter() < deadline:
            await asyncio.sleep(0.1)

    @property
    def unseen(self) -> int:
        """Accepted memories of which not every event has come."""
        return max(len(self._accepted.keys() - reached.keys()) for reached in self._reached.values())

    def last(self, stage: str) -> float:
        """When the last accepted memory reached a stage."""
        reached = self._reached[stage]
        return max((reached[one] for one in self._accepted if one in reached), default=0.0)

    def delays_ms(self) -> list[float]:
        """From the answer to being indexed, for each memory."""
        indexed = self._reached["indexed"]
        return [1_000 * (indexed[one] - at) for one, at in self._accepted.items() if one in indexed]


async def perform(task: Task) -> Outcome:
    """Send everything of a task, and wait for its events where they are followed."""
    connector = aiohttp.TCPConnector(limit=0 if task.rate else task.connections)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with watching(task.follow) as watch, aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        sender = Sender(task, session, watch)
        began, cpu = time.perf_counter(), _cpu()
        await (sender.pace(task.rate) if task.rate else sender.flood())
        answered = time.perf_counter() - began
        seen = await _seen(watch, began) if watch else {}
        return Outcome(
            answered=answered,
            cpu=_cpu() - cpu,
            answer_ms=sender.answer_ms,
            busy=sender.busy,
            late_ms=1_000 * sender.late,
            **seen,
        )


async def _seen(watch: Watch, began: float) -> dict[str, Any]:
    await watch.settle()
    return {
        "searchable": watch.last("indexed") - began,
        "linked": watch.last("linked") - began,
        "searchable_ms": watch.delays_ms(),
        "unseen": watch.unseen,
    }


@asynccontextmanager
async def watching(broker: dict[str, str] | None) -> AsyncIterator[Watch | None]:
    """Listens to the progress of every tenant while the context is open."""
    if broker is None:
        yield None
        return
    watch = Watch()
    async with open_bus(NatsSettings.model_validate(broker), name="engram-bench") as bus:
        await bus.client.subscribe(event_subject("*", Progress.event), cb=watch.told)
        await bus.client.flush()
        yield watch


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Perform tasks until standard input ends."""
    for line in sys.stdin:
        task = Task.model_validate_json(line)
        _tell(json.dumps({"prepared": len(task.bodies)}))
        sys.stdin.readline()
        _tell(uvloop.run(perform(task)).model_dump_json())


def _tell(line: str) -> None:
    """Write a line straight to the descriptor: the end of long ones (1.6 MB) got lost in `sys.stdout` now and then."""
    left = line.encode() + b"\n"
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


if __name__ == "__main__":
    main()
