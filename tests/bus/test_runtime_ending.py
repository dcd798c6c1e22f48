"""A process that is told to stop ends, also when its broker is gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engram_runtime.nats_bus import open_bus
from engram_runtime.settings import NatsSettings
from support.servers import free_port, nats_server
from support.waiting import holds


@pytest.mark.parametrize("later", [False, True], ids=["at once", "while it looks for its broker"])
async def test_a_bus_without_its_broker_leaves_nothing_running(tmp_path: Path, later: bool) -> None:
    before = asyncio.all_tasks()
    with nats_server(tmp_path / "nats") as server:
        async with asyncio.timeout(30), open_bus(NatsSettings(url=server.url), name="test") as bus:
            await bus.client.subscribe("anything")
            server.kill()
            assert not later or await holds(lambda: not bus.connected)

    assert await holds(lambda: not asyncio.all_tasks() - before)


async def test_a_process_that_waits_for_its_broker_ends_when_it_is_told_to(tmp_path: Path) -> None:
    environ = {**os.environ, "ENGRAM_NATS_URL": f"nats://127.0.0.1:{free_port()}", "ENGRAM_DATA_DIR": str(tmp_path)}
    log = tmp_path / "reasoner.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "engram_reasoner"], env=environ, stderr=out)
    try:
        assert await holds(lambda: "waiting for the broker" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert await holds(lambda: process.poll() is not None)
    finally:
        process.kill()

    assert process.returncode == 0
