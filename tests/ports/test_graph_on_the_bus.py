"""The graph behind a real broker: commands in, facts on the log, answers out, and nothing twice after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.commands import PutEdge
from engram_contracts.errors import NotFound
from engram_contracts.facts import Fact
from engram_contracts.ids import new_id
from engram_contracts.questions import Activate, CountRecorded, GetNode, Neighbours
from engram_contracts.topology import log_subject, work_subject
from engram_graph.service import open_service
from engram_graph.settings import Settings
from engram_runtime.bus import Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from support.memories import embedding, memory, remembered
from support.servers import nats_server

TENANT = "acme"


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsSettings]:
    with nats_server(tmp_path / "nats") as server:
        settings = NatsSettings(url=server.url)
        async with open_bus(settings, name="test") as bus:
            await provision(bus.jetstream)
        yield settings


@contextlib.asynccontextmanager
async def running_graph(settings: NatsSettings, folder: Path) -> AsyncIterator[NatsBus]:
    chosen = Settings(data_dir=folder, nats=settings)
    async with (
        open_bus(settings, name="graph") as bus,
        open_service(chosen, bus) as service,
        hosted(service, bus, chosen),
    ):
        yield bus


def remembered_entry(number: int, text: str) -> Entry:
    fact: Fact = remembered(number, memory(number, text, speaker="Ann"), embedding()).message
    return Entry(subject=log_subject(TENANT, fact.event), body=fact.encode(), id=fact.command)


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.02)


async def recorded(bus: NatsBus) -> int:
    return (await bus.ask(CountRecorded(tenant=TENANT), within=5)).memories


async def test_commands_and_facts_end_in_the_graph_once(nats: NatsSettings, tmp_path: Path) -> None:
    put = PutEdge(id=new_id(), accepted_at=datetime.now(UTC), source="person:Ann", type="likes", target="place:Oslo")
    work = Entry(subject=work_subject(TENANT, put.op), body=put.encode(), id=put.id)
    async with running_graph(nats, tmp_path) as bus:
        assert not any(isinstance(each, Exception) for each in await bus.append([work, *batch(1, 40)]))
        await until(lambda: counted(bus, 40))
        await bus.append([Entry(subject=work.subject, body=work.body, id=new_id())])

    async with running_graph(nats, tmp_path) as bus:
        await bus.append(batch(41, 60))
        await until(lambda: counted(bus, 60))

        ann: Any = await bus.ask(GetNode(tenant=TENANT, node="person:Ann"), within=5)
        around = await bus.ask(Neighbours(tenant=TENANT, node="place:Oslo", hops=2), within=5)
        near = await bus.ask(Activate(tenant=TENANT, text="who was in Oslo?"), within=5)
        assert {(edge.type, edge.target): edge.weight for edge in ann.edges} == {
            ("mentioned", "name:Bob"): 60.0,
            ("likes", "place:Oslo"): 1.0,
        }
        assert [each.node.id for each in around.nodes] == ["person:Ann", "name:Bob"]
        assert len(near.memory_ids) == 50
        with pytest.raises(NotFound):
            await bus.ask(GetNode(tenant=TENANT, node="person:Nobody"), within=5)


def batch(first: int, last: int) -> list[Entry]:
    return [remembered_entry(number, "I met Bob again") for number in range(first, last + 1)]


async def counted(bus: NatsBus, number: int) -> bool:
    return await recorded(bus) == number
