"""Tenants, keys, plans and members over HTTP: what they do, and what nobody can do with them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from engram_api.keyring import open_keyring
from engram_api.uses import noting_uses
from engram_contracts.erasing import ErasureStatus, StartErasure
from engram_contracts.ids import new_id
from engram_contracts.questions import ListMemories, MemoryPage
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import IDEMPOTENCY, KEY_USES
from engram_runtime.keys import create_key, key_id
from support.door import DoorUnderTest, Reply, open_door
from support.servers import nats_server

HUMAN = {"name": "ci", "role": "writer"}


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        async with open_door(server, tmp_path_factory.mktemp("data")) as door:
            door.parts.scripts = {ListMemories: lambda _: MemoryPage(memories=())}
            yield door


@pytest.fixture(scope="module")
async def owner(door: DoorUnderTest) -> str:
    key = await create_key(door.bus, SYSTEM, "admin", "owner", door.pepper)
    await until(door, key, 400)  # known, and not for a tenant
    return key


async def until(door: DoorUnderTest, key: str, status: int, path: str = "/v1/memories") -> None:
    async with asyncio.timeout(5.0):
        while (await door.call("GET", path, key=key)).status != status:
            await asyncio.sleep(0.005)


async def a_tenant(door: DoorUnderTest, owner: str, **more: Any) -> str:
    name = f"t{new_id()[-12:]}"
    made = await door.call("POST", "/v1/tenants", {"name": name, "plan": "unlimited", **more}, key=owner)
    assert made.status == 201
    return name


async def a_key(door: DoorUnderTest, owner: str, tenant: str, **fields: Any) -> Reply:
    return await door.call(
        "POST", "/v1/keys", {**HUMAN, **fields}, key=owner, headers={"X-Engram-Tenant": tenant}
    )  # fmt: skip


async def test_a_tenant_is_created_suspended_resumed_and_shown_with_its_limits(door: DoorUnderTest, owner: str) -> None:
    name = await a_tenant(door, owner, plan="standard", overrides={"quotas": {"memories": 5}})
    key = (await a_key(door, owner, name)).data["key"]
    path = f"/v1/tenants/{name}"

    shown = (await door.call("GET", path, key=owner)).data
    served = await door.call("GET", "/v1/memories", key=key)
    await door.call("POST", f"{path}/suspend", {"reason": "unpaid"}, key=owner)
    refused = await door.call("GET", "/v1/memories", key=key)
    suspended = (await door.call("GET", path, key=owner)).data
    await door.call("POST", f"{path}/resume", key=owner)
    again = await door.call("GET", "/v1/memories", key=key)

    assert (shown["plan"], shown["limits"]["quotas"]["memories"]) == ("standard", 5)
    assert shown["limits"]["rates"]["model"] == {"per_minute": 10.0, "burst": 10}
    assert (served.status, refused.status, again.status) == (200, 403, 200)
    assert (suspended["status"], suspended["reason"]) == ("suspended", "unpaid")
    assert (await door.call("POST", "/v1/tenants", {"name": name}, key=owner)).status == 409
    assert (await door.call("POST", "/v1/tenants", {"name": "x", "plan": "none"}, key=owner)).error["field"] == "plan"


async def test_a_deleted_tenant_is_refused_at_once_and_its_name_is_free_when_nothing_is_left(
    door: DoorUnderTest, owner: str
) -> None:
    name, now = await a_tenant(door, owner), datetime.now(UTC)
    key = (await a_key(door, owner, name)).data["key"]
    states = iter(("running", "done"))
    door.parts.scripts[StartErasure] = lambda asked: ErasureStatus(
        id=asked.id, tenant=asked.tenant, state=next(states), accepted_at=now, updated_at=now
    )

    begun = await door.call("DELETE", f"/v1/tenants/{name}", key=owner)
    refused = await door.call("GET", "/v1/memories", key=key)
    resumed = await door.call("POST", f"/v1/tenants/{name}/resume", key=owner)
    ended = await door.call("DELETE", f"/v1/tenants/{name}", key=owner)

    assert (begun.status, refused.status, resumed.status, ended.status) == (202, 403, 409, 200)
    assert begun.data["id"] == ended.data["id"]
    assert (await door.call("GET", f"/v1/tenants/{name}", key=owner)).status == 404
    assert (await door.call("GET", "/v1/memories", key=key)).status == 401
    assert (await door.call("POST", "/v1/tenants", {"name": name}, key=owner)).status == 201


async def test_a_key_is_shown_once_and_kept_nowhere(door: DoorUnderTest, owner: str) -> None:
    name = await a_tenant(door, owner)
    headers = {"X-Engram-Tenant": name, "Idempotency-Key": new_id()}

    made = await door.call("POST", "/v1/keys", {**HUMAN, "mode": "test"}, key=owner, headers=headers)
    again = await door.call("POST", "/v1/keys", {**HUMAN, "mode": "test"}, key=owner, headers=headers)
    listed = await door.call("GET", "/v1/keys", key=owner, headers={"X-Engram-Tenant": name})

    text = made.data["key"]
    assert text.startswith("eng_test_") and made.data["id"] == key_id(text)
    assert again.data["key"] == text and again.headers["Idempotency-Replayed"] == "true"
    assert [each["id"] for each in listed.data["keys"]] == [key_id(text)] and text not in listed.raw.decode()
    stream = await door.bus.jetstream.stream_info(f"KV_{IDEMPOTENCY.name}")
    for sequence in range(1, stream.state.last_seq + 1):
        with contextlib.suppress(NotFoundError):
            stored = await door.bus.jetstream.get_msg(f"KV_{IDEMPOTENCY.name}", seq=sequence)
            assert text.encode() not in (stored.data or b"")


async def test_rotation_overlaps_and_revocation_counts_at_once(door: DoorUnderTest, owner: str) -> None:
    name = await a_tenant(door, owner)
    headers = {"X-Engram-Tenant": name}
    old = (await a_key(door, owner, name, scopes=["memories:read"])).data
    path = f"/v1/keys/{old['id']}"

    new = (await door.call("POST", f"{path}/rotate", {"overlap": 60}, key=owner, headers=headers)).data
    both = [(await door.call("GET", "/v1/memories", key=key)).status for key in (old["key"], new["key"])]
    twice = await door.call("POST", f"{path}/rotate", {"overlap": 60}, key=owner, headers=headers)
    shown = (await door.call("GET", path, key=owner, headers=headers)).data
    revoked = await door.call("DELETE", f"/v1/keys/{new['id']}", key=owner, headers=headers)

    assert both == [200, 200] and twice.status == 409
    assert (new["scopes"], new["replaces"], shown["replaced_by"]) == (["memories:read"], old["id"], new["id"])
    assert datetime.fromisoformat(shown["expires_at"]) < datetime.now(UTC) + timedelta(seconds=61)
    assert revoked.data["status"] == "revoked"
    assert (await door.call("GET", "/v1/memories", key=new["key"])).status == 401


async def test_a_use_is_written_down_later(door: DoorUnderTest, owner: str) -> None:
    name = await a_tenant(door, owner)
    made = (await a_key(door, owner, name)).data
    before = (await door.call("GET", f"/v1/keys/{made['id']}", key=owner, headers={"X-Engram-Tenant": name})).data
    await door.call("GET", "/v1/memories", key=made["key"])

    after = (await door.call("GET", f"/v1/keys/{made['id']}", key=owner, headers={"X-Engram-Tenant": name})).data
    async with open_keyring(door.bus, door.pepper) as (keyring, _), noting_uses(door.bus, keyring, every=60.0):
        assert keyring.verify(made["key"]) is not None

    assert before.get("last_used_at") is None and after["last_used_at"] is not None
    assert await door.bus.bucket(KEY_USES).get(made["id"]) is not None


async def test_nobody_gives_or_borrows_more_than_they_have(door: DoorUnderTest, owner: str) -> None:
    name = await a_tenant(door, owner)
    admin = (await a_key(door, owner, name, role="admin")).data
    clerk = (await a_key(door, owner, name, role="admin", scopes=["keys:write", "keys:read"])).data["key"]

    asked = [
        await door.call("POST", "/v1/keys", {**HUMAN, "role": "admin"}, key=clerk),
        await door.call("POST", "/v1/keys", {**HUMAN, "role": "owner"}, key=admin["key"]),
        await door.call("POST", f"/v1/keys/{admin['id']}/rotate", {}, key=clerk),
        await door.call("POST", "/v1/tenants", {"name": "mine"}, key=admin["key"]),
        await door.call("PATCH", f"/v1/tenants/{name}", {"plan": "unlimited"}, key=admin["key"]),
        await door.call("POST", "/v1/members", {"subject": "me", "role": "admin"}, key=clerk),
    ]

    assert [reply.status for reply in asked] == [403] * len(asked)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/keys", {**HUMAN, "tenant": "default"}),
        ("/v1/keys", {**HUMAN, "hash": "0" * 64}),
        ("/v1/keys", {**HUMAN, "bounds": {}}),
        ("/v1/keys", {**HUMAN, "created_by": "me"}),
        ("/v1/members", {"subject": "s", "role": "reader", "tenant": "default"}),
        ("/v1/members", {"subject": "s", "role": "owner"}),
        ("/v1/tenants", {"name": "x", "status": "suspended"}),
        ("/v1/tenants", {"name": "_system"}),
        ("/v1/plans", {"name": "x", "quotas": {"everything": 1}}),
    ],
)
async def test_what_only_the_door_sets_cannot_be_sent(
    door: DoorUnderTest, owner: str, path: str, body: dict[str, Any]
) -> None:
    tenant = {} if path in ("/v1/tenants", "/v1/plans") else {"X-Engram-Tenant": "default"}

    reply = await door.call("POST", path, body, key=owner, headers=tenant)

    assert reply.status in (400, 422)


async def test_a_plan_is_made_used_changed_and_gone_when_nobody_has_it(door: DoorUnderTest, owner: str) -> None:
    plan = f"p{new_id()[-12:]}"
    made = await door.call("POST", "/v1/plans", {"name": plan, "quotas": {"calls": 7}}, key=owner)
    name = await a_tenant(door, owner, plan=plan)

    changed = await door.call("PATCH", f"/v1/plans/{plan}", {"quotas": {"calls": 8}}, key=owner)
    limits = (await door.call("GET", f"/v1/tenants/{name}", key=owner)).data["limits"]
    used = await door.call("DELETE", f"/v1/plans/{plan}", key=owner)
    await door.call("PATCH", f"/v1/tenants/{name}", {"plan": "unlimited"}, key=owner)
    gone = await door.call("DELETE", f"/v1/plans/{plan}", key=owner)
    built_in = await door.call("PATCH", "/v1/plans/standard", {"title": "ours"}, key=owner)
    back = await door.call("DELETE", "/v1/plans/standard", key=owner)

    assert (made.status, changed.status, limits["quotas"]["calls"]) == (201, 200, 8)
    assert (used.status, gone.status, built_in.data["title"], back.status) == (409, 200, "ours", 200)
    assert {each["name"] for each in (await door.call("GET", "/v1/plans")).data["plans"]} >= {"standard", "unlimited"}


async def test_lists_are_paged_and_hold_one_tenants_records_alone(door: DoorUnderTest, owner: str) -> None:
    name, other = await a_tenant(door, owner), await a_tenant(door, owner)
    headers = {"X-Engram-Tenant": name}
    made = {(await a_key(door, owner, name)).data["id"] for _ in range(3)}
    foreign = (await a_key(door, owner, other)).data["id"]
    admin = (await a_key(door, owner, name, role="admin")).data

    first = await door.call("GET", "/v1/keys", key=owner, headers=headers, limit=2)
    rest = await door.call("GET", "/v1/keys", key=owner, headers=headers, limit=2, cursor=first.meta["next"])

    assert {each["id"] for each in (*first.data["keys"], *rest.data["keys"])} == made | {admin["id"]}
    tenants = (await door.call("GET", "/v1/tenants", key=admin["key"])).data["tenants"]
    assert [each["name"] for each in tenants] == [name]
    assert (await door.call("GET", f"/v1/tenants/{other}", key=admin["key"])).status == 404
    assert (await door.call("DELETE", f"/v1/keys/{foreign}", key=admin["key"])).status == 404
