"""Sending in bulk: in order, in batches that fit, again what was refused for now, never what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from engram import ingest
from engram_contracts.errors import Conflict, Rejected, Unavailable

Memories = list[dict[str, Any]]


class FakeDoor:
    """Accepts what it gets, unless `answer` says otherwise; `sent` holds every request's memories."""

    def __init__(self, answer: Callable[[int, Memories], Memories] | None = None) -> None:
        self.sent: list[Memories] = []
        self._answer = answer

    async def call(self, method: str, path: str, body: Any = None, **_: Any) -> dict[str, Any]:
        self.sent.append(body["memories"])
        answer = self._answer or (lambda _, memories: [accepted(memory) for memory in memories])
        return {"data": {"memories": answer(len(self.sent), body["memories"])}}


def accepted(memory: dict[str, Any]) -> dict[str, Any]:
    return {"id": memory["key"], "job": f"job_{memory['key']}"}


def refused(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no", "retry_after": 0.001}}


def records(count: int, size: int = 10) -> Memories:
    return [{"content": "x" * size, "key": str(number)} for number in range(count)]


async def test_everything_is_sent_in_order_and_answered_in_order():
    door, progress = FakeDoor(), []

    made = await ingest.send(door, records(250), progress.append)

    assert [item["id"] for item in made] == [str(number) for number in range(250)]
    assert [memory["key"] for batch in door.sent for memory in batch] == [str(number) for number in range(250)]
    assert progress == [100, 100, 50]


async def test_a_batch_of_large_memories_stays_below_the_doors_limit():
    door = FakeDoor()

    await ingest.send(door, [{**record, "content": "\u00e9" * 10_000} for record in records(400)], lambda _: None)

    sizes = [len(json.dumps(batch, ensure_ascii=False).encode()) for batch in door.sent]
    assert max(sizes) < 4 * 1024 * 1024


async def test_what_was_refused_for_now_is_sent_again_alone():
    def first_time_half(request: int, memories: Memories) -> Memories:
        return [
            refused("RATE_LIMITED") if request == 1 and place % 2 else accepted(memory)
            for place, memory in enumerate(memories)
        ]

    door = FakeDoor(first_time_half)

    made = await ingest.send(door, records(6), lambda _: None)

    assert [item["id"] for item in made] == list("012345")
    assert [memory["key"] for memory in door.sent[1]] == list("135")


async def test_a_door_that_is_away_for_a_moment_is_waited_for():
    def away_twice(request: int, memories: Memories) -> Memories:
        if request < 3:
            raise Unavailable("away", retry_after=0.001)
        return [accepted(memory) for memory in memories]

    made = await ingest.send(FakeDoor(away_twice), records(3), lambda _: None)

    assert len(made) == 3


async def test_what_can_never_be_accepted_is_named_by_its_number():
    def second_is_wrong(_: int, memories: Memories) -> Memories:
        return [refused("INVALID_REQUEST") if memory["key"] == "101" else accepted(memory) for memory in memories]

    with pytest.raises(Rejected, match="in records 102 to 150: no"):
        await ingest.send(FakeDoor(second_is_wrong), records(150), lambda _: None)


async def test_a_request_that_can_never_be_accepted_is_not_repeated():
    def conflict(_: int, memories: Memories) -> Memories:
        raise Conflict("taken")

    door = FakeDoor(conflict)

    with pytest.raises(Rejected, match="taken"):
        await ingest.send(door, records(3), lambda _: None)
    assert len(door.sent) == 1


async def test_a_job_that_does_not_end_in_time_is_named():
    class Busy:
        async def call(self, *_: Any) -> dict[str, Any]:
            return {"data": {"state": "embedded"}}

    with pytest.raises(Unavailable, match="job_1 is still embedded"):
        await ingest.settle(Busy(), "job_1", within=0.0)
