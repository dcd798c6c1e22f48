"""A memory that was accepted can be changed, judged and forgotten at once, wherever it lies by then."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.errors import NotFound, Unavailable
from engram_contracts.facts import Remembered
from engram_contracts.ids import JobId, new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import FindIndexed, GetMemory, Indexed, Question
from engram_contracts.topology import LANES, WORK, WorkSubject, log_subject
from engram_runtime.bus import Appended, Entry
from support.door import DoorUnderTest, Reply, Script, open_door
from support.memories import embedding
from support.servers import nats_server


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    folder: Path = tmp_path_factory.mktemp("door")
    with nats_server(folder / "nats") as server:
        async with open_door(server, folder / "data", serve={"ask_seconds": 0.5}) as door:
            door.parts.scripts = {GetMemory: unknown, FindIndexed: lambda _: Indexed()}
            yield door


def unknown(question: GetMemory) -> Any:
    raise NotFound(question.memory_id)


def recorded(question: GetMemory) -> Memory:
    now = datetime.now(UTC)
    return Memory(id=question.memory_id, created_at=now, updated_at=now, content="a")


def unanswered(_: FindIndexed) -> Any:
    raise Unavailable("the index is away")


@contextlib.contextmanager
def scripted(door: DoorUnderTest, scripts: dict[type[Question[Any]], Script]) -> Iterator[None]:
    before = dict(door.parts.scripts)
    door.parts.scripts |= scripts
    yield
    door.parts.scripts = before


async def lane_of(door: DoorUnderTest, job: str) -> str:
    named = JobId.parse(job, "default", door.pepper)
    assert named is not None
    stored = await door.bus.jetstream.get_msg(WORK.name, seq=named.sequence)
    return WorkSubject.parse(str(stored.subject)).lane


async def judged(door: DoorUnderTest, memory_id: str) -> Reply:
    return await door.call("POST", f"/v1/memories/{memory_id}/feedback", {"verdict": "useful"})


async def test_what_waits_to_be_embedded_can_be_changed_and_forgotten(door: DoorUnderTest) -> None:
    accepted = (await door.call("POST", "/v1/memories", {"content": "a"})).data

    changed = await door.call("PATCH", f"/v1/memories/{accepted['id']}", {"content": "b"})
    forgotten = await door.call("DELETE", f"/v1/memories/{accepted['id']}")

    assert (changed.status, forgotten.status) == (202, 202)
    lanes = [await lane_of(door, each["job"]) for each in (accepted, changed.data, forgotten.data)]
    assert len(set(lanes)) == 1


async def test_without_the_index_what_waits_and_what_arrives_can_be_changed(door: DoorUnderTest) -> None:
    accepted = (await door.call("POST", "/v1/memories", {"content": "a"})).data["id"]
    looks = iter((unknown, recorded))

    def look(question: GetMemory) -> Any:
        return next(looks)(question)

    with scripted(door, {FindIndexed: unanswered}):
        changed = await door.call("PATCH", f"/v1/memories/{accepted}", {"content": "b"})
        unheard_of = await door.call("DELETE", f"/v1/memories/{new_id()}")
    with scripted(door, {FindIndexed: unanswered, GetMemory: look}):
        arrived = await door.call("DELETE", f"/v1/memories/{new_id()}")

    assert (changed.status, unheard_of.status, arrived.status) == (202, 404, 202)


async def test_a_change_of_what_waits_among_bulk_goes_behind_it(door: DoorUnderTest) -> None:
    bulk = (await door.call("POST", "/v1/memories", {"memories": [{"content": "a"}] * 20})).data["memories"][-1]

    changed = await door.call("PATCH", f"/v1/memories/{bulk['id']}", {"content": "b"})

    assert changed.status == 202
    assert await lane_of(door, changed.data["job"]) == await lane_of(door, bulk["job"])
    assert await lane_of(door, changed.data["job"]) in LANES["bulk"]


async def test_a_verdict_on_what_waits_to_be_embedded_is_asked_for_again_later(door: DoorUnderTest) -> None:
    accepted = (await door.call("POST", "/v1/memories", {"content": "a"})).data

    reply = await judged(door, accepted["id"])

    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert "not there yet" in reply.error["message"]


async def test_what_is_on_the_log_can_be_changed_judged_and_forgotten(door: DoorUnderTest) -> None:
    memory_id = await on_the_log(door)

    changed = await door.call("PATCH", f"/v1/memories/{memory_id}", {"content": "b"})
    verdict = await judged(door, memory_id)
    forgotten = await door.call("DELETE", f"/v1/memories/{memory_id}")

    assert (changed.status, verdict.status, forgotten.status) == (202, 202, 202)


async def test_what_nobody_accepted_is_not_found(door: DoorUnderTest) -> None:
    mine = (await door.call("POST", "/v1/memories", {"content": "a"})).data["id"]
    stranger = await door.new_key("stranger")

    unheard_of = await door.call("PATCH", f"/v1/memories/{new_id()}", {"content": "b"})
    anothers = await door.call("DELETE", f"/v1/memories/{mine}", key=stranger)

    assert (unheard_of.status, anothers.status) == (404, 404)


async def on_the_log(door: DoorUnderTest) -> str:
    memory_id, now = new_id(), datetime.now(UTC)
    memory = Memory(id=memory_id, created_at=now, updated_at=now, content="a")
    fact = Remembered(command=memory_id, accepted_at=now, at=now, memory=memory, embedding=embedding())
    entry = Entry(subject=log_subject("default", fact.event), body=fact.encode(), id=memory_id)
    assert isinstance((await door.bus.append([entry]))[0], Appended)
    return memory_id
