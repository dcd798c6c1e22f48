"""Messages that cannot be handled, that kill or hang their worker: all dead with context, none in the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from engram.watchdog import STILL_SECONDS
from engram_contracts.commands import Remember
from engram_contracts.ids import new_id
from engram_contracts.memory import MemoryFields
from engram_contracts.recovery import ReplayStatus, Selection, StartReplay, StatusReplay
from engram_contracts.topology import WORK, work_subject
from engram_runtime.bus import Bus
from engram_runtime.nats_bus import NatsBus, open_bus
from support.audit import Buried, audit, dead_letters, letters_of, until_drained
from support.background import in_background
from support.chaos_results import Case
from support.fake_embeddings import FakeEmbeddings, fake_embeddings
from support.journal import Journal, Spans, p95_ms
from support.stormy import TENANTS, keys_for, kill, running, until_replaced
from support.system import System
from support.traffic import Mix, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3_600)]

DRAIN_SECONDS = 60.0
KILLER, HANGER, REFUSED = "assassin", "sleeper", "forbidden"
HEALTHY = 1.2
"""How much slower healthy traffic may get."""
POISON_TENANT = "quince"


@dataclass
class Trap:
    """Embeddings that do what a text says: one kills whoever asks, one never answers."""

    fake: FakeEmbeddings
    system: System | None = None
    killed: int = 0
    asked: list[str] = field(default_factory=list)

    async def reply(self, body: dict[str, Any]) -> web.StreamResponse:
        """Answer, kill or hang, whichever the texts ask for."""
        texts = " ".join(body["input"])
        if KILLER in texts and self.system is not None:
            self.killed += 1
            kill(self.system, "embedder")
        if HANGER in texts:
            await asyncio.sleep(600)
        if self.fake.refused and self.fake.refused in texts:
            return web.json_response({"error": {"message": "input is not acceptable"}}, status=400)
        return web.json_response(self.fake.vectors(body))


@asynccontextmanager
async def trapped() -> AsyncIterator[Trap]:
    async with fake_embeddings() as fake:
        trap = Trap(fake)
        fake.reply = trap.reply
        yield trap


def embedded_by(fake: FakeEmbeddings, **more: str) -> dict[str, str]:
    """What has a system embed by the fake."""
    return {
        "ENGRAM_EMBEDDER": "openai", "ENGRAM_EMBEDDER_MODEL": "fake", "ENGRAM_EMBEDDER_BASE_URL": fake.url,
        "ENGRAM_EMBEDDER_API_KEY": "none", "ENGRAM_EMBEDDER_TIMEOUT_SECONDS": "2", **more,
    }  # fmt: skip


async def test_poison_is_buried_with_its_context(case: Case, tmp_path: Path) -> None:
    case.asked = "100 % dead with context, 0 stuck sequences, healthy traffic's p95 within 20 %"
    journal = Journal(tmp_path / "journal.jsonl")
    with in_background(trapped()) as trap:
        async with running(tmp_path / "engram", environ=embedded_by(trap.fake)) as system:
            trap.system = system
            keys = await keys_for(system.nats, system.data_dir)
            await keys_for(system.nats, system.data_dir, (POISON_TENANT,))
            traffic = Traffic(system.url, keys, journal, seed=case.seed, mix=Mix(writes=25.0))
            async with traffic.flowing(), open_bus(system.nats, name="chaos") as bus:
                await traffic.written(25, seconds=30)
                calm = Spans()
                with calm.span():
                    await asyncio.sleep(5.0)
                ill = time.monotonic()
                sent = await publish(bus, poisons())
                case.say(f"{len(sent)} poisons are published")
                await until_buried(bus, set(sent.values()), case, seconds=120.0)
                well = time.monotonic()
                with calm.span():
                    await asyncio.sleep(5.0)
            await until_drained(system.nats, within=DRAIN_SECONDS)
            dead = await dead_letters(system.nats)
    verdict = audit(journal, tmp_path / "engram" / "data", dead)
    buried = {int(letter.headers["Engram-Dead-Sequence"]): letter for letter in dead}
    case.run = f"{len(sent)} poisons ({', '.join(sent)}), {journal.written} acknowledged beside"
    case.note(str(verdict))
    case.note(f"all dead {well - ill:.0f} s after, the embedder killed {trap.killed} times by one message")
    case.note("; ".join(f"{name}: {told(buried.get(sequence))}" for name, sequence in sent.items()))
    for kind in ("write", "recall"):
        before, during = p95_ms(calm.of(traffic.attempts.of(kind))), traffic.attempts.p95_ms(kind, ill, well)
        case.note(f"{kind} p95 {before:.1f} ms before and after, {during:.1f} ms during")
        case.bound(f"healthy {kind} p95 grows", during / before, HEALTHY, unit="times")
    assert {name for name, sequence in sent.items() if sequence not in buried} == set()
    assert [letter for letter in buried.values() if not letter.told] == []
    assert {letter.sequence for letter in dead} == {buried[sequence].sequence for sequence in sent.values()}
    assert [buried[sequence].body for sequence in sent.values()] == [body for _, _, body in poisons_as_sent]
    assert verdict.faults == {}


poisons_as_sent: list[tuple[str, str, bytes]] = []


def poisons() -> list[tuple[str, str, bytes]]:
    """Name, subject and body of each."""
    subject = work_subject(POISON_TENANT, Remember.op)
    body = json.loads(command("A harmless text.").encode())
    made = [
        ("bad JSON", subject, b'{"id": "broken'),
        ("no JSON", subject, bytes(range(256))),
        ("empty", subject, b""),
        ("wrong version", subject, json.dumps({**body, "id": new_id(), "v": 99}).encode()),
        ("missing field", subject, json.dumps({"id": new_id(), "memory": {"content": "x"}}).encode()),
        ("kills its worker", subject, command(f"The {KILLER} comes at night.").encode()),
        ("hangs", subject, command(f"The {HANGER} never wakes.").encode()),
        ("bad think", work_subject(POISON_TENANT, "think"), b"[]"),
        ("bad edge", work_subject(POISON_TENANT, "put-edge"), b'{"v": 1}'),
    ]
    poisons_as_sent[:] = made
    return made


def command(content: str) -> Remember:
    identity = new_id()
    return Remember(
        id=identity, memory_id=identity, accepted_at=datetime.now(UTC), memory=MemoryFields(content=content)
    )


async def publish(bus: NatsBus, messages: list[tuple[str, str, bytes]]) -> dict[str, int]:
    """Sequences on the work stream, by name."""
    return {name: (await bus.jetstream.publish(subject, body)).seq for name, subject, body in messages}


async def until_buried(bus: NatsBus, sequences: set[int], case: Case, *, seconds: float) -> None:
    """Wait until each is in the dead letters and out of the work stream, or time is up."""
    deadline, left = time.monotonic() + seconds, set(sequences)
    while left and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        found = {int(letter.headers["Engram-Dead-Sequence"]) for letter in await letters_of(bus)}
        if left - found != left:
            case.say(f"{len(sequences) - len(left - found)} of {len(sequences)} are dead")
        left -= found
    if left:
        state = (await bus.jetstream.stream_info(WORK.name, subjects_filter=">")).state
        case.note(f"not dead after {seconds:.0f} s: {len(left)}; the work stream holds {state.subjects}")


def told(letter: Buried | None) -> str:
    """What a dead letter says of itself."""
    if letter is None:
        return "not dead"
    h = letter.headers
    return f"{h['Engram-Dead-Stage']} {h['Engram-Dead-Why']} after {h['Engram-Dead-Attempts']}"


async def test_a_worker_that_stands_still_is_replaced(case: Case, tmp_path: Path) -> None:
    """As a hang in native code would: the process is there, holds its messages, and does nothing."""
    if not case.plan.long:
        pytest.skip("SKIPPED: only in the long run")
    case.asked = "work goes on, 0 lost"
    journal = Journal(tmp_path / "journal.jsonl")
    async with running(tmp_path / "engram") as system:
        traffic = Traffic(system.url, await keys_for(system.nats, system.data_dir), journal, seed=case.seed)
        async with traffic.flowing():
            await traffic.written(50, seconds=30)
            old = kill(system, "embedder", signal.SIGSTOP)
            try:
                took = await until_replaced(system, "embedder", old, seconds=2 * STILL_SECONDS)
                case.note(f"replaced after {took:.1f} s")
            finally:
                resume(old)
            await asyncio.sleep(2.0)
        await until_drained(system.nats, within=DRAIN_SECONDS)
        dead = await dead_letters(system.nats)
    verdict = audit(journal, tmp_path / "engram" / "data", dead)
    case.run = f"1 standstill, {journal.written} acknowledged"
    case.note(str(verdict))
    assert verdict.faults == {}


def resume(pid: int) -> None:
    """Let a stopped process of ours go on, if it is still there."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


async def test_replay_with_its_worker_killed(case: Case, tmp_path: Path) -> None:
    count = case.plan.count(500, 10_000)
    rate = 25.0 if not case.plan.long else 250.0
    kills = 3
    case.asked = "each exactly once in effect, rate within 10 %, resumes"
    journal = Journal(tmp_path / "journal.jsonl")
    with in_background(trapped()) as trap:
        async with running(tmp_path / "engram", environ=embedded_by(trap.fake)) as system:
            keys = await keys_for(system.nats, system.data_dir)
            trap.fake.refused = REFUSED
            await remember_refused(system, keys, journal, count)
            async with open_bus(system.nats, name="chaos") as bus:
                await until_dead(bus, count, seconds=120.0 + count / 20)
                case.say(f"{count} are dead")
                trap.fake.refused = None
                status = await replayed(system, bus, case, rate=rate, kills=kills, seconds=120.0 + 10 * count / rate)
            await until_drained(system.nats, within=DRAIN_SECONDS)
            dead = await dead_letters(system.nats)
    verdict = audit(journal, tmp_path / "engram" / "data", dead)
    case.run = f"{count} dead letters at {rate:.0f}/s, the replayer killed {kills} times"
    case.note(str(verdict))
    case.note(f"{status.state}: {status.replayed} replayed, {status.failed} failed, {status.swallowed} swallowed")
    case.bound("rate off by, interruptions included", 100 * abs(1 - (status.per_second or 0.0) / rate), 10.0, unit="%")
    assert (status.state, status.replayed, status.failed, status.swallowed) == ("done", count, 0, 0)
    assert dead == []
    assert verdict.faults == {}
    assert verdict.kept == count


async def remember_refused(system: System, keys: dict[str, str], journal: Journal, count: int) -> None:
    """Memories that are accepted, and that the embedder will refuse for good."""
    async with aiohttp.ClientSession() as session:
        for start in range(0, count, 100):
            tenant = TENANTS[start // 100 % len(TENANTS)]
            texts = [f"A {REFUSED} word, number {n} of {tenant}." for n in range(start, min(start + 100, count))]
            names = [journal.intend(tenant, text) for text in texts]
            body = {"memories": [{"content": text} for text in texts]}
            headers = {"Authorization": f"Bearer {keys[tenant]}"}
            async with session.post(f"{system.url}/v1/memories", json=body, headers=headers) as answer:
                assert answer.status == 202, await answer.text()
                items = (await answer.json())["data"]["memories"]
            await journal.acknowledge(*(
                {"op": "remember", "tenant": tenant, "id": item["id"], "hash": name, "at": time.time()}
                for item, name in zip(items, names, strict=True)
            ))  # fmt: skip


async def until_dead(bus: NatsBus, count: int, *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while (await bus.jetstream.stream_info("ENGRAM_DEAD")).state.messages < count:
            await asyncio.sleep(0.2)


async def replayed(system: System, bus: Bus, case: Case, *, rate: float, kills: int, seconds: float) -> ReplayStatus:
    """A replay of everything, once it has ended; its worker is killed on the way."""
    asked = StartReplay(tenant="_system", selection=Selection(all=True), rate=rate)
    status = await bus.ask(asked, within=5.0)
    async with asyncio.timeout(seconds):
        for number in range(kills):
            while status.replayed < (number + 1) * (status.until_sequence or 1_000_000) / (kills + 1):
                status = await looked(bus, status)
            case.say(f"killed at {status.replayed}")
            kill(system, "recovery")
            await asyncio.sleep(0.5)
        while not status.ended:
            status = await looked(bus, status)
    return status


async def looked(bus: Bus, status: ReplayStatus) -> ReplayStatus:
    await asyncio.sleep(0.1)
    try:
        return await bus.ask(StatusReplay(tenant="_system", id=status.id), within=2.0)
    except Exception:
        return status
