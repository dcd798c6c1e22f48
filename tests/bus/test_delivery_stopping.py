"""Who is told to stop does, whatever the broker answers in that moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.burying import connected
from support.servers import nats_server

TURNS = 60


async def test_who_asks_again_and_again_under_a_deadline_ends(tmp_path: Path) -> None:
    ended = 0
    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus, asyncio.timeout(60):
            for _ in range(TURNS):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        while True:
                            await bus.client.request("$JS.API.INFO", timeout=1)
                ended += 1

    assert ended == TURNS
