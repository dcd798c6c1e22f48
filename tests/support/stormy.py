"""A system to be broken: real processes in a folder of their own, tenants with keys, and ways to hurt it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from nats.errors import Error as NatsError

from engram_contracts.errors import EngramError
from engram_runtime.keys import create_key, create_tenant, load_pepper
from engram_runtime.nats_bus import open_bus
from engram_runtime.settings import NatsSettings
from support.system import System, embedded_system

TENANTS = ("ash", "birch", "cedar", "dogwood", "elm")
BACK_SECONDS = 60.0
PONG_SECONDS = 0.7
"""On a machine that is busy a process with low priority may need so long for a word."""


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, durability: str = "process", environ: Mapping[str, str] | None = None
) -> AsyncIterator[System]:
    """`embedded_system` for a test that serves others meanwhile: starting and stopping do not block the loop."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = embedded_system(folder, durability=durability, environ=environ)
    system = await asyncio.to_thread(opened.__enter__)
    try:
        yield system
    except BaseException:
        if not await asyncio.to_thread(opened.__exit__, *sys.exc_info()):
            raise
    else:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def keys_for(nats: NatsSettings, data_dir: Path, tenants: tuple[str, ...] = TENANTS) -> dict[str, str]:
    """A writer's key for each tenant; the tenants are created."""
    keys = {}
    async with open_bus(nats, name="chaos") as bus:
        for tenant in tenants:
            await create_tenant(bus, tenant)
            keys[tenant] = await create_key(bus, tenant, "writer", "chaos", load_pepper(data_dir, None))
    return keys


def kill(system: System, name: str, number: signal.Signals = signal.SIGKILL) -> int:
    """Send one of the system's processes a signal; the id it had. One that is not there now is no error."""
    pid = system.pids[name]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return pid


async def until_replaced(system: System, name: str, old: int, *, seconds: float = BACK_SECONDS) -> float:
    """Seconds until a process of that name has another id."""
    began = time.monotonic()
    while system.pids.get(name) == old:
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{name} is not started again after {seconds:g} s\n{system.logs()}")
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def until_all_ready(system: System, nats: NatsSettings, *, seconds: float = BACK_SECONDS) -> float:
    """Seconds until every process that is to run says on the bus that it is ready."""
    began = time.monotonic()
    wanted: set[int] = set()
    ready: set[int] = set()
    async with open_bus(nats, name="chaos") as bus:
        while time.monotonic() - began < seconds:
            with contextlib.suppress(NatsError, EngramError, OSError, json.JSONDecodeError):
                ready = {pong.pid for pong in await bus.ping_all(within=PONG_SECONDS) if pong.ready}
                wanted = {pid for name, pid in system.pids.items() if name != "nats"}
                if wanted <= ready:
                    return time.monotonic() - began
            await asyncio.sleep(0.02)
    missing = [name for name, pid in system.pids.items() if name != "nats" and pid not in ready]
    raise AssertionError(f"not ready after {seconds:g} s: {missing}\n{system.logs()}")
