"""Waiting for an effect: told by live events, found out where an event was missed, honest when time is up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engram_contracts.commands import Think
from engram_contracts.events import Event, JobTrouble, Progress, Thinking
from engram_contracts.facts import Citation, ModelUse, Thought
from engram_contracts.ids import JobId, derived_id, new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import FindIndexed, FindJob, Found, GetMemory, Indexed, IndexedMemory, JobRecord
from engram_contracts.topology import JOBS, WORK
from support.door import DoorUnderTest, Reply, open_door
from support.servers import nats_server

Made = Callable[[str], Event]


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    folder: Path = tmp_path_factory.mktemp("door")
    with nats_server(folder / "nats") as server:
        async with open_door(server, folder / "data", serve={"longest_wait": 3.0, "think_seconds": 3.0}) as door:
            yield door


@pytest.fixture(autouse=True)
def silence(door: DoorUnderTest) -> None:
    door.parts.scripts = {FindIndexed: lambda _: Indexed(), FindJob: lambda _: Found()}


def now() -> datetime:
    return datetime.now(UTC)


def memory(memory_id: str) -> Memory:
    return Memory(id=memory_id, content="x", created_at=now(), updated_at=now())


def record(**fields: Any) -> JobRecord:
    return JobRecord(accepted_at=now(), embedded_at=now(), linked_at=now(), **fields)


def thought(command: str) -> Thought:
    return Thought(
        command=command, accepted_at=now(), at=now(), question="?", answer="42", mode="model", model="m",
        citations=(Citation(memory_id=new_id(), quote="q", score=0.5),), use=ModelUse(prompt_tokens=7, calls=1),
    )  # fmt: skip


def progress(stage: Any) -> Made:
    return lambda command: Progress(stage=stage, commands=(new_id(), command), at=now())


async def played(door: DoorUnderTest, request: Any, *events: Made, commands: int = 1) -> Reply:
    """The reply to a request, when these events follow its commands onto the work stream."""
    seen = (await door.bus.jetstream.stream_info(WORK.name)).state.last_seq
    task = asyncio.create_task(request)
    async with asyncio.timeout(5.0):
        while (last := (await door.bus.jetstream.stream_info(WORK.name)).state.last_seq) < seen + commands:
            await asyncio.sleep(0.002)
    for sequence in range(seen + 1, last + 1):
        stored = await door.bus.jetstream.get_msg(WORK.name, seq=sequence)
        for event in events:
            await door.bus.emit("default", event((stored.headers or {})["Nats-Msg-Id"]))
    return await task


async def test_what_was_indexed_is_201_and_has_an_address(door: DoorUnderTest) -> None:
    reply = await played(door, door.call("POST", "/v1/memories?wait=indexed", {"content": "a"}), progress("indexed"))

    assert reply.status == 201
    assert reply.headers["Location"] == f"/v1/memories/{reply.data['id']}"


async def test_preferring_to_wait_means_until_indexed(door: DoorUnderTest) -> None:
    request = door.call("POST", "/v1/memories", {"content": "a"}, headers={"Prefer": "wait=5"})

    assert (await played(door, request, progress("indexed"))).status == 201


async def test_done_is_indexed_and_linked(door: DoorUnderTest) -> None:
    both = await played(
        door, door.call("POST", "/v1/memories?wait=done", {"content": "a"}), progress("linked"), progress("indexed")
    )
    one = await played(
        door, door.call("POST", "/v1/memories?wait=done&timeout=0.2", {"content": "a"}), progress("indexed")
    )

    assert (both.status, one.status) == (201, 202)


async def test_without_an_event_it_is_202_when_time_is_up(door: DoorUnderTest) -> None:
    began = time.monotonic()

    reply = await door.call("POST", "/v1/memories?wait=indexed&timeout=0.2", {"content": "a"})

    assert reply.status == 202
    assert 0.2 <= time.monotonic() - began < 1.0


async def test_the_longest_wait_is_the_doors(door: DoorUnderTest) -> None:
    began = time.monotonic()

    assert (await door.call("POST", "/v1/memories?wait=indexed&timeout=900", {"content": "a"})).status == 202
    assert time.monotonic() - began < 5.0


async def test_an_event_that_was_missed_is_found_out(door: DoorUnderTest) -> None:
    door.parts.scripts = {
        FindIndexed: lambda question: Indexed(
            found=IndexedMemory(memory=memory(question.memory_id), indexed_at=now(), command=question.memory_id)
        ),
        FindJob: lambda question: Found(found=record(memory_id=question.command)),
    }

    assert (await door.call("POST", "/v1/memories?wait=done", {"content": "a"})).status == 201


async def test_a_repeat_of_what_is_indexed_does_not_wait_for_an_event(door: DoorUnderTest) -> None:
    headers = {"Idempotency-Key": new_id()}
    first = await played(
        door, door.call("POST", "/v1/memories?wait=indexed", {"content": "a"}, headers=headers), progress("indexed")
    )
    door.parts.scripts = {
        FindIndexed: lambda question: Indexed(
            found=IndexedMemory(memory=memory(question.memory_id), indexed_at=now(), command=question.memory_id)
        ),
    }
    began = time.monotonic()

    again = await door.call("POST", "/v1/memories?wait=indexed", {"content": "a"}, headers=headers)

    assert (again.status, again.data) == (201, first.data)
    assert time.monotonic() - began < 0.4


async def test_many_are_waited_for_together(door: DoorUnderTest) -> None:
    body = {"memories": [{"content": str(n)} for n in range(20)]}

    reply = await played(door, door.call("POST", "/v1/memories?wait=indexed", body), progress("indexed"), commands=20)

    assert (reply.status, reply.data["accepted"]) == (201, 20)


async def test_what_died_is_not_waited_for(door: DoorUnderTest) -> None:
    began = time.monotonic()

    reply = await played(door, door.call("POST", "/v1/memories?wait=indexed", {"content": "a"}), progress("dead"))

    assert reply.status == 202
    assert time.monotonic() - began < 1.0


async def test_changes_and_forgetting_are_200_once_the_index_shows_them(door: DoorUnderTest) -> None:
    door.parts.scripts[GetMemory] = lambda question: memory(question.memory_id)
    path = f"/v1/memories/{new_id()}?wait=indexed"

    changed = await played(door, door.call("PATCH", path, {"content": "b"}), progress("indexed"))
    forgotten = await door.call("DELETE", path)

    assert (changed.status, forgotten.status) == (200, 200)


async def test_graph_changes_are_waited_for_until_linked(door: DoorUnderTest) -> None:
    request = door.call("POST", "/v1/graph/nodes?wait=done", {"id": "person:Ann"})

    assert (await played(door, request, progress("linked"))).status == 201


async def test_hundreds_may_wait_at_once(door: DoorUnderTest) -> None:
    replies = await asyncio.gather(
        *(door.call("POST", "/v1/memories?wait=indexed&timeout=0.3", {"content": "a"}) for _ in range(200))
    )

    assert {reply.status for reply in replies} == {202}


async def test_a_question_is_answered_when_its_thought_is_announced(door: DoorUnderTest) -> None:
    made: list[Thought] = []

    def announced(command: str) -> Thinking:
        made.append(thought(command))
        return Thinking(thought=made[0])

    reply = await played(door, door.call("POST", "/v1/think", {"question": "what?"}), announced)

    assert reply.status == 200
    assert (reply.data["answer"], reply.data["mode"], reply.data["model"]) == ("42", "model", "m")
    assert reply.data["citations"][0]["memory_id"] == made[0].citations[0].memory_id
    assert reply.data["use"]["prompt_tokens"] == 7 and reply.meta["took_ms"] > 0


async def test_an_answer_whose_event_was_missed_is_read_from_the_record(door: DoorUnderTest) -> None:
    door.parts.scripts = {FindJob: lambda question: Found(found=record(thought=thought(question.command)))}

    assert (await door.call("POST", "/v1/think", {"question": "what?"})).data["answer"] == "42"


async def test_who_does_not_want_to_wait_for_an_answer_gets_the_job(door: DoorUnderTest) -> None:
    at_once = await door.call("POST", "/v1/think", {"question": "?"}, headers={"Prefer": "respond-async"})
    soon = await door.call("POST", "/v1/think", {"question": "?"}, headers={"Prefer": "wait=0"})

    assert (at_once.status, soon.status) == (202, 202)
    assert at_once.headers["Location"] == f"/v1/jobs/{at_once.data['job']}"
    named = JobId.parse(at_once.data["job"], "default", door.pepper)
    assert named is not None
    stored = await door.bus.jetstream.get_msg(WORK.name, seq=named.sequence)
    assert Think.model_validate_json(stored.data or b"").question == "?"


async def test_a_question_that_died_is_answered_with_its_error(door: DoorUnderTest) -> None:
    key = new_id()
    trouble = JobTrouble(
        state="dead", stage="reasoner", attempt=6, reason="no model answers", code="UNAVAILABLE", at=now()
    )
    command = derived_id("command", "default", Think.op, key)
    await door.bus.bucket(JOBS).put(f"default.{command}", trouble.encode())

    reply = await door.call("POST", "/v1/think", {"question": "?"}, headers={"Idempotency-Key": key})

    assert (reply.status, reply.error["code"], reply.error["message"]) == (503, "UNAVAILABLE", "no model answers")


async def test_closing_lets_those_who_wait_go(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with open_door(server, tmp_path / "data") as door:
            url, headers = door.url, {"Authorization": f"Bearer {door.key}", "Content-Type": "application/json"}
            seen = (await door.bus.jetstream.stream_info(WORK.name)).state.last_seq

            async def ask() -> int:
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(f"{url}/v1/memories?wait=indexed", data=b'{"content":"a"}', headers=headers) as answer,
                ):
                    return answer.status

            asking = asyncio.create_task(ask())
            async with asyncio.timeout(5.0):
                while (await door.bus.jetstream.stream_info(WORK.name)).state.last_seq == seen:
                    await asyncio.sleep(0.005)
            began = time.monotonic()

    assert await asking == 202
    assert time.monotonic() - began < 5.0
