"""Every container's process, as compose.yaml and the Dockerfile have it, against one broker and one Qdrant server."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from engram_runtime.keys import create_key, create_tenant
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.settings import NatsSettings
from support.containers import Containers, containers
from support.servers import free_port, qdrant_binary, wait_for_port

TENANTS = tuple(f"tenant-{number}" for number in range(12))
LOT = 240
AT_ONCE = 24
PATIENCE = 200.0
WORKERS = ("vectors", "graph", "reasoner", "metering", "recovery")
EMBEDDERS = ("embedder-1", "embedder-2", "embedder-3")

pytestmark = [
    pytest.mark.skipif(qdrant_binary() is None, reason="no Qdrant server; run `make tools`"),
    pytest.mark.timeout(480),
]


@dataclass
class Cluster:
    """Everything that runs: doors by their addresses, embedders by their names, and what was accepted."""

    containers: Containers
    doors: tuple[str, str]
    embedders: dict[str, subprocess.Popen[bytes]]
    nats: NatsSettings
    pepper: bytes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two doors, three embedders, and one of all others."""
    nats, monitor, qdrant, grpc = (free_port() for _ in range(4))
    names = {
        "nats:4222": f"127.0.0.1:{nats}",
        "port: 4222": f"port: {nats}",
        "http: 8222": f"http: {monitor}",
        "qdrant:6333": f"127.0.0.1:{qdrant}",
    }
    with containers(tmp_path_factory.mktemp("compose"), names) as running:
        running.complete("prepare")
        wait_for_port(nats, running.start("nats"))
        ports = {"QDRANT__SERVICE__HTTP_PORT": str(qdrant), "QDRANT__SERVICE__GRPC_PORT": str(grpc)}
        store = running.start("qdrant", environ={**ports, "QDRANT__SERVICE__HOST": "127.0.0.1"})
        running.complete("provision")
        wait_for_port(qdrant, store)
        apart = {"ENGRAM_HOST_HEALTH_PORT": "0", "ENGRAM_HOST_HEALTH_HOST": "127.0.0.1"}
        for name in WORKERS:
            running.start(name, environ={**apart, "ENGRAM_QDRANT_GRPC_PORT": str(grpc)})
        embedders = {name: running.start("embedder", name, apart) for name in EMBEDDERS}
        doors = (free_port(), free_port())
        for port in doors:
            running.start("api", f"api-{port}", {**apart, "ENGRAM_SERVE_PORT": str(port)})
        secrets = running.volume("secrets")
        login = NatsSettings.model_validate(
            {
                "url": f"nats://127.0.0.1:{nats}",
                "user": "engram",
                "password": (secrets / "nats_password").read_text().strip(),
            }
        )
        addresses = (f"http://127.0.0.1:{doors[0]}", f"http://127.0.0.1:{doors[1]}")
        yield Cluster(running, addresses, embedders, login, (secrets / "pepper").read_text().strip().encode())


@pytest.fixture(scope="module")
async def bus(cluster: Cluster) -> AsyncIterator[NatsBus]:
    """The broker, once all processes answer and both doors are ready."""
    async with open_bus(cluster.nats, name="test") as opened:
        async with aiohttp.ClientSession() as session:
            for door in cluster.doors:
                await until(lambda door=door: serves(session, door))
        yield opened


async def test_work_spreads_over_three_embedders_and_killing_one_loses_nothing(cluster: Cluster, bus: NatsBus) -> None:
    keys = await keys_of(bus, cluster.pepper)
    await until(lambda: are_there(bus, 3))
    async with aiohttp.ClientSession() as session:
        accepted = await written(session, cluster.doors, keys, range(LOT))
        shares = await until(lambda: shared(session, bus, cluster, LOT))

        more = asyncio.create_task(written(session, cluster.doors, keys, range(LOT, 2 * LOT)))
        await asyncio.sleep(0.1)
        cluster.embedders["embedder-1"].send_signal(signal.SIGKILL)
        for tenant, ids in (await more).items():
            accepted[tenant] |= ids
        found = await until(lambda: all_recorded(session, cluster.doors[1], keys, accepted))

    assert all(0.2 * LOT <= share <= 0.5 * LOT for share in shares.values()), shares
    assert found == accepted


async def test_what_one_door_took_the_other_finds(cluster: Cluster, bus: NatsBus) -> None:
    async with aiohttp.ClientSession() as session:
        key = (cluster.containers.volume("keys") / "admin.key").read_text().strip()
        told = {"content": "The heron stands in the mill pond."}
        await called(session, cluster.doors[0], key, "POST", "/v1/memories?wait=done", told)
        hits = await called(session, cluster.doors[1], key, "POST", "/v1/recall", {"query": "where is the heron?"})

    assert hits["data"]["hits"][0]["memory"]["content"] == told["content"]


async def test_who_has_no_volume_leaves_nothing_behind(cluster: Cluster, bus: NatsBus) -> None:
    left = [name for name in (*EMBEDDERS, "vectors", "reasoner", "recovery") if written_by(cluster, name)]
    left += [door for port in cluster.doors if written_by(cluster, door := f"api-{port.rpartition(':')[2]}")]

    assert left == []


def written_by(cluster: Cluster, instance: str) -> bool:
    """Whether a container wrote into its own root, which is read-only in the real one."""
    root = cluster.containers.root(instance)
    return [path for path in root.rglob("*") if not path.is_symlink() and path.is_file()] != []


async def until(look: Any) -> Any:
    """What `look` comes to as soon as it is something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := await look()):
        assert time.monotonic() < deadline, "it does not come to be"
        await asyncio.sleep(0.2)
    return found


async def serves(session: aiohttp.ClientSession, door: str) -> bool:
    try:
        async with session.get(f"{door}/health/ready") as answer:
            return bool((await answer.json())["data"]["status"] == "ready")
    except (aiohttp.ClientError, TypeError):
        return False


async def are_there(bus: NatsBus, count: int) -> bool:
    return len([pong for pong in await bus.ping_all(within=1.0) if pong.service == "embedder"]) == count


async def keys_of(bus: NatsBus, pepper: bytes) -> dict[str, str]:
    for tenant in TENANTS:
        await create_tenant(bus, tenant)
    return {tenant: await create_key(bus, tenant, "writer", "test", pepper) for tenant in TENANTS}


async def called(
    session: aiohttp.ClientSession, door: str, key: str, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    """The envelope; what is refused for now is asked for again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": f"{hash(str(body))}"}
        async with session.request(method, door + path, json=body, headers=headers) as answer:
            if answer.status < 300:
                envelope: dict[str, Any] = await answer.json()
                return envelope
            assert answer.status in (401, 403, 409, 429, 503) and time.monotonic() < deadline, await answer.text()
        await asyncio.sleep(0.2)


async def written(
    session: aiohttp.ClientSession, doors: tuple[str, str], keys: Mapping[str, str], numbers: range
) -> defaultdict[str, set[str]]:
    """Ids of what was accepted, by tenant; written one by one, through both doors in turn."""
    accepted: defaultdict[str, set[str]] = defaultdict(set)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        tenant = TENANTS[number % len(TENANTS)]
        async with gate:
            body = {"content": f"Barge {number} carries {number * 7} bricks."}
            answer = await called(session, doors[number % 2], keys[tenant], "POST", "/v1/memories", body)
        accepted[tenant].add(answer["data"]["id"])

    await asyncio.gather(*(one(number) for number in numbers))
    return accepted


async def shared(session: aiohttp.ClientSession, bus: NatsBus, cluster: Cluster, total: int) -> dict[str, float]:
    """What each embedder has handled, once that is everything."""
    pages = {pong.pid: pong.metrics_url for pong in await bus.ping_all(within=1.0)}
    handled = {name: await handled_by(session, pages.get(process.pid)) for name, process in cluster.embedders.items()}
    return handled if sum(handled.values()) >= total else {}


async def handled_by(session: aiohttp.ClientSession, page: str | None) -> float:
    if page is None:
        return 0.0
    async with session.get(page) as answer:
        found = re.search(r'engram_messages_handled_total\{stage="embedder"\} (\S+)', await answer.text())
    return float(found[1]) if found else 0.0


async def all_recorded(
    session: aiohttp.ClientSession, door: str, keys: Mapping[str, str], accepted: Mapping[str, set[str]]
) -> dict[str, set[str]]:
    """Ids that the record has, by tenant, once there are as many as were accepted."""
    found = {tenant: await recorded(session, door, keys[tenant]) for tenant in accepted}
    return found if sum(map(len, found.values())) >= sum(map(len, accepted.values())) else {}


async def recorded(session: aiohttp.ClientSession, door: str, key: str) -> set[str]:
    page = await called(session, door, key, "GET", "/v1/memories?limit=100")
    assert page["meta"].get("next") is None, "more than were accepted"
    return {memory["id"] for memory in page["data"]["memories"]}
