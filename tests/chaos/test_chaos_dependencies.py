"""What Engram depends on is away, slow, flapping or mad: writes are accepted, recall says so, nothing is lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.audit import audit, dead_letters, read_qdrant, until_drained
from support.background import in_background
from support.chaos_results import Case
from support.fake_model import Ill, Reply, fake_model
from support.journal import Journal, Spans, p95_ms
from support.servers import nats_server, qdrant_binary, qdrant_server
from support.stormy import keys_for, running
from support.toxic import Toxin, infected, toxic_proxy
from support.traffic import Mix, Traffic

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3_600)]

DRAIN_SECONDS = 60.0
UNTOUCHED = 1.10
"""How much slower remember and recall may get while only the model is ill."""
CALLS = 1.2
"""Upstream calls a job."""
ILLS: tuple[Ill, ...] = ("hang", "truncate", "bad json", "broken chunk", "reset")


@pytest.mark.skipif(qdrant_binary() is None, reason="no Qdrant server; run `make tools`")
async def test_qdrant_away_slow_and_flapping(case: Case, tmp_path: Path) -> None:
    rounds = case.plan.count(1, 3)
    away = 60.0 if case.plan.long else 15.0
    case.asked = "every write 202, 0 lost, recall says degraded, no 5xx but 503"
    journal = Journal(tmp_path / "journal.jsonl")
    with ExitStack() as stack:
        rest, grpc = stack.enter_context(qdrant_server(tmp_path / "qdrant"))
        proxies = [stack.enter_context(toxic_proxy(port, chance=case.chances())) for port in (rest, grpc)]
        environ = {
            "ENGRAM_QDRANT_URL": f"http://127.0.0.1:{proxies[0].port}",
            "ENGRAM_QDRANT_GRPC_PORT": str(proxies[1].port),
        }
        async with running(tmp_path / "engram", environ=environ) as system:
            traffic = Traffic(system.url, await keys_for(system.nats, system.data_dir), journal, seed=case.seed)
            nats = system.nats
            async with traffic.flowing():
                await traffic.written(50, seconds=30)
                for number in range(rounds):
                    began, degraded = time.monotonic(), traffic.degraded
                    ills = [Toxin(ill=ill) for ill in ("refuse", "black hole", "half open")]
                    for proxy in proxies:
                        proxy.infect(ills[number % len(ills)])
                    await asyncio.sleep(away)
                    for proxy in proxies:
                        proxy.cure()
                    statuses = traffic.attempts.statuses("recall", began, began + away)
                    said = traffic.degraded - degraded
                    case.note(f"{ills[number % len(ills)].ill} for {away:.0f} s: recalls {statuses}, {said} degraded")
                    async with infected(proxies[1], Toxin(latency=0.2, jitter=0.2)):
                        await asyncio.sleep(away / 4)
                    for _ in range(5):
                        async with infected(proxies[1], Toxin(ill="reset")):
                            await asyncio.sleep(away / 40)
                        await asyncio.sleep(away / 40)
            ended = time.monotonic()
            await until_drained(nats, within=DRAIN_SECONDS)
            case.bound("drained after", time.monotonic() - ended, DRAIN_SECONDS, strict=True)
            dead = await dead_letters(nats)
        verdict = audit(journal, tmp_path / "engram" / "data", dead, index=lambda: read_qdrant(rest))
    case.run = f"{rounds} x {away:.0f} s away, then slow, then flapping; {journal.written} acknowledged"
    case.note(str(verdict))
    writes, recalls = traffic.attempts.statuses("write"), traffic.attempts.statuses("recall")
    case.note(f"writes {writes}, recalls {recalls}, {traffic.degraded} degraded")
    assert traffic.wrong == []
    assert verdict.faults == {}
    if refused := traffic.attempts.refusals("write"):
        case.note(f"refused: {refused}")
    case.none("writes not taken", sum(writes.values()) - writes.get(202, 0), sum(writes.values()))
    assert {status for status in {*writes, *recalls} if status >= 500} <= {503}
    assert traffic.degraded + recalls.get(503, 0) > 0


async def test_broker_connections_misbehave(case: Case, tmp_path: Path) -> None:
    rounds = case.plan.count(1, 5)
    case.asked = "0 lost, 0 doubled behind resets, black holes, half-open links, latency and little bandwidth"
    journal = Journal(tmp_path / "journal.jsonl")
    ills = (
        Toxin(ill="reset"), Toxin(ill="black hole"), Toxin(ill="half open"), Toxin(latency=0.05, jitter=0.1),
        Toxin(bandwidth=200_000),
    )  # fmt: skip
    with nats_server(tmp_path / "nats") as server, toxic_proxy(server.port, chance=case.chances()) as proxy:
        environ = {"ENGRAM_NATS_URL": f"nats://127.0.0.1:{proxy.port}"}
        async with running(tmp_path / "engram", environ=environ) as system:
            traffic = Traffic(system.url, await keys_for(system.nats, system.data_dir), journal, seed=case.seed)
            async with traffic.flowing():
                await traffic.written(50, seconds=30)
                for toxin in ills * rounds:
                    seconds = case.chance.uniform(0.5, 3.0)
                    began = time.monotonic()
                    async with infected(proxy, toxin):
                        await asyncio.sleep(seconds)
                    cured = time.monotonic()
                    await asyncio.sleep(2.0)
                    back = traffic.attempts.next_success("write", cured)
                    words = toxin.ill or ("latency" if toxin.latency else "bandwidth")
                    case.note(
                        f"{words} for {seconds:.1f} s: writes {traffic.attempts.statuses('write', began, cured)}, "
                        f"next {'-' if back is None else f'{back:.1f}'} s after"
                    )
            ended = time.monotonic()
            await until_drained(system.nats, within=DRAIN_SECONDS)
            case.bound("drained after", time.monotonic() - ended, DRAIN_SECONDS, strict=True)
            dead = await dead_letters(system.nats)
        verdict = audit(journal, tmp_path / "engram" / "data", dead)
    case.run = f"{len(ills) * rounds} toxins, {journal.written} acknowledged"
    case.note(str(verdict))
    assert traffic.wrong == []
    assert verdict.faults == {}


async def test_model_misbehaves(case: Case, tmp_path: Path) -> None:
    """The same writes, recalls and questions flow all the time: what changes is how the model answers."""
    rounds = case.plan.count(1, 3)
    limited = 60.0 if case.plan.long else 12.0
    case.asked = "0 thinks lost, at most 1.2 upstream calls a job, remember and recall p95 within 10 %"
    journal = Journal(tmp_path / "journal.jsonl")
    mix = Mix(writes=25.0, recalls=25.0, thinks=2.0 if case.plan.long else 5.0)
    with in_background(fake_model()) as model:
        environ = {
            "ENGRAM_LLM_BASE_URL": model.base_url, "ENGRAM_LLM_MODEL": "fake", "ENGRAM_LLM_API_KEY": "none",
            "ENGRAM_LLM_FIRST_TOKEN_SECONDS": "3", "ENGRAM_LLM_TIMEOUT_SECONDS": "6",
        }  # fmt: skip
        async with running(tmp_path / "engram", environ=environ) as system:
            keys = await keys_for(system.nats, system.data_dir)
            traffic = Traffic(system.url, keys, journal, seed=case.seed, mix=mix)
            calm, refused, ill = Spans(), Spans(), Spans()
            jobs = 0
            async with traffic.flowing():
                await traffic.written(25, seconds=30)
                with calm.span():
                    await asyncio.sleep(limited)
                for _ in range(rounds):
                    asked = len(traffic.jobs)
                    with ill.span():
                        model.default = Reply(status=429, retry_after="5")
                        with refused.span():
                            await asyncio.sleep(limited)
                        model.default = Reply()
                        model.then(*(Reply(ill=each) for each in ILLS))
                        await until_jobs_end(system.url, keys, traffic.jobs[-1:], seconds=90.0)
                    jobs += len(traffic.jobs) - asked
                    with calm.span():
                        await asyncio.sleep(limited)
            left = await until_jobs_end(system.url, keys, traffic.jobs, seconds=90.0)
            await until_drained(system.nats, within=DRAIN_SECONDS)
            dead = await dead_letters(system.nats)
        calls = len(model.calls) - (len(traffic.jobs) - jobs)  # what was asked in calm takes one each
    verdict = audit(journal, tmp_path / "engram" / "data", dead)
    case.run = (
        f"{rounds} x ({limited:.0f} s of 429, then {len(ILLS)} ills), {jobs} thinks, {journal.written} acknowledged"
    )
    case.note(str(verdict))
    case.bound("upstream calls a job", calls / jobs, CALLS, unit="calls")
    for kind in ("write", "recall"):
        asked_then = traffic.attempts.of(kind)
        well, off, during = (p95_ms(spans.of(asked_then)) for spans in (calm, refused, ill))
        case.note(f"{kind} p95 {well:.1f} ms in calm, {during:.1f} ms during, {off:.1f} ms of it while it refuses")
        case.bound(f"{kind} p95 grows", during / well, UNTOUCHED, unit="times")
    assert left == {}
    assert traffic.wrong == []
    assert verdict.faults == {}
    assert calls / jobs <= CALLS


LOOKING = 4


async def until_jobs_end(
    url: str, keys: dict[str, str], jobs: list[tuple[str, str]], *, seconds: float
) -> dict[str, Any]:
    """Jobs that are not done when time runs out, with what is told of them.

    They are asked for a few at a time and not too often: a crowd of such questions would be a load of its own.
    """
    deadline = time.monotonic() + seconds
    left: dict[str, Any] = {job: None for _, job in jobs}
    waiting = list(jobs)

    async def look(session: aiohttp.ClientSession) -> None:
        while waiting and time.monotonic() < deadline:
            tenant, job = waiting.pop(0)
            headers = {"Authorization": f"Bearer {keys[tenant]}"}
            async with session.get(f"{url}/v1/jobs/{job}", headers=headers) as answer:
                left[job] = (await answer.json())["data"]
            if left[job] and left[job]["state"] == "done":
                del left[job]
            else:
                waiting.append((tenant, job))
                await asyncio.sleep(0.3)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(look(session) for _ in range(LOOKING)))
    return left
