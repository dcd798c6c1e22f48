"""More embedders: one that is added while there is work takes its part, and nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from engram_contracts.commands import Remember
from engram_contracts.facts import Remembered
from engram_contracts.ids import new_id
from engram_contracts.memory import MemoryFields
from engram_contracts.topology import LOG, WORK, work_subject
from engram_runtime.bus import Entry
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from support.embedders import another_embedder, handled, remote
from support.fake_embeddings import FakeEmbeddings, fake_embeddings
from support.servers import nats_server
from support.waiting import holds

TENANTS = tuple(f"tenant-{number}" for number in range(8))
LOT = 320


async def test_an_embedder_that_is_added_takes_its_part_and_nothing_is_done_twice(tmp_path: Path) -> None:
    commands = [remember(f"Barge {number} carries bricks") for number in range(2 * LOT)]
    with nats_server(tmp_path / "nats") as server, contextlib.ExitStack() as workers:
        nats = NatsSettings(url=server.url)
        async with open_bus(nats, name="test", durability="process") as bus, fake_embeddings() as model:
            await provision(bus.jetstream)
            model.reply = after(model, 0.05)
            settings = remote(model.url, model.dimension)

            await bus.append(entries(commands[:LOT]))
            first = workers.enter_context(another_embedder(nats, tmp_path / "first", settings))
            assert await holds(lambda: left(bus, 0))
            alone = await handled(bus)
            second = workers.enter_context(another_embedder(nats, tmp_path / "second", settings))
            assert await holds(lambda: answers(bus, second.pid))
            await bus.append(entries(commands[LOT:]))
            assert await holds(lambda: left(bus, 0))
            together = await handled(bus)
            facts = await remembered(bus)

    embedded = Counter(text for request in model.requests for text in request["input"])
    assert alone == {first.pid: LOT}
    assert together[first.pid] > LOT and together[second.pid] > 0
    assert sum(together.values()) == 2 * LOT
    assert facts == Counter(command.memory_id for command in commands)
    assert embedded == Counter(command.memory.content for command in commands)


def remember(content: str) -> Remember:
    now = datetime.now(UTC)
    return Remember(id=new_id(), accepted_at=now, memory_id=new_id(), memory=MemoryFields(content=content))


def entries(commands: list[Remember]) -> list[Entry]:
    return [
        Entry(subject=work_subject(TENANTS[number % len(TENANTS)], command.op), body=command.encode(), id=command.id)
        for number, command in enumerate(commands)
    ]


def after(model: FakeEmbeddings, seconds: float) -> Any:
    """Good answers, each after a while."""

    async def reply(body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return web.json_response(model.vectors(body))

    return reply


async def left(bus: NatsBus, count: int) -> bool:
    """Whether the queue holds so many messages."""
    return bool((await bus.jetstream.stream_info(WORK.name)).state.messages == count)


async def answers(bus: NatsBus, pid: int) -> bool:
    return pid in await handled(bus)


async def remembered(bus: NatsBus) -> Counter[str]:
    stored = await bus.archive(LOG).read(1, pattern="engram.log.>", limit=10_000)
    return Counter(Remembered.model_validate_json(each.body).memory.id for each in stored)
