"""A worker that follows one partition of the log and hangs at one fact: `python -m support.log_worker URL FILE NUMBER`.

It appends the ids of what it applied to the file, which is its store and its position at once. It ends itself soon.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from engram_contracts.facts import Forgotten
from engram_contracts.topology import GRAPH_LOG
from engram_runtime.host import hosted
from engram_runtime.nats_bus import open_bus
from engram_runtime.service import Delivery, Following, Outcome, Service
from engram_runtime.settings import Common, HostSettings, NatsSettings

POISON = "poison"


async def follow(url: str, store: Path, partition: int) -> None:
    """Follow until killed."""

    async def position() -> int:
        return max((int(line.split()[0]) for line in store.read_text().splitlines()), default=0)

    async def handle(batch: Sequence[Delivery]) -> list[Outcome]:
        if any(each.message.memory_id == POISON for each in batch):
            await asyncio.Event().wait()
        with store.open("a") as out:
            out.writelines(f"{each.sequence} {each.message.memory_id}\n" for each in batch)
        return [None] * len(batch)

    consumer = GRAPH_LOG[partition]
    following = Following(consumer=consumer, handler=handle, position=position, messages={"forgotten": Forgotten})
    settings = Common(host=HostSettings(hang_seconds=0.8))
    async with (
        open_bus(NatsSettings(url=url), name="worker", durability="process") as bus,
        hosted(Service(name="graph", follows=(following,)), bus, settings),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
