"""Workers look at a tenant's state themselves, whoever put the work into the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engram_contracts.commands import Command, Forget
from engram_contracts.control import TenantRecord
from engram_contracts.ids import new_id
from engram_contracts.topology import DEAD, EMBED_NOW, TENANTS, dead_subject, lane_of, work_subject
from engram_runtime.breaker import Breaker
from engram_runtime.bus import Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import open_bus
from engram_runtime.provision import provision
from engram_runtime.service import Service, Taking
from engram_runtime.settings import Common, NatsSettings
from engram_runtime.taking import Taker
from support.servers import nats_server

LANE = next(one for one in EMBED_NOW if one.name == f"embedder-{lane_of('late')}")


def work() -> Entry:
    command = Forget(id=new_id(), accepted_at=datetime.now(UTC), memory_id=new_id())
    return Entry(subject=work_subject("late", "forget"), body=command.encode(), id=command.id)


async def test_what_a_suspended_tenant_sends_is_buried_and_what_it_sent_before_is_done(tmp_path: Path) -> None:
    done: list[str] = []

    async def handle(batch: Sequence[Any]) -> list[None]:
        done.extend(each.message.id for each in batch)
        return [None] * len(batch)

    service = Service(name="embedder", takes=(Taking(consumer=LANE, handler=handle, commands=(Forget,)),))
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            await provision(bus.jetstream)
            before, after = work(), work()
            await bus.append([before])
            record = TenantRecord(
                name="late", status="suspended", created_at=datetime.now(UTC), changed_at=datetime.now(UTC)
            )
            await bus.bucket(TENANTS).put("late", record.encode())
            await bus.append([after])
            async with hosted(service, bus, Common()), asyncio.timeout(10.0):
                while not await bus.archive(DEAD).subjects(dead_subject("embedder", "late")):
                    await asyncio.sleep(0.01)
            dead = (await bus.archive(DEAD).read(1, pattern="engram.dead.>", limit=2))[0]

    assert done == [before.id]
    assert (dead.body, dead.headers["Engram-Dead-Code"]) == (after.body, "FORBIDDEN")


def test_a_command_without_a_permission_is_not_taken() -> None:
    class Unasked(Command):
        op: ClassVar[str] = "unasked"

    taking = Taking(consumer=LANE, handler=lambda _: None, commands=(Unasked,))  # type: ignore[arg-type, return-value]

    with pytest.raises(ValueError, match="declares no permission"):
        Taker(_Bus(), "embedder", taking, breaker=Breaker("embedder"), cancels=None, puller=None)  # type: ignore[arg-type]


class _Bus:
    def bucket(self, _: object) -> None:
        return None
