"""Who asks for more than it may have: every role, and every body with fields that are not its sender's to set.

Both are made from the route table, so an operation that is added is tried as well.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from engram_api.access import OPEN, allowed, granted
from engram_api.bodies import OneOrMany
from engram_api.routes import OPERATIONS, Operation
from engram_contracts.commands import Command
from engram_contracts.control import Bounds, KeyRecord, Member, TenantRecord
from engram_contracts.ids import new_id
from engram_contracts.memory import Memory
from engram_contracts.messages import Strict
from engram_contracts.permissions import BOUND, ROLES
from engram_contracts.recovery import SYSTEM
from engram_contracts.sampling import sample
from engram_contracts.topology import KEYS, MEMBERS, PLANS, TENANTS, WORK
from engram_runtime.keys import create_key, key_id, mint_key
from support.door import DoorUnderTest, open_door
from support.servers import nats_server
from support.waiting import holds

CLOSED = tuple(operation for operation in OPERATIONS if operation.permission not in OPEN)
WITH_BODY = tuple(operation for operation in OPERATIONS if operation.body is not None)
STORED = (Memory, TenantRecord, KeyRecord, Member, Command)
"""What is kept of what bodies ask for, with fields that are set by nobody but Engram."""
UNKNOWN = ("is_admin", "__proto__", "$set", "tenant_id", "permissions", "content_", "Content", "")


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    folder: Path = tmp_path_factory.mktemp("door")
    with nats_server(folder / "nats") as server:
        async with open_door(server, folder / "data") as door:
            yield door


async def status(door: DoorUnderTest, operation: Operation, key: str, **headers: str) -> int:
    path = operation.path.replace("{id}", new_id())
    sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    async with door.session.request(operation.method, door.url + path, data=b"\xff", headers=sent) as answer:
        return answer.status  # what is streamed does not end, so only the head is read


# --- roles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [role for role in ROLES if role != "owner"])
async def test_every_role_of_a_tenant_reaches_exactly_what_it_carries(door: DoorUnderTest, role: Any) -> None:
    key = await door.new_key("acme", role)

    for operation in CLOSED:
        refused = await status(door, operation, key) == 403
        assert refused != allowed(role, operation.permission), operation.name


@pytest.mark.parametrize("role", [role for role in ROLES if role != "owner"])
async def test_the_installations_keys_reach_any_tenant_with_their_role_and_its_owner_all(
    door: DoorUnderTest, role: Any
) -> None:
    await door.new_key("acme")
    key = await create_key(door.bus, SYSTEM, role, "test", door.pepper)
    carried = ROLES["owner"] if role == "admin" else ROLES[role]
    assert await holds(lambda: _known(door, key))

    for operation in CLOSED:
        named = await status(door, operation, key, **{"X-Engram-Tenant": "acme"})
        alone = await status(door, operation, key)
        assert (named == 403) != (operation.permission in carried), operation.name
        assert (alone == 403) != (operation.permission in carried), operation.name
        assert operation.system or alone in (400, 403), operation.name


async def test_owner_is_no_role_that_a_tenant_can_have(door: DoorUnderTest) -> None:
    key = await create_key(door.bus, "default", "owner", "test", door.pepper)
    assert await holds(lambda: _known(door, key))

    assert {await status(door, operation, key) for operation in CLOSED} == {403}
    for path, said in (("/v1/keys", {"name": "x"}), ("/v1/members", {"subject": "x"})):
        made = await door.call("POST", path, {**said, "role": "owner"})
        assert (made.status, made.data) in ((403, None), (400, None)), path


async def test_a_key_bound_to_users_reaches_what_can_be_narrowed_to_them_and_is_told_why_not_the_rest(
    door: DoorUnderTest,
) -> None:
    text, record = mint_key("default", "writer", "test", door.pepper)
    bound = record.model_copy(update={"bounds": Bounds(user_ids=("ann",))})
    await door.bus.bucket(KEYS).put(str(key_id(text)), bound.encode())
    assert await holds(lambda: _known(door, text))

    for operation in CLOSED:
        refused = await status(door, operation, text) == 403
        assert refused != (operation.permission in BOUND & ROLES["writer"]), operation.name
    told = await door.call("POST", "/v1/graph/nodes", {"id": "person:Ann"}, key=text)
    assert "concerns the whole tenant" in told.error["message"]
    assert granted("admin", None, bound.bounds) <= BOUND


async def _known(door: DoorUnderTest, key: str) -> bool:
    return (await door.call("GET", "/v1/jobs/job_0", key=key)).status != 401


# --- bodies -------------------------------------------------------------------------------------------------


def bodies(operation: Operation) -> Iterator[tuple[type[BaseModel], Any]]:
    """A good body of each form that an operation takes, with the model of it."""
    body = operation.body
    assert body is not None
    if isinstance(body, OneOrMany):
        yield body.one, sample(body.one)
        yield body.many, {body.key: [sample(body.one)]}
    else:
        yield body, sample(body)


def inner(model: type[BaseModel], body: Any) -> Iterator[bytes]:
    """The body with an unknown field in each of the objects that it may hold."""
    if "memories" in body:
        yield json.dumps({"memories": [{**body["memories"][0], "tenant": "intruder"}]}).encode()
    for name, field in model.model_fields.items():
        if any(isinstance(each, type) and issubclass(each, Strict) for each in _parts(field.annotation)):
            yield json.dumps({**body, name: {"tenant": "intruder"}}).encode()


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for each in get_args(annotation):
        yield from _parts(each)


def foreign(operation: Operation, model: type[BaseModel]) -> set[str]:
    """Names that are fields of what is kept, or answered, and not of what is sent."""
    answers = [*get_args(operation.answer), operation.answer, *operation.also.values()]
    kinds = [kind for kind in (*STORED, *answers) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    names = {name for kind in kinds for name in kind.model_fields} | set(UNKNOWN)
    return names - model.model_fields.keys() - {"memories"}


async def everything_kept(door: DoorUnderTest) -> tuple[int, ...]:
    """How many messages were ever put on the work queue and into the buckets of the control plane."""
    names = (WORK.name, *(f"KV_{bucket.name}" for bucket in (TENANTS, PLANS, KEYS, MEMBERS)))
    return tuple([(await door.bus.jetstream.stream_info(name)).state.last_seq for name in names])


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda operation: operation.name)
async def test_a_field_that_is_not_its_senders_to_set_is_refused_and_changes_nothing(
    door: DoorUnderTest, operation: Operation
) -> None:
    owner = await create_key(door.bus, SYSTEM, "admin", "test", door.pepper)
    assert await holds(lambda: _known(door, owner))
    before = await everything_kept(door)
    path, tried = operation.path.replace("{id}", new_id()), 0

    for model, body in bodies(operation):
        outer = [json.dumps({**body, name: "intruder"}).encode() for name in sorted(foreign(operation, model))]
        for raw in (*outer, *inner(model, body)):
            headers = {"X-Engram-Tenant": "default"}
            answer = await door.call(operation.method, path, raw=raw, key=owner, headers=headers)
            assert (answer.status, answer.error["code"]) == (400, "INVALID_REQUEST"), (raw, answer.raw)
            assert "intruder" not in answer.raw.decode()
            tried += 1

    assert tried > 20
    assert await everything_kept(door) == before


@pytest.mark.parametrize("name", ["tenant", "user_id", "role", "tenant_id", "system"])
async def test_a_parameter_that_an_operation_does_not_have_is_refused(door: DoorUnderTest, name: str) -> None:
    for operation in CLOSED:
        if name in operation.query.model_fields:
            continue
        body = next(bodies(operation))[1] if operation.body is not None else None
        path = operation.path.replace("{id}", new_id())
        answer = await door.call(operation.method, path, body, **{name: "acme"})
        assert answer.status in (400, 403), (operation.name, answer.raw)
        assert answer.status == 403 or f'"{name}"' in answer.raw.decode(), operation.name


def test_every_operation_that_changes_something_by_a_body_is_tried() -> None:
    assert {"remember", "revise", "judge", "think", "put_node", "put_edge", "create_key", "change_tenant"} <= {
        operation.name for operation in WITH_BODY
    }
    assert len(WITH_BODY) >= 18
