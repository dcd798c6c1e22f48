"""Who wants to read what they wrote names its job: the recall waits for the index, and says so where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from engram_contracts.events import Progress
from engram_contracts.ids import JobId, new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import (
    FindIndexed,
    FindJob,
    Found,
    GetMemory,
    Indexed,
    IndexedMemory,
    JobRecord,
    Recall,
    Recollection,
)
from support.door import DoorUnderTest, Reply, open_door
from support.servers import nats_server


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    with nats_server(tmp_path_factory.mktemp("nats")) as broker:
        async with open_door(broker, tmp_path_factory.mktemp("data")) as door:
            yield door


@pytest.fixture(autouse=True)
def nothing_known(door: DoorUnderTest) -> None:
    door.parts.asked.clear()
    door.parts.scripts = {
        Recall: lambda _: Recollection(hits=()),
        FindIndexed: lambda _: Indexed(),
        FindJob: lambda _: Found(),
    }


async def recall(door: DoorUnderTest, *commands: str) -> Reply:
    jobs = [JobId(1, command).text("default", door.pepper) for command in commands]
    return await door.call("POST", "/v1/recall", {"query": "x", "written": jobs})


def recalled(door: DoorUnderTest) -> int:
    return sum(isinstance(question, Recall) for question in door.parts.asked)


def indexed(memory_id: str, command: str, *earlier: str) -> Indexed:
    now = datetime.now(UTC)
    memory = Memory(id=memory_id, content="x", created_at=now, updated_at=now)
    return Indexed(found=IndexedMemory(memory=memory, indexed_at=now, command=command, earlier=earlier))


async def test_a_recall_waits_until_what_was_written_is_in_the_index(door: DoorUnderTest) -> None:
    command = new_id()

    waiting = asyncio.create_task(recall(door, command))
    async with asyncio.timeout(5):
        while not any(isinstance(question, FindIndexed) for question in door.parts.asked):
            await asyncio.sleep(0.01)
    before = recalled(door)
    await door.bus.emit("default", Progress(stage="indexed", commands=(command,), at=datetime.now(UTC)))
    reply = await waiting

    assert (before, recalled(door)) == (0, 1)
    assert (reply.status, reply.meta.get("degraded")) == (200, None)


async def test_what_the_index_shows_already_is_not_waited_for(door: DoorUnderTest) -> None:
    made, changed, memory_id = new_id(), new_id(), new_id()
    at = datetime.now(UTC)
    record = JobRecord(memory_id=memory_id, accepted_at=at, embedded_at=at, linked_at=at)
    door.parts.scripts |= {
        FindJob: lambda asked: Found(found=record if asked.command == changed else None),
        FindIndexed: lambda asked: indexed(asked.memory_id, new_id(), changed),
    }

    reply = await recall(door, made, changed)

    assert (reply.status, reply.meta.get("degraded")) == (200, None)


async def test_an_index_that_lags_is_asked_all_the_same_and_the_answer_says_so(door: DoorUnderTest) -> None:
    at = datetime.now(UTC)
    memory = Memory(id=new_id(), content="x", created_at=at, updated_at=at)
    record = JobRecord(memory_id=memory.id, accepted_at=at, embedded_at=at, linked_at=at)
    door.parts.scripts |= {FindJob: lambda _: Found(found=record), GetMemory: lambda _: memory}

    reply = await recall(door, new_id())

    assert reply.status == 200
    assert [reason.startswith("index: does not show job_") for reason in reply.meta["degraded"]] == [True]


async def test_a_job_of_somebody_else_is_none(door: DoorUnderTest) -> None:
    foreign = JobId(1, new_id()).text("other", door.pepper)

    assert (await door.call("POST", "/v1/recall", {"query": "x", "written": [foreign]})).status == 404
