"""The broker is started anew while buckets are written: whoever waits for an answer gets a true one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.errors import Unavailable
from engram_contracts.questions import FindIndexed, Indexed
from engram_contracts.topology import DUE, SETTINGS, WORK
from engram_runtime.host import hosted
from engram_runtime.lost import LostError
from engram_runtime.nats_bus import NatsKeyValue
from engram_runtime.service import Service
from engram_runtime.settings import Common
from support.burying import connected, until
from support.servers import nats_server

AT_ONCE = 8
ROUNDS = 3


async def test_what_is_created_across_a_restart_is_created_once_and_said_so(tmp_path: Path) -> None:
    made: dict[str, bool] = {}
    going = True

    async def create(bucket: NatsKeyValue, place: int) -> None:
        number = 0
        while going:
            number += 1
            made[f"k{place}-{number}"] = await bucket.create(f"k{place}-{number}", f"{place}/{number}".encode())

    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus:
            bucket = bus.bucket(SETTINGS)
            writing = [asyncio.create_task(create(bucket, place)) for place in range(AT_ONCE)]
            for _ in range(ROUNDS):
                before = len(made)
                await grown(made, before + 50)
                server.kill()
                server.start()
            await grown(made, len(made) + 50)
            going = False
            await asyncio.gather(*writing)
            held = [await bucket.get(key) for key in made]

    assert set(made.values()) == {True}
    assert None not in held


async def test_an_update_whose_answer_was_lost_is_not_taken_for_anothers(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus:
            bucket = bus.bucket(SETTINGS)
            await bucket.create("k", b"1")
            first = await bucket.entry("k")
            assert first is not None
            opened = await bucket._open()
            true_update = opened.update

            async def deaf(key: str, value: bytes, last: int) -> int:
                opened.update = true_update
                await true_update(key, value, last=last)
                raise LostError

            opened.update = deaf
            revision = await bucket.update("k", b"2", first[1])
            stale = await bucket.update("k", b"3", first[1])

    assert revision == first[1] + 1
    assert stale is None


async def test_a_connection_that_was_closed_a_moment_ago_is_no_fault_of_ours(tmp_path: Path) -> None:
    closed = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus:
            bucket = bus.bucket(SETTINGS)
            opened = await bucket._open()
            true_create = opened.create

            async def shut(key: str, value: bytes) -> int:
                opened.create = true_create
                raise closed

            opened.create = shut
            created = await bucket.create("k", b"1")
            held = await bucket.get("k")

    assert created
    assert held == b"1"


async def grown(made: dict[str, bool], count: int) -> None:
    async with asyncio.timeout(20.0):
        while len(made) < count:
            await asyncio.sleep(0.01)


async def test_what_only_reads_is_asked_again_where_its_answer_was_lost(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus:
            true_request = bus.client.request
            lost = 0

            async def deaf(*words: Any, **how: Any) -> Any:
                nonlocal lost
                bus.client.request = true_request
                await true_request(*words, **how)
                lost += 1
                raise LostError

            answers: list[Any] = []
            for ask in (lambda: bus.read(WORK, 1), lambda: bus.backlog(DUE), bus.archive(WORK).extent):
                bus.client.request = deaf
                answers.append(await ask())

    assert lost == 3
    assert (answers[0], answers[1].depth, answers[2].messages) == (None, 0, 0)


async def test_a_broker_that_hangs_is_told_of_instead_of_waited_for(tmp_path: Path) -> None:
    asked = FindIndexed(tenant="acme", memory_id="m")

    async def answer(_: FindIndexed) -> Indexed:
        return Indexed()

    with nats_server(tmp_path / "nats") as server:
        service = Service(name="vectors", answers={FindIndexed: answer})
        async with connected(server) as bus, connected(server) as other, hosted(service, other, Common()):
            before = await bus.ask(asked, within=5.0)
            os.kill(server.process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)  # until then it may still answer
            try:
                with pytest.raises(Unavailable, match="broker does not answer"):
                    await bus.ask(asked, within=60.0)
                with pytest.raises(Unavailable, match="broker does not answer"):
                    await bus.ask(asked, within=60.0)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)
            await until(lambda: bus.pulse.silent, False)
            after = await bus.ask(asked, within=20.0)

    assert before == after
