"""Metering on a real broker: what is on the streams is in the answer, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engram_contracts.facts import Fact, UsageBatch, UsageEvent
from engram_contracts.ids import new_id
from engram_contracts.questions import GetUsage
from engram_contracts.topology import log_subject, usage_subject
from engram_metering.service import open_service
from engram_metering.settings import Settings
from engram_runtime.bus import Appended, Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from support.metering_story import BEGIN, forgotten, remembered, thought
from support.servers import nats_server


@asynccontextmanager
async def metering(settings: Settings) -> AsyncIterator[NatsBus]:
    async with open_bus(settings.nats, name="test", durability="process") as bus:
        await provision(bus.jetstream)
        async with open_service(settings, bus) as service, hosted(service, bus, settings):
            yield bus


async def append(bus: NatsBus, *facts: Fact) -> None:
    """Append facts under ids of their own, so that the stream's window does not hide a repeat."""
    outcomes = await bus.append([
        Entry(subject=log_subject("acme", fact.event), body=fact.encode(), id=new_id()) for fact in facts
    ])  # fmt: skip
    assert all(isinstance(outcome, Appended) for outcome in outcomes)


async def request(bus: NatsBus, request_id: str) -> None:
    event = UsageEvent(
        request_id=request_id, tenant="acme", route="recall", status=200, at=BEGIN, counters={"search_queries": 1}
    )
    await bus.append([Entry(subject=usage_subject("door-1"), body=UsageBatch(events=(event,)).encode(), id=new_id())])


async def until_counted(bus: NatsBus, **wanted: int) -> dict[str, int]:
    async with asyncio.timeout(10):
        while True:
            totals = (await bus.ask(GetUsage(tenant="acme"), within=2.0)).totals
            if all(totals.get(meter) == total for meter, total in wanted.items()):
                return totals
            await asyncio.sleep(0.02)


async def test_facts_and_requests_on_the_streams_are_counted_once_across_a_restart(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        settings = Settings(data_dir=tmp_path / "data", nats=NatsSettings(url=server.url))
        async with metering(settings) as bus:
            await append(bus, remembered(1, 1, "12345678"), remembered(1, 1, "12345678"), thought(2, 7, 5))
            await request(bus, "r1")
            await until_counted(bus, thinks=1, api_calls=1)

        async with metering(settings) as bus:
            await append(bus, remembered(3, 2, "1234"), thought(2, 7, 5), forgotten(4, 1))
            await request(bus, "r1")
            await request(bus, "r2")
            totals = await until_counted(bus, memories_deleted=1, api_calls=2)

    assert totals == {
        "memories_created": 2, "memories_deleted": 1, "storage_bytes": 4, "embedding_tokens": 6,
        "thinks": 1, "think_prompt_tokens": 7, "think_completion_tokens": 5, "api_calls": 2, "search_queries": 2,
    }  # fmt: skip
