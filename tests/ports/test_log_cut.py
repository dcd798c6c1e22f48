"""The log comes back shorter than what the stores have applied of it, and new facts take the numbers of lost ones."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.auditing import LedgerPositions, ListCharged, ListIndexed, ListRecorded
from engram_contracts.facts import Fact
from engram_contracts.ids import partition_of
from engram_contracts.questions import GetMemory, ListMemories
from engram_contracts.topology import log_subject
from engram_graph.service import open_service as open_graph
from engram_graph.settings import Settings as GraphSettings
from engram_metering.service import open_service as open_metering
from engram_metering.settings import Settings as MeteringSettings
from engram_runtime.bus import Appended, Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from engram_vectors.service import open_service as open_vectors
from engram_vectors.settings import Settings as VectorsSettings
from support.burying import letters_there, until
from support.memories import embedding, forgotten, memory, memory_id, remembered, revised
from support.servers import NatsServer, nats_server

TENANT = "acme"
PARTITION = partition_of(TENANT)
STORES = ((open_vectors, VectorsSettings), (open_graph, GraphSettings), (open_metering, MeteringSettings))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


async def test_what_takes_the_number_of_a_lost_fact_is_applied_like_any_other(
    server: NatsServer, tmp_path: Path
) -> None:
    before = [remember(number) for number in range(1, 6)]
    lost = [remember(6), revise(20, 1, "lost"), remember(7)]
    after = [remember(6), revise(21, 1, "after"), remember(8), forget(22, 2), remember(9)]
    async with stores(server, tmp_path) as bus:
        await applied(bus, before)
    server.kill()
    shutil.copytree(tmp_path / "nats" / "js", tmp_path / "kept")
    server.start()
    async with stores(server, tmp_path) as bus:
        await applied(bus, lost)
    server.kill()
    shutil.rmtree(tmp_path / "nats" / "js")
    shutil.copytree(tmp_path / "kept", tmp_path / "nats" / "js")
    server.start()

    async with open_bus(NatsSettings(url=server.url), name="test") as bus:
        await appended(bus, after)  # so that the log is longer again than what was applied of it
    async with stores(server, tmp_path) as bus:
        await applied(bus, [])
        recorded = await bus.ask(ListMemories(tenant=TENANT), within=5)
        changed = await bus.ask(GetMemory(tenant=TENANT, memory_id=memory_id(1)), within=5)
        index, record = await kept(bus, ListIndexed()), await kept(bus, ListRecorded(partition=PARTITION))
        charged = (await bus.ask(ListCharged(), within=5)).applied
        dead = await letters_there(bus)

    wanted = {memory_id(number) for number in (1, 3, 4, 5, 6, 7, 8, 9)}
    assert {each.id for each in recorded.memories} == wanted
    assert changed.content == "after"
    assert index == record
    assert {fact.command for fact in (*before, *lost, *after)} == {each.command for each in charged}
    assert dead == 0


def remember(number: int) -> Fact:
    return remembered(number, memory(number, f"text {number}"), embedding()).message


def revise(number: int, which: int, content: str) -> Fact:
    return revised(number, which, {"content": content}, embedding()).message


def forget(number: int, which: int) -> Fact:
    return forgotten(number, which).message


@contextlib.asynccontextmanager
async def stores(server: NatsServer, folder: Path) -> AsyncIterator[NatsBus]:
    """All that follows the log, each on a connection of its own; yields another one."""
    nats = NatsSettings(url=server.url)
    async with contextlib.AsyncExitStack() as stack:
        asking = await stack.enter_async_context(open_bus(nats, name="test"))
        await provision(asking.jetstream)
        for opened, kind in STORES:
            settings: Any = kind(data_dir=folder, nats=nats)
            bus = await stack.enter_async_context(open_bus(nats, name="store"))
            service = await stack.enter_async_context(opened(settings, bus))
            await stack.enter_async_context(hosted(service, bus, settings))
        yield asking


async def appended(bus: NatsBus, facts: Sequence[Fact]) -> None:
    entries = [Entry(subject=log_subject(TENANT, each.event), body=each.encode(), id=each.command) for each in facts]
    assert all(isinstance(outcome, Appended) for outcome in await bus.append(entries))


async def applied(bus: NatsBus, facts: Sequence[Fact]) -> None:
    """Append facts, and wait until every store has applied the log to its end."""
    await appended(bus, facts)
    last = (await bus.jetstream.stream_info("ENGRAM_LOG")).state.last_seq
    for consumer in (f"vectors-{PARTITION}", f"graph-{PARTITION}", "metering"):
        await until(lambda name=consumer: acknowledged(bus, name), last)
    assert (await bus.ask(LedgerPositions(), within=5)).positions


async def acknowledged(bus: NatsBus, consumer: str) -> int:
    info = await bus.jetstream.consumer_info("ENGRAM_LOG", consumer)
    return info.ack_floor.stream_seq if info.ack_floor and not info.num_pending else 0


async def kept(bus: NatsBus, question: Any) -> list[tuple[str, int, str]]:
    page = await bus.ask(question, within=5)
    return sorted((each.id, each.version, each.digest) for each in page.kept if each.version)
