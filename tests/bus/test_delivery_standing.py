"""A follower whose store cannot be written tries for ever, and its process says so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from engram_contracts.facts import Forgotten
from engram_contracts.ids import new_id, partition_of
from engram_contracts.topology import GRAPH_LOG, log_subject
from engram_runtime.bus import Entry
from engram_runtime.health import Health
from engram_runtime.host import hosted
from engram_runtime.service import Delivery, Following, Outcome, Service
from engram_runtime.settings import Common
from support.burying import connected, letters_there, until
from support.servers import nats_server

CONSUMER = GRAPH_LOG[partition_of("acme")]


async def test_while_a_store_cannot_be_written_readiness_and_a_metric_say_so(tmp_path: Path) -> None:
    applied: list[int] = []
    disk_is_full = True

    async def handle(batch: Sequence[Delivery[Any]]) -> list[Outcome]:
        if disk_is_full:
            raise OSError(28, "No space left on device")
        applied.extend(each.sequence for each in batch)
        return [None] * len(batch)

    async def position() -> int:
        return max(applied, default=0)

    following = Following(consumer=CONSUMER, handler=handle, position=position, messages={"forgotten": Forgotten})
    with nats_server(tmp_path / "nats") as server:
        async with (
            connected(server) as bus,
            hosted(Service(name="graph", follows=(following,)), bus, Common()) as health,
        ):
            await bus.append([fact()])
            await until(lambda: said(health), "OSError: [Errno 28] No space left on device")
            standing = metric()
            disk_is_full = False
            await until(lambda: said(health), "")
            letters = await letters_there(bus)

    assert (standing, metric()) == (1.0, 0.0)
    assert (applied, letters) == ([1], 0)


async def said(health: Health) -> str:
    check = (await health.pong()).checks["log"]
    assert check.ok == (check.detail is None)
    return (check.detail or "").partition(f"{CONSUMER.name} stands still at 0: ")[2]


def metric() -> float | None:
    return REGISTRY.get_sample_value("engram_follower_standing_still", {"stage": "graph", "consumer": CONSUMER.name})


def fact() -> Entry:
    now = datetime.now(UTC)
    made = Forgotten(command=new_id(), accepted_at=now, at=now, memory_id=new_id())
    return Entry(subject=log_subject("acme", "forgotten"), body=made.encode(), id=made.command)
