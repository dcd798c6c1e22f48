"""Who gets in: keys, tenants, roles, and how fast a change counts."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engram_api.access import OPEN
from engram_api.routes import OPERATIONS
from engram_contracts.control import KeyRecord, TenantRecord
from engram_contracts.errors import NotFound
from engram_contracts.ids import JobId, new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import FindIndexed, GetMemory, Indexed, IndexedMemory
from engram_contracts.topology import KEYS, TENANTS
from engram_runtime.keys import (
    create_key,
    ensure_admin_key,
    key_id,
    mint_key,
)  # fmt: skip
from support.door import DoorUnderTest, open_door
from support.servers import NatsServer, nats_server


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory):
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    async with open_door(broker, tmp_path_factory.mktemp("data"), metrics={"token": "m" * 20}) as door:
        yield door


async def status_of(door: DoorUnderTest, key: str) -> int:
    return (await door.call("GET", "/v1/jobs/job_0", key=key)).status


async def until_status(door: DoorUnderTest, key: str, wanted: int, *, within: float = 1.0) -> float:
    began = time.monotonic()
    async with asyncio.timeout(within):
        while await status_of(door, key) != wanted:
            await asyncio.sleep(0.005)
    return time.monotonic() - began


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer " + "x" * 7_000},
        {"X-API-Key": ""},
        {"X-API-Key": mint_key("default", "admin", "x", b"another pepper")[0]},
    ],
)
async def test_without_a_key_that_counts_it_is_401_on_every_route(door: DoorUnderTest, headers: dict[str, str]) -> None:
    for operation in OPERATIONS:
        if operation.permission in OPEN:
            continue
        path = operation.path.replace("{id}", new_id())
        reply = await door.call(operation.method, path, key=None, headers=headers, raw=b"\xff")

        assert (reply.status, reply.error["code"]) == (401, "UNAUTHORIZED"), operation
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_key_is_taken_in_either_header_but_not_in_both(door: DoorUnderTest) -> None:
    either = await door.call("GET", "/v1/jobs/job_0", key=None, headers={"X-API-Key": door.key})
    both = await door.call("GET", "/v1/jobs/job_0", headers={"X-API-Key": door.key})

    assert either.status == 404
    assert both.status == 400


async def test_a_revoked_key_and_a_deleted_key_stop_within_a_second(door: DoorUnderTest) -> None:
    revoked, deleted = await door.new_key("acme"), await door.new_key("acme")
    bucket = door.bus.bucket(KEYS)
    record = KeyRecord.model_validate_json(await bucket.get(str(key_id(revoked))) or b"")

    await bucket.put(str(key_id(revoked)), record.model_copy(update={"revoked": True}).encode())
    await bucket.delete(str(key_id(deleted)))

    await until_status(door, revoked, 401)
    await until_status(door, deleted, 401)


async def test_an_expired_key_does_not_count(door: DoorUnderTest) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    key = await create_key(door.bus, "default", "writer", "short", door.pepper, expires_at=soon)

    await until_status(door, key, 404)
    await until_status(door, key, 401)


async def test_a_suspended_tenant_is_refused_and_a_resumed_one_served(door: DoorUnderTest) -> None:
    key = await door.new_key("late-payer")
    bucket = door.bus.bucket(TENANTS)
    active = TenantRecord.model_validate_json(await bucket.get("late-payer") or b"")

    await bucket.put("late-payer", active.model_copy(update={"status": "suspended"}).encode())
    await until_status(door, key, 403)
    await bucket.put("late-payer", active.encode())
    await until_status(door, key, 404)


async def test_a_key_of_a_tenant_that_is_gone_is_refused(door: DoorUnderTest) -> None:
    key = await door.new_key("short-lived")

    await door.bus.bucket(TENANTS).delete("short-lived")

    await until_status(door, key, 403)


async def test_a_key_speaks_for_its_own_tenant_alone(door: DoorUnderTest) -> None:
    key = await door.new_key("acme")

    own = await door.call("GET", "/v1/jobs/job_0", key=key, headers={"X-Engram-Tenant": "acme"})
    other = await door.call("GET", "/v1/jobs/job_0", key=key, headers={"X-Engram-Tenant": "default"})

    assert own.status == 404
    assert (other.status, other.error["field"]) == (400, "X-Engram-Tenant")


async def test_what_belongs_to_another_tenant_is_not_there(door: DoorUnderTest) -> None:
    theirs, memory_id, command = "acme", new_id(), new_id()
    memory = Memory(id=memory_id, content="theirs", created_at=datetime.now(UTC), updated_at=datetime.now(UTC))

    def get(question: GetMemory) -> Memory:
        if (question.tenant, question.memory_id) == (theirs, memory_id):
            return memory
        raise NotFound("no such memory in this store")

    door.parts.scripts = {
        GetMemory: get,
        FindIndexed: lambda question: Indexed(
            found=IndexedMemory(memory=memory, indexed_at=datetime.now(UTC), command=command)
            if (question.tenant, question.memory_id) == (theirs, memory_id)
            else None
        ),
    }
    key = await door.new_key(theirs, "admin")
    job = JobId(1, command).text(theirs, door.pepper)
    assert (await door.call("GET", f"/v1/memories/{memory_id}", key=key)).status == 200

    def blind(reply) -> tuple[int, str]:
        return reply.status, reply.raw.decode().replace(reply.meta["request_id"], "")

    for method in ("GET", "PATCH", "DELETE"):
        body = {"content": "mine"} if method == "PATCH" else None
        answers = {
            blind(await door.call(method, f"/v1/memories/{one}", body))
            for one in (memory_id, new_id(), "no-uuid", "a%2fb")
        }
        assert len(answers) == 1 and next(iter(answers))[0] == 404
    jobs = {blind(await door.call("GET", f"/v1/jobs/{one}")) for one in (job, "job_1_2_3", "x", job[:-1] + "0")}
    assert len(jobs) == 1 and next(iter(jobs))[0] == 404


async def test_metrics_ask_for_their_token_when_there_is_one(door: DoorUnderTest) -> None:
    assert (await door.call("GET", "/metrics", key=None)).status == 401
    assert (await door.call("GET", "/metrics")).status == 401
    assert (await door.call("GET", "/metrics", key="m" * 20)).status == 200


async def test_health_is_open(door: DoorUnderTest) -> None:
    reply = await door.call("GET", "/health", key=None)

    assert (reply.status, reply.data) == (200, {"status": "alive"})


async def test_the_first_start_makes_one_admin_key_for_its_owner_alone(door: DoorUnderTest, tmp_path: Path) -> None:
    first = await ensure_admin_key(door.bus, tmp_path, door.pepper)
    again = await ensure_admin_key(door.bus, tmp_path, door.pepper)

    assert first is not None and again is None
    file = tmp_path / "admin.key"
    assert file.read_text().strip() == first and stat.S_IMODE(file.stat().st_mode) == 0o600
    await until_status(door, first, 404)


async def test_a_key_file_that_does_not_work_is_replaced(door: DoorUnderTest, tmp_path: Path) -> None:
    old = await ensure_admin_key(door.bus, tmp_path, door.pepper)
    await door.bus.bucket(KEYS).delete(str(key_id(str(old))))

    new = await ensure_admin_key(door.bus, tmp_path, door.pepper)

    assert new is not None and new != old
    assert (tmp_path / "admin.key").read_text().strip() == new


async def test_of_several_first_starts_at_once_one_makes_the_key(door: DoorUnderTest, tmp_path: Path) -> None:
    made = await asyncio.gather(*(ensure_admin_key(door.bus, tmp_path, door.pepper) for _ in range(5)))

    winners = [key for key in made if key is not None]
    assert winners == [(tmp_path / "admin.key").read_text().strip()]


async def test_with_auth_off_everyone_is_the_tenant_they_name(broker: NatsServer, tmp_path: Path) -> None:
    async with open_door(broker, tmp_path, auth={"enabled": False}) as door:
        plain = await door.call("POST", "/v1/memories", {"content": "a"}, key=None)
        named = await door.call("POST", "/v1/memories", {"content": "a"}, key=None, headers={"X-Engram-Tenant": "bob"})
        bad = await door.call("POST", "/v1/memories", {"content": "a"}, key=None, headers={"X-Engram-Tenant": "Bob.*"})

        assert JobId.parse(plain.data["job"], "default", door.pepper) is not None
        assert JobId.parse(named.data["job"], "bob", door.pepper) is not None
        assert (bad.status, bad.error["field"]) == (400, "X-Engram-Tenant")


async def test_keys_count_and_are_revoked_after_the_broker_was_killed(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with open_door(server, tmp_path / "data") as door:
            key = await door.new_key("acme")

            server.kill()
            assert await status_of_bare(door, key) != 401
            server.start()
            await until_working(door)
            record = KeyRecord.model_validate_json(await door.bus.bucket(KEYS).get(str(key_id(key))) or b"")
            await door.bus.bucket(KEYS).put(str(key_id(key)), record.model_copy(update={"revoked": True}).encode())

            await until_status(door, key, 401)


async def status_of_bare(door: DoorUnderTest, key: str) -> int:
    """The status of a request that fails before it needs the broker, which is away."""
    return (await door.call("GET", "/v1/memories?limit=0", key=key)).status


async def until_working(door: DoorUnderTest) -> None:
    async with asyncio.timeout(15.0):
        while json.loads((await door.call("GET", "/health/ready", key=None)).raw)["data"]["status"] != "ready":
            await asyncio.sleep(0.05)
