"""Metering on a real broker: what is on the streams is in the answer, once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import duckdb

from engram_contracts.facts import Fact, UsageBatch, UsageEvent
from engram_contracts.ids import new_id
from engram_contracts.questions import GetUsage, ListHeads, ReconcileUsage, Reconciliation, UsageDifference
from engram_contracts.topology import AUDIT, audit_subject, log_subject, usage_subject
from engram_contracts.trail import AuditPage, ChainCheck
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


async def test_a_ledger_that_was_tampered_with_is_found_out(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        settings = Settings(data_dir=tmp_path / "data", nats=NatsSettings(url=server.url))
        async with metering(settings) as bus:
            await append(bus, remembered(1, 1, "12345678"), thought(2, 7, 5), forgotten(3, 1))
            await request(bus, "r1")
            await until_counted(bus, memories_deleted=1, api_calls=1)
            honest = await reconciled(bus)
        with duckdb.connect(str(tmp_path / "data" / "metering" / "ledger.duckdb")) as ledger:
            ledger.execute("UPDATE ledger SET amount = amount + 5 WHERE meter = 'memories_created'")
        async with metering(settings) as bus:
            told = await reconciled(bus)

    assert (honest.state, honest.different, honest.charges) == ("done", 0, 10)
    assert (told.state, told.different) == ("done", 1)
    assert told.differences == (
        UsageDifference(tenant="acme", day="2026-11-01", meter="memories_created", ledger=6, streams=1),
    )


async def reconciled(bus: NatsBus) -> Reconciliation:
    told = await bus.ask(ReconcileUsage(begin=True), within=2.0)
    async with asyncio.timeout(30):
        while told.state == "running":
            await asyncio.sleep(0.02)
            told = await bus.ask(ReconcileUsage(), within=2.0)
    return told


async def test_the_trail_holds_each_act_once_whatever_is_followed_twice(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        settings = Settings(data_dir=tmp_path / "data", nats=NatsSettings(url=server.url))
        async with metering(settings) as bus:
            await append(bus, remembered(1, 1, "12345678"), thought(2, 7, 5), forgotten(3, 1))
            await until_counted(bus, memories_deleted=1)
        shutil.rmtree(tmp_path / "data")
        async with metering(settings) as bus:
            await append(bus, remembered(4, 2, "1234"))
            await until_counted(bus, memories_created=2)
            pages = await bus.archive(AUDIT).read(1, pattern=audit_subject("acme"), limit=100)
            heads = (await bus.ask(ListHeads(tenant="acme"), within=2.0)).heads

    records = [record for page in pages for record in AuditPage.model_validate_json(page.body).records]
    check = ChainCheck("acme", heads[0])
    assert [flaw for record in records for flaw in check.take(record)] + check.end() == []
    assert [record["action"] for record in records] == ["remembered", "forgotten", "remembered"]
