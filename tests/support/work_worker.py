"""A worker of the embedder's stage that one command kills: `python -m support.work_worker URL FILE`.

It writes the ids of what it handled to the file, and ends itself for a memory that is called `poison`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engram_contracts.commands import Forget
from engram_contracts.topology import EMBED_NOW
from engram_runtime.host import hosted
from engram_runtime.nats_bus import open_bus
from engram_runtime.service import Delivery, Outcome, Service, Taking
from engram_runtime.settings import Common, NatsSettings

POISON = "poison"
WORK = tuple(replace(consumer, ack_wait=2.0) for consumer in EMBED_NOW)


async def work(url: str, handled: Path) -> None:
    """Work until killed."""

    async def handle(batch: Sequence[Delivery[Any]]) -> list[Outcome]:
        for each in batch:
            if each.message.memory_id == POISON:
                os._exit(9)
        with handled.open("a") as out:
            out.writelines(f"{each.message.id}\n" for each in batch)
        return [None] * len(batch)

    takes = tuple(Taking(consumer=consumer, handler=handle, commands=(Forget,)) for consumer in WORK)
    async with (
        open_bus(NatsSettings(url=url), name="worker", durability="process") as bus,
        hosted(Service(name="embedder", takes=takes), bus, Common()),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2])))
