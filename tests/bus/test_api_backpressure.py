"""A door under pressure: who floods is told when to come back, others are served, nobody waits for a dead broker."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.js.errors import ServiceUnavailableError

from engram_api.settings import ServeSettings
from engram_contracts.events import Served
from engram_contracts.questions import FindJob, Found, Recall, Recollection
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import USAGE, WORK, work_subject
from engram_runtime.provision import provision
from support.door import DoorUnderTest, Reply, open_door
from support.servers import NatsServer, nats_server

BOUNDS = {"tenant_requests": 20, "body_bytes": 8 * 2**20, "body_seconds": 2.0, "think_seconds": 2.0}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    async with open_door(broker, tmp_path_factory.mktemp("data"), serve=BOUNDS) as door:
        await provision(door.bus.jetstream)
        yield door


@pytest.fixture(autouse=True)
async def emptied(door: DoorUnderTest) -> None:
    door.parts.scripts = {FindJob: lambda _: Found()}
    await door.bus.jetstream.purge_stream(WORK.name)


async def test_a_tenant_has_so_many_requests_in_hand_and_others_are_served(door: DoorUnderTest) -> None:
    other = await door.new_key("quiet")
    questions = [asyncio.create_task(door.call("POST", "/v1/think", {"question": "?"})) for _ in range(30)]
    async with asyncio.timeout(5.0):
        while sum(task.done() for task in questions) < 10:
            await asyncio.sleep(0.005)

    served = await door.call("POST", "/v1/memories", {"content": "a"}, key=other)
    refused = await door.call("POST", "/v1/memories", {"content": "a"})
    alive = await door.call("GET", "/health", key=None)
    statuses = [reply.status for reply in await asyncio.gather(*questions)]

    assert (served.status, refused.status, alive.status) == (202, 429, 200)
    assert int(refused.headers["Retry-After"]) >= 1
    assert (statuses.count(202), statuses.count(429)) == (20, 10)
    assert (await door.call("POST", "/v1/memories", {"content": "a"})).status == 202


async def test_room_for_a_body_is_made_before_it_is_read(door: DoorUnderTest) -> None:
    other = await door.new_key("small")
    head = (
        f"POST /v1/memories HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
    )

    writers = []

    async def begin() -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(head.encode() + b"{")
        writers.append(writer)
        return reader

    first = await begin()
    async with asyncio.timeout(5.0):
        second = await (await begin()).readline()
        served = await write(door, other)
        late = await first.readline()
    for writer in writers:
        writer.close()

    assert b" 429 " in second and b" 408 " in late
    assert served.status == 202


async def test_a_refusal_follows_what_waits_and_how_fast_it_goes(door: DoorUnderTest) -> None:
    tight = dataclasses.replace(WORK, per_subject=10)
    await provision(door.bus.jetstream, streams=(tight,), consumers=(), buckets=())
    try:
        key = await door.new_key("stuck")
        for _ in range(10):
            await door.call("POST", "/v1/memories", {"content": "a"}, key=key)
        async with asyncio.timeout(10.0):
            while (refused := await write(door, key)).headers["Retry-After"] == "1":
                await asyncio.sleep(0.1)
    finally:
        await provision(door.bus.jetstream, streams=(WORK,), consumers=(), buckets=())

    assert (refused.status, refused.error["code"], refused.headers["Retry-After"]) == (429, "RATE_LIMITED", "60")


async def test_a_producer_on_the_broker_reads_the_same_refusals(door: DoorUnderTest) -> None:
    async def refused(**bound: int) -> tuple[int, str]:
        await provision(door.bus.jetstream, streams=(dataclasses.replace(WORK, **bound),), consumers=(), buckets=())
        try:
            with pytest.raises(ServiceUnavailableError) as caught:
                for _ in range(4):
                    await door.bus.jetstream.publish(work_subject("direct", "forget"), b"{}")
            return int(caught.value.err_code or 0), str(caught.value.description)
        finally:
            await provision(door.bus.jetstream, streams=(WORK,), consumers=(), buckets=())
            await door.bus.jetstream.purge_stream(WORK.name)

    tenant, messages = await refused(per_subject=3), await refused(max_messages=3)

    assert (tenant[0], messages[0]) == (10077, 10077)
    assert tenant[1].endswith("per subject exceeded") and "per subject" not in messages[1]


async def write(door: DoorUnderTest, key: str = "") -> Reply:
    return await door.call("POST", "/v1/memories", {"content": "a"}, key=key)


async def test_while_one_tenant_floods_no_request_of_another_is_refused(door: DoorUnderTest) -> None:
    greedy, quiet = await door.new_key("greedy"), await door.new_key("patient")
    bulk, few = {"memories": [{"content": "flood"}] * 200}, {"memories": [{"content": "b"}] * 9}
    until = time.monotonic() + 2.0
    statuses: list[int] = []

    async def flood() -> None:
        while time.monotonic() < until:
            statuses.append((await door.call("POST", "/v1/memories", bulk, key=greedy)).status)

    async def calmly() -> list[int]:
        seen = []
        while time.monotonic() < until:
            seen.append((await write(door, quiet)).status)
            seen.append((await door.call("POST", "/v1/memories", few, key=quiet)).status)
            await asyncio.sleep(0.05)
        return seen

    tasks = [asyncio.create_task(flood()) for _ in range(40)]
    served = await calmly()
    await asyncio.gather(*tasks)

    assert set(served) == {202}
    assert set(statuses) <= {202, 207, 429} and 429 in statuses


async def test_beyond_its_share_a_large_request_is_refused_before_it_is_read_and_workers_know(
    door: DoorUnderTest,
) -> None:
    heavy, calm = await door.new_key("heavy"), await door.new_key("calm")
    large = {"memories": [{"content": "x" * 100}] * 300}
    head = (
        f"POST /v1/memories HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {heavy}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    )

    async def calmly() -> None:
        while True:
            await write(door, calm)

    async with door.bus.events(SYSTEM, Served) as told, asyncio.timeout(30.0):
        calming = asyncio.create_task(calmly())
        while "calm" not in (served := await anext(aiter(told))).tenants:
            pass
        taken = await door.call("POST", "/v1/memories", large, key=heavy)
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(head.encode())
        refused = await reader.readline()
        small = await write(door, heavy)
        calming.cancel()
    writer.close()

    assert (taken.status, small.status) == (202, 202)
    assert b" 429 " in refused
    assert served.share == ServeSettings().tenant_share


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_without_a_broker_a_request_is_refused_within_two_seconds(tmp_path: Path, how: str) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with open_door(server, tmp_path / "data") as door:
            door.parts.scripts = {Recall: lambda _: Recollection(hits=())}
            assert (await door.call("POST", "/v1/recall", {"query": "a"})).status == 200
            assert server.process is not None
            process = server.process
            if how == "killed":
                server.kill()
            else:
                os.kill(process.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # until then it may still answer
            try:
                seen = await asyncio.gather(
                    timed(door, "POST", "/v1/memories", {"content": "a"}),
                    timed(door, "POST", "/v1/memories", {"content": "a"}, headers={"Idempotency-Key": "k"}),
                    timed(door, "POST", "/v1/memories", {"memories": [{"content": "a"}] * 20}),
                    *([timed(door, "POST", "/v1/recall", {"query": "a"})] if how == "killed" else []),
                )
            finally:
                if how == "hangs":
                    os.kill(process.pid, signal.SIGCONT)
                else:
                    server.start()
            async with asyncio.timeout(15.0):
                while (await write(door)).status != 202:
                    await asyncio.sleep(0.05)

    for reply, seconds in seen:
        assert (reply.status, reply.error["code"]) == (503, "UNAVAILABLE")
        assert seconds < 2.6 and int(reply.headers["Retry-After"]) >= 1


async def test_a_read_that_cannot_be_metered_is_refused_within_two_seconds(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with open_door(server, tmp_path / "data") as door:
            door.parts.scripts = {Recall: lambda _: Recollection(hits=())}
            await door.bus.jetstream.delete_stream(USAGE.name)

            reply, seconds = await timed(door, "POST", "/v1/recall", {"query": "a"})

    assert (reply.status, reply.error["code"]) == (503, "UNAVAILABLE")
    assert seconds < 2.6


async def timed(door: DoorUnderTest, *request: object, **how: object) -> tuple[Reply, float]:
    began = time.monotonic()
    reply = await door.call(*request, **how)  # type: ignore[arg-type]
    return reply, time.monotonic() - began
