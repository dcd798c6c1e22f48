"""Jobs that end early: cancelled while they wait or run, or past their deadline; and what their timeline tells."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.errors import Error as NatsError

from engram_contracts.commands import INGEST, Think
from engram_contracts.errors import Internal
from engram_contracts.ids import JobId, new_id
from engram_contracts.questions import FindIndexed, FindJob, Found, Indexed, JobRecord
from engram_contracts.topology import EMBED_NOW, THINK, WORK
from engram_runtime.host import hosted
from engram_runtime.provision import provision
from engram_runtime.service import Delivery, Outcome, Service, Taking
from engram_runtime.settings import Common
from support.burying import connected, until
from support.door import DoorUnderTest, open_door
from support.servers import NatsServer, nats_server

Handle = Callable[[Sequence[Delivery[Any]]], Any]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    folder: Path = tmp_path_factory.mktemp("data")
    async with open_door(broker, folder, plays=("graph", "vectors"), serve={"think_seconds": 5.0}) as door:
        await provision(door.bus.jetstream)
        yield door


@pytest.fixture(autouse=True)
async def emptied(door: DoorUnderTest) -> None:
    door.parts.scripts = {FindIndexed: lambda _: Indexed(), FindJob: lambda _: Found()}
    await door.bus.jetstream.purge_stream(WORK.name)


@contextlib.asynccontextmanager
async def worker(broker: NatsServer, name: str, handle: Handle) -> AsyncIterator[None]:
    """An embedder or a reasoner that handles as told."""
    consumers, commands = (EMBED_NOW, INGEST) if name == "embedder" else (THINK, (Think,))
    takes = tuple(Taking(consumer=consumer, handler=handle, commands=commands) for consumer in consumers)
    async with connected(broker, provisioned=False) as bus, hosted(Service(name=name, takes=takes), bus, Common()):
        yield


async def state(door: DoorUnderTest, job: str) -> str:
    return str((await door.call("GET", f"/v1/jobs/{job}")).data["state"])


async def queued(door: DoorUnderTest) -> int:
    try:
        return int((await door.bus.jetstream.stream_info(WORK.name)).state.messages)
    except NatsError:  # the connection is just coming back
        return -1


class Handled:
    """Handles everything, and remembers it."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def __call__(self, batch: Sequence[Delivery[Any]]) -> list[Outcome]:
        self.ids += [item.message.id for item in batch]
        return [None] * len(batch)


async def test_what_waits_is_cancelled_before_a_worker_handles_it(door: DoorUnderTest, broker: NatsServer) -> None:
    kept = (await door.call("POST", "/v1/memories", {"content": "kept"})).data
    given_up = (await door.call("POST", "/v1/memories", {"content": "given up"})).data
    handled = Handled()

    asked = await door.call("DELETE", f"/v1/jobs/{given_up['job']}")
    before = (await door.call("GET", f"/v1/jobs/{given_up['job']}")).data
    async with worker(broker, "embedder", handled):
        await until(lambda: queued(door), 0)
    after = (await door.call("GET", f"/v1/jobs/{given_up['job']}")).data
    again = await door.call("DELETE", f"/v1/jobs/{given_up['job']}")

    assert (asked.status, asked.data["cancelling"]) == (202, True)
    assert (before["state"], before["cancelling"]) == ("accepted", True)
    assert (after["state"], after["cancelling"]) == ("cancelled", False)
    assert [step["stage"] for step in after["timeline"]] == ["accepted", "cancelling", "cancelled"]
    assert handled.ids == [kept["id"]]
    assert (again.status, again.data["state"]) == (200, "cancelled")


async def test_a_worker_that_runs_already_hears_of_it(door: DoorUnderTest, broker: NatsServer) -> None:
    handled = Handled()

    async def fails(batch: Sequence[Delivery[Any]]) -> list[Outcome]:
        await handled(batch)
        return [Internal("not now", retry_after=0.3) for _ in batch]

    async with worker(broker, "embedder", fails):
        made = (await door.call("POST", "/v1/memories", {"content": "a"})).data
        await until(lambda: len(handled.ids) > 0)
        await door.call("DELETE", f"/v1/jobs/{made['job']}")
        await until(lambda: state(door, made["job"]), "cancelled")
        tries = len(handled.ids)
        told = (await door.call("GET", f"/v1/jobs/{made['job']}")).data
        left = await queued(door)

    assert left == 0 and len(handled.ids) == tries
    failed = [step for step in told["timeline"] if step["stage"] == "embedder"]
    assert [step["attempt"] for step in failed] == list(range(1, tries + 1))
    assert {step["reason"] for step in failed} == {"not now"}


async def test_a_question_that_runs_is_cancelled_and_who_waits_is_told(door: DoorUnderTest, broker: NatsServer) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    async def think(_: Sequence[Delivery[Any]]) -> list[Outcome]:
        running.set()
        try:
            await asyncio.sleep(60.0)
        finally:
            stopped.set()
        return [None]

    async with worker(broker, "reasoner", think):
        asking = asyncio.create_task(door.call("POST", "/v1/think", {"question": "?"}))
        await asyncio.wait_for(running.wait(), 5.0)
        job = await job_of_last(door)
        await door.call("DELETE", f"/v1/jobs/{job}")
        await asyncio.wait_for(stopped.wait(), 2.0)
        reply = await asking
        await until(lambda: queued(door), 0)

    assert (reply.status, reply.error["code"], reply.error["message"]) == (409, "CONFLICT", "it was cancelled")
    assert await state(door, job) == "cancelled"


async def job_of_last(door: DoorUnderTest) -> str:
    last = (await door.bus.jetstream.stream_info(WORK.name)).state.last_seq
    stored = await door.bus.jetstream.get_msg(WORK.name, seq=last)
    return JobId(last, str((stored.headers or {})["Nats-Msg-Id"])).text("default", door.pepper)


async def test_a_question_past_its_deadline_is_ended_while_it_runs(door: DoorUnderTest, broker: NatsServer) -> None:
    tried = 0

    async def think(_: Sequence[Delivery[Any]]) -> list[Outcome]:
        nonlocal tried
        tried += 1
        await asyncio.sleep(60.0)
        return [None]

    began = time.monotonic()
    async with worker(broker, "reasoner", think):
        asking = asyncio.create_task(door.call("POST", "/v1/think", {"question": "?", "deadline_ms": 300}))
        await until(lambda: queued(door), 1)
        job = await job_of_last(door)
        reply = await asking
        await until(lambda: queued(door), 0)

    assert (reply.status, reply.error["code"]) == (409, "CONFLICT") and "deadline" in reply.error["message"]
    assert time.monotonic() - began < 3.0 and tried == 1
    assert await state(door, job) == "expired"


async def test_work_past_its_deadline_is_ended_and_not_tried(door: DoorUnderTest, broker: NatsServer) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
    late, many, kept = [
        (await door.call("POST", "/v1/memories", body, headers={"Engram-Deadline": deadline})).data
        for body, deadline in (
            ({"content": "late"}, soon), ({"memories": [{"content": "a"}] * 3}, soon), ({"content": "b"}, "2999-01-01"),
        )
    ]  # fmt: skip
    await until(lambda: datetime.now(UTC).isoformat() > soon)
    handled = Handled()

    async with worker(broker, "embedder", handled):
        await until(lambda: queued(door), 0)
    told = (await door.call("GET", f"/v1/jobs/{late['job']}")).data

    assert handled.ids == [kept["id"]]
    assert told["state"] == "expired" and "deadline" in told["reason"]
    assert [await state(door, one["job"]) for one in many["memories"]] == ["expired"] * 3


async def test_a_wait_for_what_expires_ends_with_it(door: DoorUnderTest, broker: NatsServer) -> None:
    headers = {"Engram-Deadline": datetime.now(UTC).isoformat()}
    began = time.monotonic()

    async with worker(broker, "embedder", Handled()):
        reply = await door.call("POST", "/v1/memories?wait=indexed", {"content": "a"}, headers=headers)

    assert reply.status == 202 and time.monotonic() - began < 2.0


@pytest.mark.parametrize("given", ["soon", "", "12", "2026-13-01T00:00:00Z"])
async def test_a_deadline_that_is_no_time_is_refused(door: DoorUnderTest, given: str) -> None:
    reply = await door.call("POST", "/v1/memories", {"content": "a"}, headers={"Engram-Deadline": given})

    assert (reply.status, reply.error["field"]) == (400, "Engram-Deadline")


async def test_what_took_effect_cannot_be_cancelled(door: DoorUnderTest) -> None:
    made = (await door.call("POST", "/v1/memories", {"content": "a"})).data
    now = datetime.now(UTC)
    record = JobRecord(memory_id=made["id"], accepted_at=now, embedded_at=now, linked_at=now)
    door.parts.scripts[FindJob] = lambda _: Found(found=record)

    reply = await door.call("DELETE", f"/v1/jobs/{made['job']}")

    assert (reply.status, reply.error["code"]) == (409, "CONFLICT")


async def test_jobs_of_others_cannot_be_cancelled_and_readers_cancel_nothing(door: DoorUnderTest) -> None:
    made = (await door.call("POST", "/v1/memories", {"content": "a"})).data
    other, reader = await door.new_key("elsewhere"), await door.new_key("default", "reader")

    foreign = await door.call("DELETE", f"/v1/jobs/{made['job']}", key=other)
    unknown = await door.call("DELETE", f"/v1/jobs/job_1_{new_id().replace('-', '')}_0", key=other)
    read_only = await door.call("DELETE", f"/v1/jobs/{made['job']}", key=reader)

    assert (foreign.status, unknown.status, read_only.status) == (404, 404, 403)
    assert foreign.error["message"] == unknown.error["message"]
    assert (await door.call("GET", f"/v1/jobs/{made['job']}")).data["cancelling"] is False


async def test_a_cancel_mark_outlives_the_broker(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with open_door(server, tmp_path / "data", plays=("graph", "vectors")) as door:
            door.parts.scripts = {FindIndexed: lambda _: Indexed(), FindJob: lambda _: Found()}
            await provision(door.bus.jetstream)
            made = (await door.call("POST", "/v1/memories", {"content": "a"})).data
            await door.call("DELETE", f"/v1/jobs/{made['job']}")
            server.kill()
            server.start()
            await until(lambda: door.bus.connected)
            handled = Handled()
            async with worker(server, "embedder", handled):
                await until(lambda: queued(door), 0)

    assert handled.ids == []
