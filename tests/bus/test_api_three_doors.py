"""Three doors, each a process of its own, on one broker: what one of them changes counts on all of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engram_contracts.recovery import SYSTEM
from engram_runtime.keys import create_key, load_pepper
from engram_runtime.nats_bus import open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from support.servers import free_port, nats_server

DEADLINE = 120.0
PATH = "/v1/jobs/job_0"
"""Needs nothing but the door, which answers 404 to who is let in."""


@dataclass(frozen=True)
class Doors:
    """Doors that listen, and the key of the installation's owner."""

    urls: Sequence[str]
    session: aiohttp.ClientSession
    owner: str

    async def call(self, method: str, path: str, body: Any = None, *, tenant: str = SYSTEM) -> Any:
        """Have the first door do something for the owner."""
        headers = {"Authorization": f"Bearer {self.owner}", "X-Engram-Tenant": tenant}
        async with self.session.request(method, self.urls[0] + path, json=body, headers=headers) as answer:
            said = await answer.json()
            assert answer.status < 300, said
            return said["data"]

    async def until(self, key: str, status: int) -> float:
        """Seconds until the slowest door answers so."""
        began = time.monotonic()
        return max(await asyncio.gather(*(self._until(url, key, status) for url in self.urls))) - began

    async def _until(self, url: str, key: str, status: int) -> float:
        async with asyncio.timeout(DEADLINE):
            while await self._status(url, key) != status:
                await asyncio.sleep(0.005)
        return time.monotonic()

    async def _status(self, url: str, key: str) -> int:
        try:
            async with self.session.get(url + PATH, headers={"Authorization": f"Bearer {key}"}) as answer:
                return answer.status
        except aiohttp.ClientConnectionError:
            return 0


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            await provision(bus.jetstream, consumers=())
            owner = await create_key(bus, SYSTEM, "admin", "owner", load_pepper(tmp_path, None))
        ports = [free_port() for _ in range(3)]
        processes = [_door(tmp_path, server.url, port) for port in ports]
        try:
            async with aiohttp.ClientSession() as session:
                doors = Doors([f"http://127.0.0.1:{port}" for port in ports], session, owner)
                await doors.until(owner, 400)
                yield doors
        finally:
            for process in processes:
                process.terminate()
            assert [process.wait(DEADLINE) for process in processes] == [0, 0, 0]


def _door(folder: Path, nats: str, port: int) -> subprocess.Popen[bytes]:
    own = {
        "ENGRAM_CONFIG": os.devnull, "ENGRAM_DATA_DIR": str(folder), "ENGRAM_NATS_URL": nats,
        "ENGRAM_SERVE_PORT": str(port), "ENGRAM_DURABILITY": "process",
    }  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    with (folder / f"door-{port}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "engram_api"], env={**inherited, **own}, stdout=log, stderr=log)


async def test_revocation_and_suspension_count_on_every_door(doors: Doors) -> None:
    await doors.call("POST", "/v1/tenants", {"name": "acme", "plan": "unlimited"})
    kept, lost = [
        await doors.call("POST", "/v1/keys", {"name": name, "role": "reader"}, tenant="acme") for name in ("a", "b")
    ]
    for made in (kept, lost):
        await doors.until(made["key"], 404)

    await doors.call("DELETE", f"/v1/keys/{lost['id']}", tenant="acme")
    revoked = await doors.until(lost["key"], 401)
    await doors.call("POST", "/v1/tenants/acme/suspend", {})
    suspended = await doors.until(kept["key"], 403)
    await doors.call("POST", "/v1/tenants/acme/resume")
    resumed = await doors.until(kept["key"], 404)

    told = [f"{1_000 * each:.1f} ms" for each in (revoked, suspended, resumed)]
    print(f"revoked, suspended, resumed on the slowest of 3 doors within {', '.join(told)}")  # noqa: T201 (for -s)
