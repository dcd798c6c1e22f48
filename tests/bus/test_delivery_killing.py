"""A command that kills its worker, and one that hangs it: each is buried soon, and nobody else is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.commands import Forget
from engram_contracts.events import JobTrouble
from engram_contracts.topology import EMBED_NOW, JOBS
from engram_runtime.bus import Appended
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus
from engram_runtime.provision import provision
from engram_runtime.service import Delivery, Outcome, Service, Taking
from engram_runtime.settings import Common
from support.burying import connected, forget, letters_there, until, working
from support.servers import ROOT, NatsServer, nats_server
from support.work_worker import POISON, WORK

OTHERS = 40
TENANTS = 10


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


async def test_what_kills_its_worker_is_buried_after_three_and_its_neighbours_are_not(
    server: NatsServer, tmp_path: Path
) -> None:
    handled = tmp_path / "handled"
    handled.touch()
    others = [forget(f"t{n % TENANTS}") for n in range(OTHERS)]
    poison, killing = forget("t1", POISON)
    deaths = 0
    async with connected(server) as bus:
        await provision(bus.jetstream, consumers=WORK)
        await bus.append([entry for _, entry in others[: OTHERS // 2]] + [killing])
        await bus.append([entry for _, entry in others[OTHERS // 2 :]])
        async with asyncio.timeout(60):
            while await letters_there(bus) == 0:
                deaths += await died(server, handled, bus)
        await rest_done(server, handled)
        dead = await bus.jetstream.get_last_msg("ENGRAM_DEAD", "engram.dead.embedder.t1")
        letters = await letters_there(bus)

    assert (letters, deaths) == (1, 3)
    assert dead.headers is not None
    assert dead.headers["Engram-Original-Nats-Msg-Id"] == poison.id
    assert "ended the worker" in dead.headers["Engram-Dead-Reason"]


async def test_what_was_buried_and_comes_again_is_only_acknowledged(server: NatsServer) -> None:
    command, entry = forget("t1")
    tried: list[str] = []

    async def handle(batch: Sequence[Delivery[Any]]) -> list[Outcome]:
        tried.extend(each.message.id for each in batch)
        return [None] * len(batch)

    async with connected(server) as bus:
        (appended,) = await bus.append([entry])
        assert isinstance(appended, Appended)
        ended = JobTrouble(
            state="dead", stage="embedder", attempt=3, reason="it ended its worker", code="INTERNAL_ERROR",
            at=command.accepted_at, work_sequence=appended.sequence,
        )  # fmt: skip
        await bus.bucket(JOBS).put(f"t1.{command.id}", ended.encode())
        await handed_back(bus, entry.subject)
        async with working(server, handle):
            await until(lambda: messages_in(bus, "ENGRAM_WORK"), 0)

    assert tried == []


async def test_what_hangs_is_given_up_and_buried_and_the_others_go_on(server: NatsServer) -> None:
    hanging, poison = forget()
    others = [forget() for _ in range(OTHERS)]
    handled: set[str] = set()

    async def handle(batch: Sequence[Delivery[Any]]) -> list[Outcome]:
        if any(each.message.id == hanging.id for each in batch):
            await asyncio.Event().wait()
        handled.update(each.message.id for each in batch)
        return [None] * len(batch)

    takes = tuple(
        Taking(consumer=replace(consumer, longest=0.3), handler=handle, commands=(Forget,)) for consumer in EMBED_NOW
    )
    async with connected(server) as bus:
        await bus.append([entry for _, entry in others] + [poison])
        async with hosted(Service(name="embedder", takes=takes), bus, Common()):
            await until(lambda: letters_there(bus), 1, seconds=60)
            await until(lambda: len(handled), OTHERS, seconds=60)
        dead = await bus.jetstream.get_last_msg("ENGRAM_DEAD", "engram.dead.embedder.*")

    assert dead.headers is not None
    assert dead.headers["Engram-Original-Nats-Msg-Id"] == hanging.id
    assert "hung, 2 times" in dead.headers["Engram-Dead-Reason"]


async def handed_back(bus: NatsBus, subject: str) -> None:
    """A message was delivered once, to somebody who did not answer for it."""
    lane = next(consumer for consumer in EMBED_NOW if consumer.filters[0].split(".")[2] == subject.split(".")[2])
    pulling = await bus.jetstream.pull_subscribe_bind(lane.name, stream=lane.stream.name)
    (message,) = await pulling.fetch(1, timeout=5)
    await message.nak()
    await pulling.unsubscribe()


async def messages_in(bus: NatsBus, stream: str) -> int:
    return (await bus.jetstream.stream_info(stream)).state.messages


def worker(server: NatsServer, handled: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "support.work_worker", server.url, str(handled)]
    return subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path})


async def rest_done(server: NatsServer, handled: Path) -> None:
    process = worker(server, handled)
    try:
        await until(lambda: len(set(handled.read_text().split())), OTHERS, seconds=30)
    finally:
        process.kill()
        process.wait()


async def died(server: NatsServer, handled: Path, bus: NatsBus) -> bool:
    """Whether a worker ended itself, which runs until it does or something is buried."""
    process = worker(server, handled)
    try:
        while process.poll() is None:
            if await letters_there(bus):
                return False
            await asyncio.sleep(0.01)
        return True
    finally:
        process.kill()
        process.wait()
