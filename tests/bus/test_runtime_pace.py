"""Lone messages go at once; a trickle over many consumers of a process goes in waves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nats.aio.msg import Msg

from engram_contracts.commands import Forget
from engram_contracts.ids import new_id
from engram_contracts.topology import EMBED_NOW, work_subject
from engram_runtime.bus import Entry
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.pulling import Puller, subscribe
from engram_runtime.settings import NatsSettings
from support.servers import nats_server

LINGER = 0.2


async def test_a_lone_message_goes_at_once_and_the_next_ones_together(tmp_path: Path):
    tenants = ["acme", *(f"tenant-{number}" for number in range(12))]
    began: list[float] = []

    async def handle(batch: Sequence[Msg]) -> None:
        began.extend(time.monotonic() for _ in batch)
        for message in batch:
            await message.respond(b"+ACK")

    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            await provision(bus.jetstream)
            for consumer in EMBED_NOW:
                subscribe(bus.broker, Puller(bus.client, replace(consumer, linger=LINGER)), handle)
            await bus.broker.start()
            sent = await said(bus, tenants[:1])
            await heard(began, 1)
            await said(bus, tenants[1:])
            await heard(began, len(tenants))

    first, *others = began
    assert first - sent < LINGER / 2
    assert min(others) - first >= LINGER * 0.95
    assert max(others) - min(others) < LINGER / 2


async def said(bus: NatsBus, tenants: Sequence[str]) -> float:
    began = time.monotonic()
    commands = [(tenant, Forget(id=new_id(), accepted_at=datetime.now(UTC), memory_id=new_id())) for tenant in tenants]
    await bus.append([Entry(subject=work_subject(t, c.op), body=c.encode(), id=c.id) for t, c in commands])
    return began


async def heard(began: Sequence[float], count: int) -> None:
    async with asyncio.timeout(10.0):
        while len(began) < count:
            await asyncio.sleep(0.005)
