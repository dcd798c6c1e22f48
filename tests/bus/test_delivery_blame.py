"""Whose fault it is: a message that hangs what it needs is buried, though it looks as if the dependency were away."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engram_contracts.errors import Unavailable
from engram_contracts.retry import Retry
from engram_contracts.topology import EMBED_NOW, WORK
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus
from engram_runtime.service import Delivery, Outcome, Service, Taking
from engram_runtime.settings import Common
from support.burying import connected, forget, letters_there, until
from support.servers import nats_server

TRIES = 3
OTHERS = 40


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[NatsBus]:
    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as opened:
            yield opened


async def test_a_message_that_hangs_its_dependency_is_buried_and_the_others_go_on(bus: NatsBus) -> None:
    hanging, poison = forget("acme")
    handled: Counter[str] = Counter()
    tries = 0

    async def handle(batch: Sequence[Delivery]) -> list[Outcome]:
        nonlocal tries
        if any(item.message.id == hanging.id for item in batch):
            tries += 1
            return [Unavailable("the model did not answer within 2 s")] * len(batch)
        handled.update(item.message.id for item in batch)
        return [None] * len(batch)

    others = [forget("acme") for _ in range(OTHERS)]
    await bus.append([entry for _, entry in others[: OTHERS // 2]] + [poison])
    async with hosted(service(handle), bus, Common()):
        await bus.append([entry for _, entry in others[OTHERS // 2 :]])
        await until(lambda: len(handled), OTHERS)
        while not await letters_there(bus):
            await bus.append([(answered := forget("acme"))[1]])  # others are served all along
            await until(lambda identity=answered[0].id: identity in handled)
            await asyncio.sleep(0.05)
        await until(lambda: waiting(bus), 0)

    assert set(handled) >= {command.id for command, _ in others}
    assert set(handled.values()) == {1}
    assert TRIES <= tries <= 3 * TRIES + 3


async def waiting(bus: NatsBus) -> int:
    return (await bus.jetstream.stream_info(WORK.name)).state.messages


def service(handle) -> Service:
    quick = Retry(attempts=TRIES, first=0.05, most=0.1)
    takes = tuple(
        Taking(consumer=replace(consumer, retry=quick), handler=handle, commands=(type(forget()[0]),))
        for consumer in EMBED_NOW
    )
    return Service(name="embedder", takes=takes)
