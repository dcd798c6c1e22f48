"""A verdict on a memory is a command like any other: durable, once, metered, and the word of who may write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from engram_contracts.commands import Judge
from engram_contracts.errors import NotFound
from engram_contracts.facts import UsageBatch
from engram_contracts.ids import JobId, new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import FindIndexed, GetMemory, Indexed
from engram_contracts.topology import USAGE, WORK, WorkSubject
from support.door import DoorUnderTest, open_door
from support.servers import nats_server


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    with nats_server(tmp_path_factory.mktemp("nats")) as broker:
        async with open_door(broker, tmp_path_factory.mktemp("data")) as door:
            yield door


def known(question: GetMemory) -> Memory:
    now = datetime.now(UTC)
    return Memory(id=question.memory_id, content="x", created_at=now, updated_at=now)


async def test_a_verdict_lies_on_the_broker_once_and_is_metered(door: DoorUnderTest) -> None:
    door.parts.scripts = {GetMemory: known}
    path, said = f"/v1/memories/{new_id()}/feedback", {"verdict": "wrong", "query": "who?", "note": "it was Ben"}

    first, again = [await door.call("POST", path, said, headers={"Idempotency-Key": "k"}) for _ in range(2)]

    assert (first.status, first.data["job"]) == (202, again.data["job"])
    named = JobId.parse(first.data["job"], "default", door.pepper)
    assert named is not None
    stored = await door.bus.jetstream.get_msg(WORK.name, seq=named.sequence)
    command = Judge.model_validate_json(stored.data or b"")
    assert WorkSubject.parse(str(stored.subject)).op == "judge"
    assert (command.memory_id, command.verdict, command.query, command.note) == (
        first.data["id"], "wrong", "who?", "it was Ben",
    )  # fmt: skip
    assert command.actor is not None
    last = await door.bus.jetstream.get_last_msg(USAGE.name, "engram.usage.>")
    assert UsageBatch.model_validate_json(last.data or b"").events[-1].counters["feedback"] == 1


async def test_a_verdict_that_is_none_or_on_no_memory_is_refused(door: DoorUnderTest) -> None:
    def unknown(question: GetMemory) -> Memory:
        raise NotFound("unknown")

    door.parts.scripts = {GetMemory: known}
    bad = await door.call("POST", f"/v1/memories/{new_id()}/feedback", {"verdict": "great"})
    door.parts.scripts = {GetMemory: unknown, FindIndexed: lambda _: Indexed()}
    missing = await door.call("POST", f"/v1/memories/{new_id()}/feedback", {"verdict": "useful"})

    assert (bad.status, missing.status) == (400, 404)
