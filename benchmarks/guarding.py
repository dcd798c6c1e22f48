"""What knowing, bounding and metering a caller costs a recall: the same request through two doors, in turns.

    python -m benchmarks.guarding [--requests N] [--durability process|power]

Both doors stand before the same index and the same tenant. One does all that a door does: it checks the key, keeps the
rates and quotas of a plan, and has the usage event of each request durable before it answers. The other lets everybody
in, bounds nothing and meters nothing. Pairs of requests go out one after another, in changing order, with queries that
no request repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from benchmarks.texts import Texts
from engram_contracts.control import Overrides, Quotas, Rate, TenantRecord
from engram_contracts.topology import TENANTS
from engram_runtime.nats_bus import NatsBus, open_bus
from support.servers import free_port
from support.system import System, embedded_system

TENANT = "bench"
MEMORIES = 2_000
WARM_UP = 50
READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Side:
    """One door, its process, and how long its answers took."""

    name: str
    url: str
    headers: Mapping[str, str]
    process: subprocess.Popen[bytes]
    took: list[float]

    @property
    def cpu(self) -> float:
        """Seconds of processor time that the door has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare() -> None:
    """Run a door that knows nobody, bounds nothing and meters nothing."""
    from engram_api import service  # noqa: PLC0415 (the other door's business)
    from engram_api.limiting import Limiter  # noqa: PLC0415 (as above)
    from engram_api.settings import Settings  # noqa: PLC0415 (as above)
    from engram_api.usage import UsageLog  # noqa: PLC0415 (as above)
    from engram_runtime.host import run  # noqa: PLC0415 (as above)

    class Unmetered(UsageLog):
        async def record(self, **_: Any) -> None:
            return

    class Unbounded(Limiter):
        async def rate(self, *_: Any) -> None:
            return

        async def quota(self, *_: Any) -> None:
            return

    vars(service).update(UsageLog=Unmetered, Limiter=Unbounded)  # what is measured is the absence of these
    run("api", service.open_service, Settings, {"auth": {"enabled": False}})


@contextlib.contextmanager
def door(system: System, name: str, command: list[str], headers: Mapping[str, str]) -> Iterator[Side]:
    """A door beside the one of the system."""
    port, nats = free_port(), system.nats
    own = {
        "ENGRAM_SERVE_PORT": str(port), "ENGRAM_DATA_DIR": str(system.data_dir), "ENGRAM_NATS_URL": nats.url,
        "ENGRAM_NATS_USER": nats.user or "", "ENGRAM_CONFIG": os.devnull, "ENGRAM_LOG_LEVEL": "error",
        "ENGRAM_NATS_PASSWORD": nats.password.get_secret_value() if nats.password else "",
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", *command], env={**os.environ, **own})
    try:
        yield Side(name, f"http://127.0.0.1:{port}", headers, process, [])
    finally:
        process.terminate()
        process.wait(30)


async def prepared(system: System, bus: NatsBus, texts: Texts) -> str:
    """A tenant with a plan that has bounds no request here reaches, its key, and its memories, ready to be found."""
    key = await system.new_key(TENANT, "writer")
    bounds = Overrides(
        quotas=dict.fromkeys(Quotas.model_fields, 10**12),
        rates={"standard": Rate(per_minute=600_000, burst=10_000)},
    )
    record = TenantRecord(name=TENANT, created_at=datetime.now(UTC), overrides=bounds)
    await bus.bucket(TENANTS).put(TENANT, record.encode())
    async with aiohttp.ClientSession(system.url, headers={"Authorization": f"Bearer {key}"}) as session:
        every = texts.texts(MEMORIES)
        for start in range(0, MEMORIES, 100):
            body = {"memories": [{"content": text} for text in every[start : start + 100]]}
            while (await session.post("/v1/memories?wait=indexed", json=body)).status != 201:
                await asyncio.sleep(0.1)
    return key


async def recall(session: aiohttp.ClientSession, side: Side, query: str) -> float:
    """How long a recall took, from sending it to having read its answer."""
    began = time.perf_counter()
    async with session.post(
        f"{side.url}/v1/recall", json={"query": query, "limit": 10}, headers=side.headers
    ) as answer:
        body = await answer.read()
    assert answer.status == 200, body[:300]
    return time.perf_counter() - began


async def in_turns(sides: tuple[Side, Side], queries: Iterator[str], requests: int) -> None:
    """As many pairs as there are to be requests."""
    async with aiohttp.ClientSession() as session:
        for side in sides:
            await until_ready(session, side)
            for _ in range(WARM_UP):
                await recall(session, side, next(queries))
        for _ in range(requests):
            for side in random.sample(sides, 2):
                side.took.append(await recall(session, side, next(queries)))


async def until_ready(session: aiohttp.ClientSession, side: Side) -> None:
    """Return once the door answers recalls."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                body = {"query": "ready?", "limit": 1}
                if (await session.post(f"{side.url}/v1/recall", json=body, headers=side.headers)).status == 200:
                    return
            await asyncio.sleep(0.1)


async def measured(system: System, requests: int) -> AsyncIterator[tuple[Side, float]]:
    """Each door with its processor time for one request."""
    texts = Texts(None)
    async with open_bus(system.nats, name="benchmark") as bus:
        key = await prepared(system, bus, texts)
    queries = iter(texts.questions(4 * (requests + WARM_UP)))
    known = {"Authorization": f"Bearer {key}"}
    with (
        door(system, "guarded", ["engram_api"], known) as guarded,
        door(system, "bare", ["benchmarks.guarding", "--bare"], {"X-Engram-Tenant": TENANT}) as open_door,
    ):
        both = (guarded, open_door)
        await in_turns(both, queries, 1)
        before = {side.name: side.cpu for side in both}
        for side in both:
            side.took.clear()
        await in_turns(both, queries, requests)
        for side in both:
            yield side, (side.cpu - before[side.name]) / (requests + WARM_UP)


async def main(requests: int, durability: str) -> None:
    """Measure, and print."""
    console = Console()
    p50: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, embedded_system(Path(folder), durability=durability) as system:
        async for side, cpu in measured(system, requests):
            p50[side.name] = statistics.median(side.took)
            p95 = statistics.quantiles(side.took, n=20)[-1]
            told = f"p50 {p50[side.name] * 1e3:.2f} ms, p95 {p95 * 1e3:.2f} ms"
            console.print(f"{side.name}: {told}, {cpu * 1e6:.0f} us of the door's CPU")
    more = p50["guarded"] / p50["bare"] - 1
    console.print(f"auth, limits and metering ({durability}): p50 {more:+.0%}, asked at most +25 %")


if __name__ == "__main__":
    if "--bare" in sys.argv:
        bare()
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--requests", type=int, default=1_000)
        parser.add_argument("--durability", default="process")
        given = parser.parse_args()
        asyncio.run(main(given.requests, given.durability))
