"""Delays beyond a minute, and a probe that hangs: neither keeps others waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engram_contracts.errors import Internal, Unavailable
from engram_contracts.events import JobTrouble
from engram_contracts.retry import Retry
from engram_contracts.topology import DUE, JOBS, SCHEDULE
from engram_runtime.breaker import Breaker
from engram_runtime.bus import Entry
from engram_runtime.delivery import Later, Postpone, decide
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus
from engram_runtime.service import Delivery, Outcome, Service
from engram_runtime.settings import Common
from support.burying import connected, forget, until, working
from support.servers import NatsServer, nats_server

RECOVERY = Service(name="recovery", returns=(DUE,))


@pytest.fixture
def server(tmp_path: Path):
    with nats_server(tmp_path / "nats") as running:
        yield running


async def test_a_delay_over_a_minute_leaves_the_stream_and_the_job_says_so(server: NatsServer) -> None:
    async def busy(batch: Sequence[Delivery]) -> list[Outcome]:
        return [Internal("come back in two minutes", retry_after=120.0)] * len(batch)

    command, entry = forget()
    async with connected(server) as bus, working(server, busy):
        await bus.append([entry])
        await until(lambda: messages(bus, SCHEDULE.name), 1)
        await until(lambda: messages(bus, "ENGRAM_WORK"), 0)
        kept = await bus.bucket(JOBS).get(f"acme.{command.id}")
        waiting = await bus.jetstream.get_last_msg(SCHEDULE.name, "engram.schedule.wait.*")

    trouble = JobTrouble.model_validate_json(kept or b"")
    assert (trouble.state, trouble.attempt, trouble.waits_outside) == ("retrying", 1, True)
    assert waiting.data == entry.body
    assert trouble.next_at and 100 < (trouble.next_at - datetime.now(UTC)).total_seconds() < 130


async def test_what_is_due_comes_back_with_its_tries(server: NatsServer) -> None:
    attempts: list[str] = []

    async def refuse(batch: Sequence[Delivery]) -> list[Outcome]:
        attempts.extend(item.message.id for item in batch)
        return [Internal("still broken", retry_after=120.0)] * len(batch)

    command, entry = forget()
    due = Entry(
        subject=f"engram.schedule.due.{entry.subject}",
        body=entry.body,
        id="due",
        headers={"Engram-Attempts": "7", "Engram-First-At": "2026-01-01T00:00:00+00:00", "Engram-First-Id": command.id},
    )
    async with connected(server) as bus, working(server, refuse), hosted(RECOVERY, bus, Common()):
        await bus.append([due])
        await until(lambda: messages(bus, "ENGRAM_DEAD"), 1)
        dead = await bus.jetstream.get_last_msg("ENGRAM_DEAD", "engram.dead.embedder.acme")

    assert attempts == [command.id]
    assert dead.headers["Engram-Dead-Why"] == "worn out"
    assert dead.headers["Engram-Dead-Attempts"] == "8"
    assert dead.headers["Engram-Dead-First"] == "2026-01-01T00:00:00+00:00"
    assert dead.headers["Engram-Original-Engram-First-Id"] == command.id


async def test_the_server_sends_a_postponed_message_when_it_is_due(server: NatsServer) -> None:
    tries: list[int] = []
    _, entry = forget()
    soon = datetime.now(UTC).timestamp() + 1.5
    at = datetime.fromtimestamp(soon, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    headers = {
        "Nats-Schedule": f"@at {at}",
        "Nats-Schedule-Target": f"engram.schedule.due.{entry.subject}",
        "Engram-Attempts": "2",
    }

    async def take(batch: Sequence[Delivery]) -> list[Outcome]:
        tries.append(len(batch))
        return [None] * len(batch)

    async with connected(server) as bus, working(server, take), hosted(RECOVERY, bus, Common()):
        await bus.append([Entry(subject="engram.schedule.wait.x-1", body=entry.body, id="x", headers=headers)])
        await until(lambda: tries, [1])
        came = datetime.now(UTC).timestamp()
        await until(lambda: messages(bus, SCHEDULE.name), 0)

    assert soon - 0.05 <= came < soon + 2.0


def test_up_to_a_minute_is_waited_for_in_hand() -> None:
    retry = Retry(jitter=0.0)

    assert decide(Unavailable("x", retry_after=60), attempt=1, retry=retry, chance=0.5) == Later(60)
    assert decide(Unavailable("x", retry_after=61), attempt=1, retry=retry, chance=0.5) == Postpone(61)
    assert decide(Unavailable("x", retry_after=1e9), attempt=1, retry=retry, chance=0.5) == Postpone(86_400)


async def test_a_probe_that_hangs_keeps_no_other_from_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram_runtime.breaker.PROBE_SECONDS", 0.05)
    breaker = Breaker("test")
    breaker.trip(Unavailable("away"))
    hanging, tried = asyncio.Event(), asyncio.Event()

    async def probe(work: asyncio.Event | None) -> None:
        async with breaker.probing.taken():
            assert await breaker.pause()
            tried.set() if work is None else await work.wait()

    first = asyncio.create_task(probe(hanging))
    second = asyncio.create_task(probe(None))
    async with asyncio.timeout(5):
        await tried.wait()

    assert not first.done()
    hanging.set()
    await asyncio.gather(first, second)


async def messages(bus: NatsBus, stream: str) -> int:
    return (await bus.jetstream.stream_info(stream)).state.messages
