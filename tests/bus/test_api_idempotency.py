"""Repeats under an idempotency key on a real broker: one effect, one answer, whichever door they reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engram_api.idempotency import claimed, digest, record_key
from engram_api.repeats import Repeats
from engram_contracts.errors import NotFound
from engram_contracts.facts import ModelUse, Thought
from engram_contracts.ids import derived_id, new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import (
    FindIndexed,
    FindJob,
    Found,
    GetMemory,
    GetNode,
    Indexed,
    JobRecord,
    Node,
    NodeDetail,
)
from engram_contracts.recovery import ReplayStatus, StartReplay
from engram_contracts.topology import IDEMPOTENCY, WORK
from support.door import DoorUnderTest, Reply, open_door
from support.servers import NatsServer, nats_server

SOON = {"repeat_seconds": 0.3, "lease_seconds": 1.0, "think_seconds": 3.0}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    async with open_door(broker, tmp_path_factory.mktemp("data"), serve=SOON) as door:
        yield door


@pytest.fixture(autouse=True)
def silence(door: DoorUnderTest) -> None:
    door.parts.scripts = {
        FindIndexed: lambda _: Indexed(),
        FindJob: lambda _: Found(),
        GetMemory: lambda question: memory(question.memory_id),
    }


def memory(memory_id: str) -> Memory:
    now = datetime.now(UTC)
    return Memory(id=memory_id, content="x", created_at=now, updated_at=now)


def under(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def same(one: Reply, other: Reply) -> bool:
    return (one.status, one.raw, one.headers.get("Location")) == (
        other.status, other.raw, other.headers.get("Location"),
    )  # fmt: skip


async def count(door: DoorUnderTest) -> int:
    return int((await door.bus.jetstream.stream_info(WORK.name)).state.messages)


EDGE = {"source": "person:Ann", "type": "knows", "target": "person:Bo"}
WRITES: list[tuple[str, str, dict[str, Any] | None, dict[str, Any]]] = [
    ("POST", "/v1/memories", {"content": "a"}, {"content": "b"}),
    ("POST", "/v1/memories", {"memories": [{"content": "a"}] * 1_000}, {"memories": [{"content": "a"}]}),
    ("PATCH", "/v1/memories/{id}", {"content": "a"}, {"content": "b"}),
    ("POST", "/v1/graph/nodes", {"id": "person:Ann"}, {"id": "person:Bo"}),
    ("POST", "/v1/graph/edges", EDGE, {**EDGE, "weight": 2}),
    ("POST", "/v1/think", {"question": "?"}, {"question": "??"}),
]


@pytest.mark.parametrize(("method", "path", "body", "other"), WRITES)
async def test_the_same_request_gets_the_same_answer_and_another_one_422(
    door: DoorUnderTest, method: str, path: str, body: dict[str, Any], other: dict[str, Any]
) -> None:
    path, key = path.replace("{id}", new_id()), under(new_id())
    how = {**key, "Prefer": "wait=0"}
    first = await door.call(method, path, body, headers=how)
    before = await count(door)

    again = await door.call(method, path, body, headers=how)
    changed = await door.call(method, path, other, headers=how)

    assert first.status == 202 and "Idempotency-Replayed" not in first.headers
    assert same(first, again) and again.headers["Idempotency-Replayed"] == "true"
    assert (changed.status, changed.error["code"], changed.error["field"]) == (
        422,
        "INVALID_REQUEST",
        "Idempotency-Key",
    )
    assert await count(door) == before


@pytest.mark.parametrize("path", ["/v1/memories/{id}", "/v1/graph/nodes/person:{id}", "/v1/graph/edges?"])
async def test_deleting_is_repeated_too_and_a_key_deletes_one_thing(door: DoorUnderTest, path: str) -> None:
    door.parts.scripts[GetNode] = lambda question: NodeDetail(
        node=Node(id=question.node, type="person", name="x"), edges=(), memory_ids=()
    )
    key, query = under(new_id()), EDGE if path.endswith("?") else {}
    one, other = path.replace("{id}", new_id()), path.replace("{id}", new_id())
    first = await door.call("DELETE", one, headers=key, **query)
    before = await count(door)

    again = await door.call("DELETE", one, headers=key, **query, **{"wait": "done", "timeout": "0"})
    elsewhere = await door.call("DELETE", other, headers=key, **{**query, **({"target": "person:Cy"} if query else {})})

    assert first.status == 202 and same(first, again)
    assert elsewhere.status == 422
    assert await count(door) == before


async def test_a_replay_of_dead_letters_begins_once(door: DoorUnderTest) -> None:
    asked: list[StartReplay] = []

    def start(question: StartReplay) -> ReplayStatus:
        asked.append(question)
        now = datetime.now(UTC)
        return ReplayStatus(
            id=str(question.id), tenant=question.tenant, selection=question.selection, accepted_at=now, updated_at=now
        )

    door.parts.scripts[StartReplay] = start
    key = under(new_id())

    first = await door.call("POST", "/v1/dead-letters/replays", {"all": True}, headers=key)
    again = await door.call("POST", "/v1/dead-letters/replays", {"all": True}, headers=key)

    assert first.status == 202 and same(first, again) and len(asked) == 1


async def test_tenants_do_not_meet_under_one_key(door: DoorUnderTest) -> None:
    key, other = under("shared"), await door.new_key("elsewhere")

    ours = await door.call("POST", "/v1/memories", {"content": "ours"}, headers=key)
    theirs = await door.call("POST", "/v1/memories", {"content": "theirs"}, headers=key, key=other)

    assert (ours.status, theirs.status) == (202, 202) and ours.data["id"] != theirs.data["id"]


async def test_many_at_once_are_one(door: DoorUnderTest) -> None:
    key, before = under(new_id()), await count(door)

    replies = await asyncio.gather(
        *(door.call("POST", "/v1/memories", {"content": "a"}, headers=key) for _ in range(30))
    )

    assert {(reply.status, reply.raw) for reply in replies} == {(202, replies[0].raw)}
    assert sum("Idempotency-Replayed" not in reply.headers for reply in replies) == 1
    assert await count(door) == before + 1


async def test_while_the_first_is_worked_on_a_repeat_waits_then_409_says_when_to_come_back(door: DoorUnderTest) -> None:
    key = under(new_id())
    asking = asyncio.create_task(door.call("POST", "/v1/think", {"question": "?"}, headers={**key, "Prefer": "wait=2"}))
    await until_claimed(door, "think", key)
    began = time.monotonic()

    early = await door.call("POST", "/v1/think", {"question": "?"}, headers={**key, "Prefer": "wait=2"})
    waited = time.monotonic() - began
    first = await asking
    late = await door.call("POST", "/v1/think", {"question": "?"}, headers={**key, "Prefer": "wait=2"})

    assert (early.status, early.error["code"], early.headers["Retry-After"]) == (409, "CONFLICT", "1")
    assert 0.25 <= waited < 1.5
    assert first.status == 202 and same(first, late)


async def until_claimed(door: DoorUnderTest, route: str, key: dict[str, str]) -> None:
    async with asyncio.timeout(5.0):
        while await door.bus.bucket(IDEMPOTENCY).get(record_key("default", route, key["Idempotency-Key"])) is None:
            await asyncio.sleep(0.005)


async def test_what_a_dead_door_left_behind_is_taken_over_after_its_lease(door: DoorUnderTest) -> None:
    key, body = new_id(), b'{"content":"a"}'
    named = digest("POST", "/v1/memories", [], body)
    left = claimed(named, "a door that died", datetime.now(UTC), lease=1.0)
    await door.bus.bucket(IDEMPOTENCY).put(record_key("default", "remember", key), left.encode())

    early = await door.call("POST", "/v1/memories", raw=body, headers=under(key))
    other = await door.call("POST", "/v1/memories", {"content": "b"}, headers=under(key))
    async with asyncio.timeout(5.0):
        while (late := await door.call("POST", "/v1/memories", raw=body, headers=under(key))).status == 409:
            pass

    assert (early.status, other.status, late.status) == (409, 422, 202)
    assert late.data["id"] == derived_id("command", "default", "remember", key, "0")


async def test_a_refused_request_may_be_corrected_under_its_key(door: DoorUnderTest) -> None:
    def unknown(question: GetMemory) -> Memory:
        raise NotFound("not there")

    key, path = under(new_id()), f"/v1/memories/{new_id()}"
    door.parts.scripts[GetMemory] = unknown
    missing = await door.call("PATCH", path, {"content": "a"}, headers=key)
    door.parts.scripts[GetMemory] = lambda question: memory(question.memory_id)

    async with asyncio.timeout(5.0):
        while (corrected := await door.call("PATCH", path, {"content": "b"}, headers=key)).status != 202:
            await asyncio.sleep(0.01)

    assert (missing.status, corrected.status) == (404, 202)


async def test_a_request_that_failed_on_our_side_may_be_sent_again_but_no_other(door: DoorUnderTest) -> None:
    key, path = under(new_id()), f"/v1/memories/{new_id()}"
    del door.parts.scripts[GetMemory]
    away = await door.call("PATCH", path, {"content": "a"}, headers=key)
    door.parts.scripts[GetMemory] = lambda question: memory(question.memory_id)

    other = await door.call("PATCH", path, {"content": "b"}, headers=key)
    again = await door.call("PATCH", path, {"content": "a"}, headers=key)

    assert (away.status, other.status, again.status) == (503, 422, 202)
    assert "Idempotency-Replayed" not in again.headers


async def test_after_the_record_expired_a_repeat_meets_the_same_ids(door: DoorUnderTest) -> None:
    key = new_id()
    first = await door.call("POST", "/v1/memories", {"content": "a"}, headers=under(key))
    before = await count(door)
    await door.bus.jetstream.purge_stream(
        f"KV_{IDEMPOTENCY.name}", subject=f"$KV.{IDEMPOTENCY.name}.{record_key('default', 'remember', key)}"
    )

    again = await door.call("POST", "/v1/memories", {"content": "a"}, headers=under(key))

    assert again.data == first.data and "Idempotency-Replayed" not in again.headers
    assert await count(door) == before


async def test_an_answer_too_large_to_keep_is_made_again(door: DoorUnderTest) -> None:
    key, now = under(new_id()), datetime.now(UTC)

    def record(question: FindJob) -> Found:
        thought = Thought(
            command=question.command, accepted_at=now, at=now, question="?", answer="x" * 300_000, mode="model",
            use=ModelUse(),
        )  # fmt: skip
        return Found(found=JobRecord(accepted_at=now, embedded_at=now, linked_at=now, thought=thought))

    door.parts.scripts[FindJob] = record
    first = await door.call("POST", "/v1/think", {"question": "?"}, headers=key)
    again = await door.call("POST", "/v1/think", {"question": "?"}, headers=key)
    other = await door.call("POST", "/v1/think", {"question": "!"}, headers=key)

    assert (first.status, again.status, other.status) == (200, 200, 422)
    assert again.headers["Idempotency-Replayed"] == "true" and again.data == first.data


async def test_two_doors_share_the_records(door: DoorUnderTest, broker: NatsServer, tmp_path: Path) -> None:
    key = under(new_id())
    (tmp_path / "pepper").write_text(door.pepper.decode())
    async with open_door(broker, tmp_path, plays=(), serve=SOON) as second:
        first = await door.call("POST", "/v1/memories", {"content": "a"}, headers=key)
        again = await second.call("POST", "/v1/memories", {"content": "a"}, headers=key)

    assert same(first, again)


async def test_when_the_records_are_full_a_request_is_served_without_one(broker: NatsServer, tmp_path: Path) -> None:
    async with open_door(broker, tmp_path, plays=()) as door:
        info = await door.bus.jetstream.stream_info(f"KV_{IDEMPOTENCY.name}")
        info.config.max_bytes = max(info.state.bytes, 1)
        await door.bus.jetstream.update_stream(info.config)
        key = under(new_id())
        try:
            first = await door.call("POST", "/v1/memories", {"content": "a"}, headers=key)
            again = await door.call("POST", "/v1/memories", {"content": "a"}, headers=key)
        finally:
            info.config.max_bytes = IDEMPOTENCY.max_bytes
            await door.bus.jetstream.update_stream(info.config)

    assert (first.status, again.status) == (202, 202) and again.data == first.data


async def test_a_claim_is_renewed_while_its_request_is_worked_on(door: DoorUnderTest) -> None:
    repeats = Repeats(door.bus.bucket(IDEMPOTENCY), wait=0.1, lease=0.3)
    key, runs = record_key("default", "remember", new_id()), 0

    async def slowly() -> Any:
        nonlocal runs
        runs += 1
        await asyncio.sleep(1.0)
        raise NotFound("nothing")

    first = asyncio.create_task(repeats.once(key, "d", slowly))
    await asyncio.sleep(0.8)
    with pytest.raises(Exception, match="still being worked on"):
        await repeats.once(key, "d", slowly)
    with pytest.raises(NotFound):
        await first
    await repeats.close()

    assert runs == 1
