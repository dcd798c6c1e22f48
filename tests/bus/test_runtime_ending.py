"""A process that is told to stop ends, also when its broker is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engram_runtime.nats_bus import open_bus
from engram_runtime.settings import NatsSettings
from support.servers import nats_server
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
