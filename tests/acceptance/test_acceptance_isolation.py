"""One tenant against another, at every operation there is: nothing leaks, and what is foreign is as if it were not.

The probes are laid beside the route table; an operation without one fails here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from engram_api.routes import OPERATIONS, Operation
from engram_contracts.ids import new_id
from engram_contracts.permissions import BOUND, OPEN
from engram_contracts.topology import work_subject
from support.system import System

CANARY = "quincunx"
VICTIM, ATTACKER = "burgled", "burglar"
STREAM_SECONDS = 1.0
VOLATILE = {
    "date",
    "x-request-id",
    "x-correlation-id",
    "content-length",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
}

OWNED: dict[str, str] = {
    **dict.fromkeys(("get_memory", "revise", "forget", "get_history", "judge"), "memory"),
    **dict.fromkeys(("get_node", "drop_node"), "node"),
    **dict.fromkeys(("get_job", "follow_job", "cancel_job"), "job"),
    **dict.fromkeys(("get_replay", "cancel_replay"), "replay"),
    **dict.fromkeys(("get_dead", "replay_one", "drop_one"), "dead"),
    **dict.fromkeys(("get_tenant", "change_tenant", "suspend_tenant", "resume_tenant", "delete_tenant"), "tenant"),
    **dict.fromkeys(("get_key", "rotate_key", "revoke_key"), "key"),
    **dict.fromkeys(("get_member", "change_member", "remove_member"), "member"),
    "get_erasure": "erasure",
}
"""Operations on one thing that a tenant owns, and what that is."""

NOT_OWNED = frozenset(
    {
        "remember", "list_memories", "recall", "context", "think", "list_nodes", "put_node", "put_edge", "drop_edge",
        "neighbours", "find_path", "events", "make_ticket", "list_dead", "group_dead", "list_replays", "start_replay",
        "drop_some", "list_tenants", "create_tenant", "list_plans", "create_plan", "get_plan", "change_plan",
        "delete_plan", "list_keys", "create_key", "list_members", "add_member", "export", "start_erasure",
        "list_erasures", "get_usage", "export_usage", "health", "ready", "metrics", "metrics_targets", "openapi",
        "docs", "docs_file",
    }
)  # fmt: skip
"""All others: whatever they answer, it holds nothing of another tenant."""

BODIES: dict[str, Any] = {
    "remember": {"content": "mine", "user_id": CANARY[:3]}, "revise": {"content": "mine now"},
    "judge": {"verdict": "wrong"}, "recall": {"query": f"what of the {CANARY}?", "limit": 100},
    "context": {"query": f"what of the {CANARY}?", "tokens": 1_000}, "think": {"question": f"what of the {CANARY}?"},
    "put_node": {"id": "person:Burglar"}, "start_replay": {"all": True, "dry_run": True},
    "drop_some": {"all": True, "reason": "curious"}, "replay_one": {}, "create_tenant": {"name": VICTIM},
    "change_tenant": {"title": "mine"}, "suspend_tenant": {}, "create_plan": {"name": "mine"},
    "change_plan": {"title": "mine"}, "create_key": {"name": "mine", "role": "reader"}, "rotate_key": {},
    "add_member": {"subject": "thief", "role": "reader"}, "change_member": {"role": "admin"},
    "start_erasure": {"user_id": CANARY},
}  # fmt: skip
QUERIES: dict[str, dict[str, str]] = {
    "drop_one": {"reason": "curious"}, "neighbours": {"node": f"name:{CANARY}"}, "list_nodes": {"prefix": CANARY},
    "find_path": {"source": f"name:{CANARY}", "target": "person:Owner"},
    "drop_edge": {"source": f"name:{CANARY}", "type": "of", "target": "person:Owner"},
}  # fmt: skip
PATHS = {"get_plan": "standard", "change_plan": "standard", "delete_plan": "standard", "docs_file": "docs.js"}


@dataclass(frozen=True)
class Seen:
    """An answer, as far as it can tell one thing from another."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True)
class Scene:
    """Two tenants of one system, and what one of them owns."""

    system: System
    session: aiohttp.ClientSession
    victim: str
    attacker: str
    owned: Mapping[str, str]
    guesses: Mapping[str, str]

    async def seen(self, operation: Operation, thing: str, *, key: str, **headers: str) -> Seen:
        """What is answered about a thing; of what is streamed, the first second."""
        path = operation.path.replace("{id}", thing).replace("{name}", PATHS.get(operation.name, "x"))
        body = BODIES.get(operation.name) if operation.body is not None else None
        if operation.name == "put_edge":
            evidence = [self.owned["memory"]]
            body = {"source": "person:Burglar", "type": "of", "target": "person:Else", "evidence": evidence}
        sent = {"Authorization": f"Bearer {key}", **headers}
        async with self.session.request(
            operation.method, self.system.url + path, json=body, headers=sent, params=QUERIES.get(operation.name)
        ) as answer:
            text = await _some_of(answer)
        kept = sorted((k.lower(), v) for k, v in answer.headers.items() if k.lower() not in VOLATILE)
        request_id = answer.headers["X-Request-ID"]
        return Seen(answer.status, tuple(kept), text.replace(request_id, "").replace(thing, "THING"))

    async def call(self, key: str, method: str, path: str, body: Any = None) -> Any:
        """The data of an answer that must be a success."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self.session.request(method, self.system.url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            assert answer.status < 300, (path, text)
            return json.loads(text)["data"]


async def _some_of(answer: aiohttp.ClientResponse) -> str:
    if "event-stream" not in answer.headers.get("Content-Type", ""):
        return await answer.text()
    read = bytearray()
    try:
        async with asyncio.timeout(STREAM_SECONDS):
            async for chunk in answer.content.iter_any():
                read += chunk
    except TimeoutError:
        answer.close()
    return read.decode()


@pytest.fixture(scope="module")
async def scene(shared_system: System) -> AsyncIterator[Scene]:
    system = shared_system
    victim, attacker = await system.new_key(VICTIM, "admin"), await system.new_key(ATTACKER, "admin")
    async with aiohttp.ClientSession() as session:
        bare = Scene(system, session, victim, attacker, {}, {})
        async with asyncio.timeout(10.0):
            for key in (victim, attacker):
                while (await bare.seen(_named("list_memories"), "", key=key)).status in (401, 403):
                    await asyncio.sleep(0.02)
        yield Scene(system, session, victim, attacker, await _belongings(bare), _guesses())


def _named(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation.name == name)


async def _belongings(bare: Scene) -> dict[str, str]:
    """Everything that a tenant can own, made by its admin."""
    from engram_runtime.nats_bus import open_bus  # noqa: PLC0415 (beside its one use)

    key = bare.victim
    kept = {"content": f'Owner hides the "{CANARY}" here.', "user_id": CANARY, "speaker": "Owner"}
    memory = await bare.call(key, "POST", "/v1/memories?wait=done", kept)
    node, edge = {"id": f"name:{CANARY}"}, {"source": f"name:{CANARY}", "type": "of", "target": "person:Owner"}
    await bare.call(key, "POST", "/v1/graph/nodes?wait=done", node)
    await bare.call(key, "POST", "/v1/graph/edges?wait=done", edge)
    async with open_bus(bare.system.nats, name="engram-tests") as bus:
        await bus.jetstream.publish(work_subject(VICTIM, "forget"), json.dumps({"broken": CANARY}).encode())
    async with asyncio.timeout(30.0):
        while not (letters := (await bare.call(key, "GET", "/v1/dead-letters"))["letters"]):
            await asyncio.sleep(0.05)
    replay = await bare.call(key, "POST", "/v1/dead-letters/replays", {"all": True, "dry_run": True})
    made = await bare.call(key, "POST", "/v1/keys", {"name": CANARY, "role": "reader"})
    member = await bare.call(key, "POST", "/v1/members", {"subject": CANARY, "role": "reader"})
    erasure = await bare.call(key, "POST", "/v1/erasures", {"user_id": "nobody-at-all"})
    return {
        "memory": memory["id"], "job": memory["job"], "node": node["id"], "dead": str(letters[0]["sequence"]),
        "replay": replay["id"], "tenant": VICTIM, "key": made["id"], "member": member["id"], "erasure": erasure["id"],
    }  # fmt: skip


def _guesses() -> dict[str, str]:
    return {
        "memory": new_id(), "job": "job_1_0123456789abcdef0123456789abcdef_0123456789ab", "node": "name:Nothing",
        "dead": "999999", "replay": new_id(), "tenant": "nobody", "key": "abcdefgh2345", "member": "a" * 26,
        "erasure": new_id(),
    }  # fmt: skip


def test_every_operation_has_a_probe() -> None:
    names = {operation.name for operation in OPERATIONS}

    assert names == OWNED.keys() | NOT_OWNED
    assert not OWNED.keys() & NOT_OWNED


async def test_what_is_another_tenants_is_as_if_it_were_not_there(scene: Scene) -> None:
    for name, thing in OWNED.items():
        operation = _named(name)

        foreign = await scene.seen(operation, scene.owned[thing], key=scene.attacker)
        guessed = await scene.seen(operation, scene.guesses[thing], key=scene.attacker)

        assert foreign == guessed, name
        assert foreign.status in (403, 404), (name, foreign)
        assert (foreign.status == 403) == (operation.permission == "tenants:write"), (name, foreign)


async def test_nothing_that_is_answered_holds_anything_of_another_tenant(scene: Scene) -> None:
    secrets = {value for thing, value in scene.owned.items() if thing not in ("dead", "tenant", "node")}
    for name in sorted(NOT_OWNED - {"drop_some", "start_erasure"}):
        operation = _named(name)
        seen = await scene.seen(operation, PATHS.get(name, ""), key=scene.attacker, **{"Last-Event-ID": "0"})

        said = seen.body.replace(f"what of the {CANARY}", "").replace(f"name:{CANARY}", "")
        assert seen.status < 500 and CANARY not in said, (name, seen)
        assert not [secret for secret in secrets if secret in seen.body], (name, seen)


async def test_a_header_that_names_another_tenant_is_refused_everywhere(scene: Scene) -> None:
    for operation in OPERATIONS:
        if operation.permission in OPEN:
            continue
        thing = scene.owned.get(OWNED.get(operation.name, ""), "standard")
        seen = await scene.seen(operation, thing, key=scene.attacker, **{"X-Engram-Tenant": VICTIM})
        swapped = await scene.seen(operation, thing, key=scene.victim, **{"X-Engram-Tenant": ATTACKER})

        assert (seen.status, swapped.status) == (400, 400), operation.name


@pytest.fixture(scope="module")
async def neighbour(scene: Scene) -> str:
    """A key of the victim's own tenant that is bound to another user, who has a memory that names the same place."""
    made = {"name": "bound", "role": "writer", "user_ids": ["neighbour"]}
    key: str = (await scene.call(scene.victim, "POST", "/v1/keys", made))["key"]
    async with asyncio.timeout(10.0):
        while (await scene.seen(_named("list_memories"), "", key=key)).status == 401:
            await asyncio.sleep(0.02)
    await scene.call(key, "POST", "/v1/memories?wait=done", {"content": "Owner met Neighbour.", "speaker": "Neighbour"})
    return key


async def test_a_key_bound_to_one_user_sees_nothing_of_another_user_of_its_tenant(scene: Scene, neighbour: str) -> None:
    secrets = {scene.owned[thing] for thing in ("memory", "job", "key", "member", "erasure", "replay")}
    for operation in OPERATIONS:
        thing = OWNED.get(operation.name)
        if thing is not None:
            foreign = await scene.seen(operation, scene.owned[thing], key=neighbour)
            guessed = await scene.seen(operation, scene.guesses[thing], key=neighbour)
            assert foreign == guessed, operation.name
            assert foreign.status == (404 if operation.permission in BOUND else 403), (operation.name, foreign)
        else:
            seen = await scene.seen(operation, PATHS.get(operation.name, ""), key=neighbour, **{"Last-Event-ID": "0"})
            said = seen.body.replace(f"what of the {CANARY}", "").replace(f"name:{CANARY}", "")
            assert seen.status < 500 and CANARY not in said, (operation.name, seen)
            assert not [secret for secret in secrets if secret in seen.body], (operation.name, seen)


async def test_a_key_bound_to_one_user_has_the_graph_that_this_users_memories_tell(
    scene: Scene, neighbour: str
) -> None:
    own = await scene.call(neighbour, "GET", "/v1/graph/nodes/name:Owner")
    whole = await scene.call(scene.victim, "GET", "/v1/graph/nodes/person:Owner")
    around = await scene.call(neighbour, "GET", "/v1/graph/neighbours?node=person:Neighbour&hops=3")
    path = await scene.call(neighbour, "GET", "/v1/graph/path?source=person:Neighbour&target=person:Owner")

    assert len(own["memory_ids"]) == own["node"]["mentions"] == 1
    assert len(whole["memory_ids"]) == 2
    assert [each["node"]["id"] for each in around["nodes"]] == ["person:Owner"]
    assert path["nodes"] == ["person:Neighbour", "person:Owner"]


async def test_what_takes_all_takes_all_of_ones_own(scene: Scene) -> None:
    for name in ("drop_some", "start_erasure"):
        assert (await scene.seen(_named(name), "", key=scene.attacker)).status < 500

    call, key = scene.call, scene.victim
    memory = await call(key, "GET", f"/v1/memories/{scene.owned['memory']}")
    found = await call(key, "POST", "/v1/recall", {"query": CANARY})
    letters = await call(key, "GET", "/v1/dead-letters")
    assert CANARY in memory["content"] and memory["version"] == 1 and not memory.get("feedback")
    assert found["hits"][0]["memory"]["id"] == scene.owned["memory"]
    assert str(letters["letters"][0]["sequence"]) == scene.owned["dead"]
    assert (await call(key, "GET", f"/v1/graph/nodes/name:{CANARY}"))["edges"]
    assert (await call(key, "GET", f"/v1/keys/{scene.owned['key']}"))["status"] == "active"
    assert (await call(key, "GET", f"/v1/members/{scene.owned['member']}"))["role"] == "reader"
    assert {each["subject"] for each in (await call(key, "GET", "/v1/members"))["members"]} == {CANARY}
