"""One tenant floods, processes are replaced one by one: the others notice nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from engram_api.settings import ServeSettings
from support.audit import audit, dead_letters, until_drained
from support.chaos_results import Case
from support.flooding import Flood, Flooded, flooded
from support.journal import Journal, Spans, p95_ms
from support.stormy import TENANTS, keys_for, kill, running, until_all_ready, until_replaced
from support.system import System
from support.traffic import Mix, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3_600)]

DRAIN_SECONDS = 240.0
FLOODER = "torrent"
UNTOUCHED = 1.2
"""How much slower the others may get."""
FLOOD_TIMES = 100
"""Of its cap, so much is sent by the tenant that floods."""
FLOOD_SIZE = 500


async def test_a_tenant_that_floods_leaves_the_others_alone(case: Case, tmp_path: Path) -> None:
    seconds = 30.0 if case.plan.long else 8.0
    case.asked = "the others' p95 within 20 %, none of their requests refused"
    journal = Journal(tmp_path / "journal.jsonl")
    cap = ServeSettings().tenant_share
    requests = FLOOD_TIMES * cap / FLOOD_SIZE
    async with running(tmp_path / "engram") as system:
        keys = await keys_for(system.nats, system.data_dir, (*TENANTS, FLOODER))
        flood = Flood(system.url, keys.pop(FLOODER), FLOODER, case.seed, seconds / 2, requests, FLOOD_SIZE)
        traffic = Traffic(system.url, keys, journal, seed=case.seed, mix=Mix(writes=30.0, recalls=20.0))
        async with traffic.flowing():
            await traffic.written(30, seconds=30)
            calm, stormy = Spans(), Spans()
            floods = []
            for turn in range(2):
                with calm.span():
                    await asyncio.sleep(seconds / 2)
                done = await flooded(dataclasses.replace(flood, seed=flood.seed + turn))
                stormy.add(done.began, done.ended)
                floods.append(done)
        ended = time.monotonic()
        await until_drained(system.nats, within=DRAIN_SECONDS)
        case.note(f"drained {time.monotonic() - ended:.0f} s after the flood")
        dead = await dead_letters(system.nats)
    taken = 0
    for turn, done in enumerate(floods):
        taken += await write_down(dataclasses.replace(flood, seed=flood.seed + turn), done, journal)
    verdict = audit(journal, tmp_path / "engram" / "data", dead)
    attempts = {kind: stormy.of(traffic.attempts.of(kind)) for kind in ("write", "recall")}
    others = {kind: dict(Counter(a.status for a in some)) for kind, some in attempts.items()}
    offered = sum(done.sent for done in floods) * FLOOD_SIZE / sum(done.ended - done.began for done in floods)
    case.run = (
        f"2 x {seconds / 2:.0f} s, {offered:,.0f} memories a second of a tenant whose cap is {cap:g}, {taken} taken"
    )
    case.note(str(verdict))
    case.note(f"the flooder was answered {[done.statuses for done in floods]}, the others {others}")
    refused = [a for some in attempts.values() for a in some if not a.ok and a.status != 404]
    if refused:
        case.note(f"refused: {Counter(f'{a.status} {a.note}' for a in refused).most_common(4)}")
    for kind, some in attempts.items():
        before, during = p95_ms(calm.of(traffic.attempts.of(kind))), p95_ms(some)
        case.note(f"{kind} p95 {before:.1f} ms before, {during:.1f} ms during")
        case.bound(f"the others' {kind} p95 grows", during / before, UNTOUCHED, unit="times")
    assert traffic.wrong == []
    assert verdict.faults == {}
    if offered < 0.9 * FLOOD_TIMES * cap:
        case.missed.append(f"the flood itself: {offered:,.0f} memories a second, meant {FLOOD_TIMES * cap:,.0f}")
    asked = sum(len(some) for some in attempts.values())
    case.none("refused of the others'", len(refused), asked)


async def write_down(flood: Flood, done: Flooded, journal: Journal) -> int:
    """Put what the flooder was promised into the journal; how many memories that were."""
    names = {number: [journal.intend(FLOODER, text) for text in flood.texts(number)] for number in range(done.sent)}
    lines = [
        {"op": "remember", "tenant": FLOODER, "id": memory, "hash": names[number][place], "at": time.time()}
        for number, place, memory in done.taken
    ]
    await journal.acknowledge(*lines)
    return len(lines)


async def test_rolling_restart_under_load(case: Case, tmp_path: Path) -> None:
    rounds = case.plan.count(1, 5)
    case.asked = "0 failed requests"
    journal = Journal(tmp_path / "journal.jsonl")
    how = "`engram restart`" if restarts_by_command() else "SIGTERM to each, the door and the broker last"
    async with running(tmp_path / "engram") as system:
        nats = system.nats
        traffic = Traffic(system.url, await keys_for(nats, system.data_dir), journal, seed=case.seed)
        async with traffic.flowing():
            await traffic.written(50, seconds=30)
            began = time.monotonic()
            for number in range(rounds):
                await roll(system, case)
                case.say(f"round {number + 1} of {rounds} after {time.monotonic() - began:.0f} s")
            await until_all_ready(system, nats)
            ended = time.monotonic()
        await until_drained(nats, within=DRAIN_SECONDS)
        dead = await dead_letters(nats)
    verdict = audit(journal, tmp_path / "engram" / "data", dead)
    failed = [a for a in traffic.attempts.all if began <= a.began <= ended and not a.ok and a.status != 404]
    case.run = f"{rounds} rounds by {how}, {journal.written} acknowledged"
    case.note(str(verdict))
    case.note(f"took {(ended - began) / rounds:.1f} s a round; {traffic.degraded} recalls were degraded")
    case.note(
        f"failed: {Counter(f'{a.kind} {a.status} {a.note}' for a in failed).most_common(4)}" if failed else "0 failed"
    )
    assert traffic.wrong == []
    assert verdict.faults == {}
    asked = sum(began <= a.began <= ended for a in traffic.attempts.all)
    case.none("failed", len(failed), asked)


def restarts_by_command() -> bool:
    """Whether there is a command that restarts every process in turn."""
    command = Path(sys.executable).with_name("engram")
    asked = subprocess.run([command, "restart", "--help"], capture_output=True, check=False)
    return asked.returncode == 0


async def roll(system: System, case: Case) -> None:
    """Have every process replaced, one after another."""
    if restarts_by_command():
        command = [str(Path(sys.executable).with_name("engram")), "--data-dir", str(system.data_dir), "restart"]
        running_it = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        told, _ = await asyncio.wait_for(running_it.communicate(), 180.0)
        assert running_it.returncode == 0, told.decode()
        return
    for name in [*(name for name in system.pids if name not in {"api", "nats"}), "api"]:
        old = kill(system, name, signal.SIGTERM)
        await until_replaced(system, name, old)
        case.say(f"{name} is replaced")
        await until_all_ready(system, system.nats)
