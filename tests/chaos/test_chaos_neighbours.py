"""One tenant floods, processes are replaced one by one: the others notice nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from support.audit import audit, dead_letters, until_drained
from support.chaos_results import Case
from support.journal import Journal
from support.stormy import TENANTS, keys_for, kill, running, until_all_ready, until_replaced
from support.system import System
from support.traffic import Mix, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3_600)]

DRAIN_SECONDS = 240.0
FLOODER = "torrent"
UNTOUCHED = 1.2
"""How much slower the others may get."""
SLACK = 0.05
"""The short slice runs beside others on a busy machine: so many requests may find the broker slow."""
FLOOD_CONNECTIONS = 16
FLOOD_BULK = 500
FLOOD_REQUESTS = 40
"""A second, at most."""


async def test_a_tenant_that_floods_leaves_the_others_alone(case: Case, tmp_path: Path) -> None:
    seconds = 30.0 if case.plan.long else 8.0
    case.asked = "the others' p95 within 20 %, none of their requests refused"
    journal = Journal(tmp_path / "journal.jsonl")
    answers: Counter[int] = Counter()
    async with running(tmp_path / "engram") as system:
        keys = await keys_for(system.nats, system.data_dir, (*TENANTS, FLOODER))
        flooder = keys.pop(FLOODER)
        traffic = Traffic(system.url, keys, journal, seed=case.seed, mix=Mix(writes=30.0, recalls=20.0))
        async with traffic.flowing():
            await traffic.written(30, seconds=30)
            calm = time.monotonic()
            await asyncio.sleep(seconds / 2)
            calmed = time.monotonic()
            began, taken = await flood(system, flooder, journal, answers, seconds=seconds, seed=case.seed)
            ended = time.monotonic()
            case.say(f"flooded with {sum(answers.values())} requests of {FLOOD_BULK}")
        await until_drained(system.nats, within=DRAIN_SECONDS)
        case.note(f"drained {time.monotonic() - ended:.0f} s after the flood")
        dead = await dead_letters(system.nats)
    verdict = audit(journal, tmp_path / "engram" / "data", dead)
    others = {kind: traffic.attempts.statuses(kind, began, ended) for kind in ("write", "recall")}
    case.run = f"{seconds:.0f} s, {FLOOD_CONNECTIONS} connections with {FLOOD_BULK} memories a request, {taken} taken"
    case.note(str(verdict))
    case.note(f"the flooder was answered {dict(answers)}, the others {others}")
    refused = [a for a in traffic.attempts.all if began <= a.began <= ended and not a.ok and a.status != 404]
    if refused:
        case.note(f"refused: {Counter(f'{a.status} {a.note}' for a in refused).most_common(4)}")
    for kind in ("write", "recall"):
        before, during = (traffic.attempts.p95_ms(kind, *span) for span in ((calm, calmed), (began, ended)))
        case.note(f"{kind} p95 {before:.1f} ms before, {during:.1f} ms during")
        case.bound(f"the others' {kind} p95 grows", during / before, UNTOUCHED, unit="times")
    assert traffic.wrong == []
    assert verdict.faults == {}
    asked = len(traffic.attempts.of("write", since=began, until=ended))
    asked += len(traffic.attempts.of("recall", since=began, until=ended))
    case.bound("refused of the others'", 100 * len(refused) / asked, 0.0, unit="%")
    assert len(refused) <= (0 if case.plan.long else asked * SLACK)


async def flood(
    system: System, key: str, journal: Journal, answers: Counter[int], *, seconds: float, seed: int
) -> tuple[float, int]:
    """Bulk requests as fast as they are answered, whatever it is; since when, and how many memories were taken."""
    requests = iter([_bulk(seed, number, journal) for number in range(int(FLOOD_REQUESTS * seconds))])
    began, taken = time.monotonic(), 0
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def connection(session: aiohttp.ClientSession) -> None:
        nonlocal taken
        for body, names in requests:
            async with session.post(f"{system.url}/v1/memories", data=body, headers=headers) as answer:
                answers[answer.status] += 1
                data = (await answer.json())["data"]
            lines = [
                {"op": "remember", "tenant": FLOODER, "id": item["id"], "hash": name, "at": time.time()}
                for item, name in zip(data["memories"] if data else (), names, strict=False)
                if "id" in item
            ]
            taken += len(lines)
            await journal.acknowledge(*lines)
            if time.monotonic() > began + seconds:
                return

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20.0)) as session:
        await asyncio.gather(*(connection(session) for _ in range(FLOOD_CONNECTIONS)))
    return began, taken


def _bulk(seed: int, number: int, journal: Journal) -> tuple[bytes, list[str]]:
    """A request's body, made before the clock runs, and the fingerprints of what it says."""
    texts = [f"Flood {seed}-{number}-{n} of {FLOODER}: water." for n in range(FLOOD_BULK)]
    body = json.dumps({"memories": [{"content": text} for text in texts]}).encode()
    return body, [journal.intend(FLOODER, text) for text in texts]


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
    case.bound("failed", 100 * len(failed) / asked, 0.0, unit="%")
    assert len(failed) <= (0 if case.plan.long else asked * SLACK)


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
