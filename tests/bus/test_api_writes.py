"""What the door accepts is on the broker, once, under ids that a repeat meets again; what it cannot take it says."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from engram_contracts.commands import COMMANDS, Command, Remember
from engram_contracts.errors import NotFound
from engram_contracts.facts import UsageBatch, UsageEvent
from engram_contracts.ids import JobId, new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import FindIndexed, GetMemory, GetNode, Indexed, IndexedMemory, Node, NodeDetail
from engram_contracts.topology import LANES, USAGE, WORK, WorkSubject
from engram_runtime.provision import provision
from support.door import DoorUnderTest, Reply, open_door
from support.servers import NatsServer, nats_server


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    async with open_door(broker, tmp_path_factory.mktemp("data")) as door:
        yield door


@pytest.fixture(autouse=True)
def silence(door: DoorUnderTest) -> None:
    door.parts.scripts = {}


async def published(door: DoorUnderTest, job: str, tenant: str = "default") -> tuple[WorkSubject, Command]:
    """The command that a job stands for, as it lies on the work stream."""
    named = JobId.parse(job, tenant, door.pepper)
    assert named is not None
    stored = await door.bus.jetstream.get_msg(WORK.name, seq=named.sequence)
    subject = WorkSubject.parse(str(stored.subject))
    command = COMMANDS[subject.op].model_validate_json(stored.data or b"")
    assert (stored.headers or {})["Nats-Msg-Id"] == command.id == named.command
    return subject, command


async def count(door: DoorUnderTest) -> int:
    return int((await door.bus.jetstream.stream_info(WORK.name)).state.messages)


async def usage_of(door: DoorUnderTest, tenant: str) -> list[UsageEvent]:
    info = await door.bus.jetstream.stream_info(USAGE.name)
    events: list[UsageEvent] = []
    for sequence in range(info.state.first_seq, info.state.last_seq + 1):
        stored = await door.bus.jetstream.get_msg(USAGE.name, seq=sequence)
        events += UsageBatch.model_validate_json(stored.data or b"").events
    return [event for event in events if event.tenant == tenant]


def memory(memory_id: str) -> Memory:
    now = datetime.now(UTC)
    return Memory(id=memory_id, content="x", created_at=now, updated_at=now)


async def test_what_is_accepted_lies_on_the_broker_as_it_was_sent(door: DoorUnderTest) -> None:
    sent = {
        "content": "Ann likes é & 日本", "kind": "fact", "user_id": "u", "agent_id": "a", "session_id": "s",
        "speaker": "Ann", "tags": ["x"], "metadata": {"n": 1, "f": 0.5, "l": ["a", None]}, "importance": 1,
        "confidence": 0.25, "source": "test", "occurred_at": "2026-01-01T12:00:00+02:00",
        "expires_at": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    before = datetime.now(UTC)

    reply = await door.call("POST", "/v1/memories", sent)

    assert reply.status == 202
    assert reply.headers["Location"] == f"/v1/jobs/{reply.data['job']}"
    subject, command = await published(door, reply.data["job"])
    assert isinstance(command, Remember)
    assert (subject.tenant, subject.op, subject.lane in LANES["interactive"]) == ("default", "remember", True)
    assert command.memory_id == reply.data["id"] and command.actor == door.key.split("_")[2]
    assert before <= command.accepted_at <= datetime.now(UTC)
    assert command.memory.model_dump(mode="json") == {**sent, "occurred_at": "2026-01-01T10:00:00Z", "importance": 1.0}


async def test_many_are_accepted_in_order_in_the_bulk_lane(door: DoorUnderTest) -> None:
    memories = [{"content": f"number {n}"} for n in range(9)]

    reply = await door.call("POST", "/v1/memories", {"memories": memories})

    assert (reply.status, reply.data["accepted"], reply.data["refused"]) == (202, 9, 0)
    found = [await published(door, one["job"]) for one in reply.data["memories"]]
    assert [command.memory.content for _, command in found] == [f"number {n}" for n in range(9)]  # type: ignore[attr-defined]
    assert {subject.lane in LANES["bulk"] for subject, _ in found} == {True}


async def test_a_few_go_ahead_of_bulk(door: DoorUnderTest) -> None:
    reply = await door.call("POST", "/v1/memories", {"memories": [{"content": "a"}] * 8})

    subject, _ = await published(door, reply.data["memories"][7]["job"])
    assert subject.lane in LANES["interactive"]


async def test_a_thousand_are_taken_at_once(door: DoorUnderTest) -> None:
    key = await door.new_key("mass")

    reply = await door.call("POST", "/v1/memories", {"memories": [{"content": "a"}] * 1_000}, key=key)

    assert (reply.status, reply.data["accepted"]) == (202, 1_000)
    assert len({one["id"] for one in reply.data["memories"]}) == 1_000


async def test_a_repeat_under_the_same_key_meets_its_first_self(door: DoorUnderTest) -> None:
    headers = {"Idempotency-Key": new_id()}
    one, many = {"content": "once"}, {"memories": [{"content": "a"}, {"content": "b"}]}
    first = await door.call("POST", "/v1/memories", one, headers=headers)
    before = await count(door)

    again = await door.call("POST", "/v1/memories", one, headers=headers)

    assert (again.status, again.raw) == (first.status, first.raw)
    assert await count(door) == before
    bulk = {"Idempotency-Key": new_id()}
    assert (await door.call("POST", "/v1/memories", many, headers=bulk)).data == (
        await door.call("POST", "/v1/memories", many, headers=bulk)
    ).data


async def test_ids_depend_on_key_tenant_operation_and_place(door: DoorUnderTest) -> None:
    headers, other = {"Idempotency-Key": new_id()}, await door.new_key("elsewhere")
    both = {"memories": [{"content": "a"}, {"content": "a"}]}

    ours = (await door.call("POST", "/v1/memories", both, headers=headers)).data["memories"]
    theirs = (await door.call("POST", "/v1/memories", both, headers=headers, key=other)).data["memories"]
    later = (await door.call("POST", "/v1/memories", both, headers={"Idempotency-Key": new_id()})).data["memories"]

    assert len({one["id"] for one in (*ours, *theirs, *later)}) == 6


async def test_a_clients_own_name_for_a_memory_makes_its_id_and_is_not_stored(door: DoorUnderTest) -> None:
    first = await door.call("POST", "/v1/memories", {"content": "a", "key": "chat/1"})
    again = await door.call("POST", "/v1/memories", {"memories": [{"content": "b"}, {"content": "a", "key": "chat/1"}]})

    assert again.data["memories"][1] == first.data
    _, command = await published(door, first.data["job"])
    assert b"chat/1" not in command.encode()


async def test_what_is_marked_private_never_reaches_the_broker(door: DoorUnderTest) -> None:
    reply = await door.call("POST", "/v1/memories", {"content": "pin is <private>1234</private> kept"})

    _, command = await published(door, reply.data["job"])
    assert isinstance(command, Remember) and command.memory.content == "pin is  kept"


async def test_a_change_says_only_what_was_sent(door: DoorUnderTest) -> None:
    known = new_id()
    door.parts.scripts = {GetMemory: lambda question: memory(question.memory_id)}

    reply = await door.call("PATCH", f"/v1/memories/{known}", {"importance": 0.9, "source": None})

    assert (reply.status, reply.data["id"]) == (202, known)
    _, command = await published(door, reply.data["job"])
    assert (command.memory_id, command.changes) == (known, {"importance": 0.9, "source": None})  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [{}, {"content": None}, {"content": ""}, {"id": "x"}, {"version": 2}, {"kind": "A B"}])
async def test_a_bad_change_is_refused(door: DoorUnderTest, body: dict[str, object]) -> None:
    door.parts.scripts = {GetMemory: lambda question: memory(question.memory_id)}

    assert (await door.call("PATCH", f"/v1/memories/{new_id()}", body)).status == 400


async def test_a_memory_the_record_does_not_know_yet_can_be_changed_and_forgotten(door: DoorUnderTest) -> None:
    def lags(question: GetMemory) -> Memory:
        raise NotFound("not yet")

    door.parts.scripts = {
        GetMemory: lags,
        FindIndexed: lambda question: Indexed(
            found=IndexedMemory(memory=memory(question.memory_id), indexed_at=datetime.now(UTC), command=new_id())
        ),
    }

    assert (await door.call("PATCH", f"/v1/memories/{new_id()}", {"content": "b"})).status == 202
    assert (await door.call("DELETE", f"/v1/memories/{new_id()}")).status == 202


async def test_a_memory_nobody_knows_is_404_and_one_nobody_can_ask_about_503(door: DoorUnderTest) -> None:
    def unknown(question: GetMemory) -> Memory:
        raise NotFound("unknown")

    door.parts.scripts = {GetMemory: unknown, FindIndexed: lambda _: Indexed()}
    missing = await door.call("DELETE", f"/v1/memories/{new_id()}")
    door.parts.scripts = {FindIndexed: lambda _: Indexed()}
    unclear = await door.call("DELETE", f"/v1/memories/{new_id()}")

    assert (missing.status, unclear.status) == (404, 503)
    assert unclear.headers["Retry-After"] == "1"


async def test_graph_changes_become_their_commands(door: DoorUnderTest) -> None:
    detail = NodeDetail(node=Node(id="person:Ann", type="person", name="Ann"), edges=(), memory_ids=())
    door.parts.scripts = {GetNode: lambda _: detail}
    edge = {"source": "person:Ann", "type": "knows", "target": "person:Bo/b c"}

    made = [
        await door.call("POST", "/v1/graph/nodes", {"id": "person:Ann", "attributes": {"age": 30}}),
        await door.call("POST", "/v1/graph/edges", {**edge, "weight": 2.5, "evidence": [new_id()]}),
        await door.call("DELETE", "/v1/graph/edges", **edge),
        await door.call("DELETE", "/v1/graph/nodes/person:Ann%2FB"),
    ]

    assert [reply.status for reply in made] == [202] * 4
    commands = [(await published(door, reply.data["job"]))[1] for reply in made]
    assert [command.op for command in commands] == ["put-node", "put-edge", "drop-edge", "drop-node"]
    assert commands[1].weight == 2.5 and commands[2].target == "person:Bo/b c"  # type: ignore[attr-defined]
    assert commands[3].node == "person:Ann/B"  # type: ignore[attr-defined]


async def test_a_node_that_is_not_there_cannot_be_dropped(door: DoorUnderTest) -> None:
    def unknown(question: GetNode) -> NodeDetail:
        raise NotFound("there is no such node")

    door.parts.scripts = {GetNode: unknown}

    assert (await door.call("DELETE", "/v1/graph/nodes/person:Nobody")).status == 404


async def test_each_request_of_a_tenant_is_metered_once_before_its_answer(door: DoorUnderTest) -> None:
    key = await door.new_key("metered", "admin")
    before = len(await usage_of(door, "metered"))

    replies = [
        await door.call("POST", "/v1/memories", {"content": "a"}, key=key),
        await door.call("POST", "/v1/memories", {"content": ""}, key=key),
        await door.call("POST", "/v1/recall", {"query": ""}, key=key),
    ]

    events = (await usage_of(door, "metered"))[before:]
    assert [(event.route, event.status) for event in events] == [("remember", 202), ("remember", 400), ("recall", 400)]
    assert [event.request_id for event in events] == [reply.meta["request_id"] for reply in replies]
    assert all(event.counters == {"api_calls": 1} for event in events)


async def test_a_repeated_request_is_one_event(door: DoorUnderTest) -> None:
    key, headers = await door.new_key("repeating"), {"Idempotency-Key": "k"}
    before = len(await usage_of(door, "repeating"))

    for _ in range(3):
        await door.call("POST", "/v1/memories", {"content": "a"}, key=key, headers=headers)

    assert len({event.request_id for event in (await usage_of(door, "repeating"))[before:]}) == 1


async def test_usage_of_concurrent_requests_is_written_together(door: DoorUnderTest) -> None:
    key = await door.new_key("busy")
    before = (await door.bus.jetstream.stream_info(USAGE.name)).state.messages

    await asyncio.gather(*(door.call("POST", "/v1/memories", {"content": "a"}, key=key) for _ in range(100)))

    after = (await door.bus.jetstream.stream_info(USAGE.name)).state.messages
    assert after - before < 100
    assert sum(event.route == "remember" for event in await usage_of(door, "busy")) == 100


async def test_a_full_tenant_is_429_a_partly_full_one_is_told_per_memory(door: DoorUnderTest) -> None:
    tight = dataclasses.replace(WORK, per_subject=10)
    await provision(door.bus.jetstream, streams=(tight,), consumers=(), buckets=())
    try:
        key = await door.new_key("full")
        some: Reply = await door.call("POST", "/v1/memories", {"memories": [{"content": "a"}] * 12}, key=key)
        none = await door.call("POST", "/v1/memories", {"memories": [{"content": "a"}] * 12}, key=key)
        other = await door.call("POST", "/v1/memories", {"content": "a"}, key=await door.new_key("quiet"))
    finally:
        await provision(door.bus.jetstream, streams=(WORK,), consumers=(), buckets=())

    assert (some.status, some.data["accepted"], some.data["refused"]) == (207, 10, 2)
    assert [one["error"]["code"] for one in some.data["memories"] if "error" in one] == ["RATE_LIMITED"] * 2
    assert (none.status, none.error["code"], none.headers["Retry-After"]) == (429, "RATE_LIMITED", "1")
    assert other.status == 202


async def test_without_a_broker_nothing_is_accepted_and_nothing_lost_when_it_is_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("away")
    with nats_server(folder / "nats") as server:
        async with open_door(server, folder / "data") as door:
            kept = await door.call("POST", "/v1/memories", {"content": "kept"})
            server.kill()
            refused = await door.call("POST", "/v1/memories", {"content": "refused"})
            server.start()
            back = await until_accepted(door, {"content": "back"})

            _, command = await published(door, kept.data["job"])
            assert isinstance(command, Remember) and command.memory.content == "kept"

    assert (refused.status, refused.error["code"]) == (503, "UNAVAILABLE")
    assert int(refused.headers["Retry-After"]) >= 1
    assert back.status == 202


async def until_accepted(door: DoorUnderTest, body: dict[str, str]) -> Reply:
    deadline = time.monotonic() + timedelta(seconds=20).total_seconds()
    while True:
        reply = await door.call("POST", "/v1/memories", body)
        if reply.status == 202 or time.monotonic() > deadline:
            return reply
        await asyncio.sleep(0.1)
