"""Dead letters over HTTP: each tenant's for itself, all of them for who speaks for the installation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.events import JobTrouble
from engram_contracts.ids import JobId, new_id
from engram_contracts.questions import FindIndexed, FindJob, Found, Indexed
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import JOBS
from engram_runtime.keys import create_key, ensure_system_key
from engram_runtime.provision import provision
from support.burying import buried, forget, letters_there, recovering, refuse, until, working
from support.door import DoorUnderTest, Reply, open_door
from support.servers import NatsServer, nats_server

LETTERS = "/v1/dead-letters"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    async with open_door(broker, tmp_path_factory.mktemp("data"), plays=("graph", "vectors")) as door:
        await provision(door.bus.jetstream)
        async with recovering(broker):
            yield door


@pytest.fixture(autouse=True)
async def emptied(door: DoorUnderTest) -> None:
    door.parts.scripts = {FindIndexed: lambda _: Indexed(), FindJob: lambda _: Found()}
    for stream in ("ENGRAM_DEAD", "ENGRAM_WORK"):
        await door.bus.jetstream.purge_stream(stream)


@pytest.fixture(scope="module")
async def system_key(door: DoorUnderTest) -> str:
    key = await create_key(door.bus, SYSTEM, "admin", "test", door.pepper)
    async with asyncio.timeout(5.0):
        while (await door.call("GET", LETTERS, key=key)).status == 401:
            await asyncio.sleep(0.005)
    return key


async def sequences(door: DoorUnderTest, key: str = "", **query: Any) -> list[int]:
    reply = await door.call("GET", LETTERS, key=key, **query)
    assert reply.status == 200, reply.envelope
    return [letter["sequence"] for letter in reply.data["letters"]]


async def ended(door: DoorUnderTest, started: Reply, key: str = "") -> dict[str, Any]:
    """The status of a replay, once it has ended."""
    assert started.status == 202, started.envelope
    async with asyncio.timeout(20.0):
        while True:
            reply = await door.call("GET", started.headers["Location"], key=key)
            if reply.data["state"] in ("done", "cancelled", "failed"):
                return dict(reply.data)
            await asyncio.sleep(0.02)


async def test_a_tenant_sees_its_own_and_the_installation_all(
    door: DoorUnderTest, broker: NatsServer, system_key: str
) -> None:
    await buried(broker, door.bus, 2, tenant="default")
    await buried(broker, door.bus, 1, tenant="zeta")
    foreign = (await sequences(door, system_key, tenant="zeta"))[0]

    own, everything = await sequences(door), await sequences(door, system_key)
    named_another = await door.call("GET", LETTERS, tenant="zeta")

    assert len(own) == 2 and len(everything) == 3 and foreign not in own
    assert (named_another.status, named_another.error["code"]) == (403, "FORBIDDEN")
    assert (await door.call("GET", f"{LETTERS}/{foreign}", key=system_key)).data["letter"]["tenant"] == "zeta"


async def test_what_is_another_tenants_is_not_there(door: DoorUnderTest, broker: NatsServer, system_key: str) -> None:
    await buried(broker, door.bus, 1, tenant="zeta")
    foreign = (await sequences(door, system_key))[0]
    replay = await door.call("POST", f"{LETTERS}/replays", {"all": True, "dry_run": True}, key=system_key)
    strange = replay.data["id"]

    def blind(reply: Reply) -> tuple[int, str]:
        return reply.status, reply.raw.decode().replace(reply.meta["request_id"], "")

    for method, path, body in (
        ("GET", "{}", None), ("DELETE", "{}?reason=x", None), ("POST", "{}/replay", {}),
    ):  # fmt: skip
        tried = [foreign, 10**9, "no-number", "0", "1" * 40, "a%2fb"]
        answers = {blind(await door.call(method, f"{LETTERS}/{path.format(one)}", body)) for one in tried}
        assert len(answers) == 1 and next(iter(answers))[0] == 404, answers
    for method in ("GET", "DELETE"):
        answers = {blind(await door.call(method, f"{LETTERS}/replays/{one}")) for one in (strange, new_id(), "x")}
        assert len(answers) == 1 and next(iter(answers))[0] == 404, answers
    for path, extra in (("replays", {}), ("drops", {"reason": "x"})):
        body = {"sequences": [foreign], **extra}
        there = await door.call("POST", f"{LETTERS}/{path}", body)
        nowhere = await door.call("POST", f"{LETTERS}/{path}", {**body, "sequences": [10**9]})
        assert (there.status, nowhere.status) == (404, 404)
        assert there.error["message"].replace(str(foreign), "") == nowhere.error["message"].replace(str(10**9), "")
    assert await letters_there(door.bus) == 1


async def test_they_are_filtered_grouped_and_paged(door: DoorUnderTest, broker: NatsServer) -> None:
    await buried(broker, door.bus, 5, tenant="default")

    first = await door.call("GET", LETTERS, limit=2, stage="embedder", error="Rejected", age="hour")
    rest = await sequences(door, cursor=first.meta["next"])
    groups = await door.call("GET", f"{LETTERS}/groups?by=code&by=age")

    assert len(first.data["letters"]) == 2 and len(rest) == 3
    assert not {one["sequence"] for one in first.data["letters"]} & set(rest)
    assert await sequences(door, error="Unavailable") == await sequences(door, age="day") == []
    assert [(g["key"], g["count"]) for g in groups.data["groups"]] == [({"code": "INVALID_REQUEST", "age": "hour"}, 5)]


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "?age=old", None, "age"),
        ("GET", "?limit=501", None, "limit"),
        ("GET", "?cursor=made-up", None, "cursor"),
        ("GET", "/groups?by=colour", None, "by.0"),
        ("POST", "/replays", {}, "body"),
        ("POST", "/replays", {"all": True, "sequences": [1]}, "body"),
        ("POST", "/replays", {"filter": {}}, "body"),
        ("POST", "/replays", {"all": True, "rate": 0}, "rate"),
        ("POST", "/replays", {"all": True, "payload": {}}, "body"),
        ("POST", "/drops", {"all": True}, "reason"),
        ("DELETE", "/1", None, "reason"),
    ],
)
async def test_bad_questions_name_their_field(
    door: DoorUnderTest, method: str, path: str, body: dict[str, Any] | None, field: str
) -> None:
    reply = await door.call(method, LETTERS + path, body)

    assert (reply.status, reply.error["field"]) == (400, field), reply.envelope


async def test_one_is_shown_edited_and_replayed(door: DoorUnderTest, broker: NatsServer) -> None:
    [command] = await buried(broker, door.bus, 1, tenant="default")
    [sequence] = await sequences(door)
    shown = await door.call("GET", f"{LETTERS}/{sequence}")
    payload = {**shown.data["body"], "memory_id": "another"}
    seen: list[str] = []

    async def take(batch):
        seen.extend(item.message.memory_id for item in batch)
        return [None] * len(batch)

    bad = await door.call("POST", f"{LETTERS}/{sequence}/replay", {"payload": {**payload, "colour": 1}})
    started = await door.call("POST", f"{LETTERS}/{sequence}/replay", {"payload": payload})
    status = await ended(door, started)
    async with working(broker, take):
        await until(lambda: seen, ["another"])

    assert shown.data["body"]["memory_id"] == command.memory_id
    assert (bad.status, bad.error["field"]) == (400, "payload.colour")
    assert (status["state"], status["replayed"], status["edited"]) == ("done", 1, True)
    assert status["actor"] == door.key.split("_")[2]
    assert await sequences(door) == []


async def test_a_dry_run_changes_nothing_and_a_filter_replays_what_it_means(
    door: DoorUnderTest, broker: NatsServer
) -> None:
    await buried(broker, door.bus, 3, tenant="default")

    dry = await ended(door, await door.call("POST", f"{LETTERS}/replays", {"all": True, "dry_run": True}))
    before = await sequences(door)
    wet = await ended(
        door, await door.call("POST", f"{LETTERS}/replays", {"filter": {"stage": "embedder"}, "rate": 1000})
    )
    listed = await door.call("GET", f"{LETTERS}/replays")

    assert (dry["replayed"], len(before)) == (3, 3)
    assert (wet["replayed"], await sequences(door)) == (3, [])
    assert {wet["id"], dry["id"]} <= {one["id"] for one in listed.data["replays"]}
    async with working(broker, refuse):
        await until(lambda: letters_there(door.bus), 3)


async def test_a_replay_is_cancelled(door: DoorUnderTest, broker: NatsServer) -> None:
    await buried(broker, door.bus, 5, tenant="default")

    started = await door.call("POST", f"{LETTERS}/replays", {"all": True, "rate": 0.5})
    cancelled = await door.call("DELETE", started.headers["Location"])
    status = await ended(door, started)

    assert cancelled.status == 200
    assert status["state"] == "cancelled" and status["replayed"] < 5


async def test_they_are_given_up_with_a_reason(door: DoorUnderTest, broker: NatsServer) -> None:
    await buried(broker, door.bus, 3, tenant="default")
    one = (await sequences(door))[0]

    single = await door.call("DELETE", f"{LETTERS}/{one}?reason=no+use")
    again = await door.call("DELETE", f"{LETTERS}/{one}?reason=no+use")
    rest = await door.call("POST", f"{LETTERS}/drops", {"all": True, "reason": "a bad import"})

    assert (single.status, single.data["dropped"], again.status) == (200, 1, 404)
    assert rest.data == {"dropped": 2, "more": False}
    assert await letters_there(door.bus) == 0


async def test_a_job_that_was_replayed_waits_where_the_replay_put_it(door: DoorUnderTest, broker: NatsServer) -> None:
    command, entry = forget("default")
    [appended] = await door.bus.append([entry])
    job = JobId(appended.sequence, command.id).text("default", door.pepper)  # type: ignore[union-attr]
    async with working(broker, refuse):
        await until(lambda: letters_there(door.bus), 1)
    dead = (await door.call("GET", f"/v1/jobs/{job}")).data

    await ended(door, await door.call("POST", f"{LETTERS}/replays", {"all": True}))
    queued = (await door.call("GET", f"/v1/jobs/{job}")).data
    trouble = JobTrouble.model_validate_json(await door.bus.bucket(JOBS).get(f"default.{command.id}") or b"")

    assert (dead["state"], dead["dead"]["stage"]) == ("dead", "embedder")
    assert (queued["state"], queued["reason"]) == ("retrying", "replayed")
    assert trouble.work_sequence not in (None, appended.sequence)  # type: ignore[union-attr]
    async with working(broker, refuse):
        await until(lambda: letters_there(door.bus), 1)


async def test_a_key_of_the_installation_opens_dead_letters_and_nothing_of_a_tenant(
    door: DoorUnderTest, system_key: str
) -> None:
    refused = await door.call("POST", "/v1/memories", {"content": "whose?"}, key=system_key)

    assert (refused.status, refused.error["code"]) == (400, "INVALID_REQUEST")


async def test_the_first_start_makes_a_key_of_the_installation_once(door: DoorUnderTest, tmp_path: Path) -> None:
    await ensure_system_key(door.bus, tmp_path, door.pepper)
    first = (tmp_path / "system.key").read_text()
    await ensure_system_key(door.bus, tmp_path, door.pepper)

    assert (tmp_path / "system.key").read_text() == first
    async with asyncio.timeout(5.0):
        while (await door.call("GET", LETTERS, key=first.strip())).status != 200:
            await asyncio.sleep(0.005)
