"""The broker is started anew while buckets are written: whoever waits for an answer gets a true one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from engram_contracts.topology import SETTINGS
from engram_runtime.nats_bus import LostError, NatsKeyValue
from support.burying import connected
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
