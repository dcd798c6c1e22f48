"""What the door asks the parts and how it tells their answers, also when a part is away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engram_api.readiness import SERVICES
from engram_contracts.errors import NotFound, Overloaded, Unavailable
from engram_contracts.events import JobTrouble
from engram_contracts.facts import Thought
from engram_contracts.ids import JobId, new_id
from engram_contracts.memory import Filters, Memory, MemoryVersion
from engram_contracts.questions import (
    FindIndexed,
    FindJob,
    FindPath,
    Found,
    GetHistory,
    GetMemory,
    GetNode,
    GetUsage,
    History,
    Hit,
    Indexed,
    IndexedMemory,
    JobRecord,
    ListMemories,
    ListNodes,
    MemoryPage,
    Meter,
    Neighbourhood,
    Neighbours,
    Node,
    NodeDetail,
    NodePage,
    Recall,
    Recollection,
    Usage,
)  # fmt: skip
from engram_contracts.questions import (
    Path as GraphPath,
)
from engram_contracts.topology import JOBS
from support.door import DoorUnderTest, open_door
from support.servers import nats_server


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    folder: Path = tmp_path_factory.mktemp("door")
    with nats_server(folder / "nats") as server:
        async with open_door(server, folder / "data") as door:
            yield door


@pytest.fixture(autouse=True)
def silence(door: DoorUnderTest) -> None:
    door.parts.scripts, door.parts.asked = {}, []


def now() -> datetime:
    return datetime.now(UTC)


def memory(memory_id: str | None = None) -> Memory:
    return Memory(id=memory_id or new_id(), content="x", created_at=now(), updated_at=now())


def unknown(_: Any) -> Any:
    raise NotFound("unknown")


async def test_a_recall_is_asked_as_sent_and_told_with_its_meta(door: DoorUnderTest) -> None:
    hit = Hit(memory=memory(), score=0.9, legs=("dense",))
    door.parts.scripts = {Recall: lambda _: Recollection(hits=(hit,), degraded=("graph: away",), stages_ms={"fuse": 1})}
    body = {"query": "who?", "limit": 3, "filters": {"user_id": "u", "tags": ["a"]}, "explain": True}

    reply = await door.call("POST", "/v1/recall", body)

    asked = door.parts.asked[0]
    assert isinstance(asked, Recall)
    assert (asked.tenant, asked.query, asked.limit, asked.explain) == ("default", "who?", 3, True)
    assert asked.filters == Filters(user_id="u", tags=("a",))
    assert reply.status == 200 and reply.data["hits"][0]["memory"]["id"] == hit.memory.id
    assert reply.meta["degraded"] == ["graph: away"] and reply.meta["took_ms"] > 0
    assert reply.meta["stages_ms"] == {"fuse": 1}


async def test_a_part_that_is_away_is_503_with_when_to_try_again(door: DoorUnderTest) -> None:
    for error, code in ((Unavailable("away", retry_after=2.5), "UNAVAILABLE"), (Overloaded("full"), "OVERLOADED")):

        def fail(_: Any, error: Exception = error) -> Any:
            raise error

        door.parts.scripts = {Recall: fail}
        reply = await door.call("POST", "/v1/recall", {"query": "x"})

        assert (reply.status, reply.error["code"]) == (503, code)
        assert int(reply.headers["Retry-After"]) >= 1


async def test_a_fault_of_a_part_is_a_500_that_keeps_its_words_to_itself(door: DoorUnderTest) -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError("secret words")

    door.parts.scripts = {Recall: fail}

    reply = await door.call("POST", "/v1/recall", {"query": "x"})

    assert (reply.status, reply.error["code"]) == (500, "INTERNAL_ERROR")
    assert b"secret words" not in reply.raw


async def test_a_list_is_paged_by_its_cursor(door: DoorUnderTest) -> None:
    first, second = memory(), memory()

    def page(question: ListMemories) -> MemoryPage:
        if question.after is None:
            return MemoryPage(memories=(first,), after=first.id, total=2)
        return MemoryPage(memories=(second,))

    door.parts.scripts = {ListMemories: page}

    one = await door.call("GET", "/v1/memories", limit=1, user_id="u")
    two = await door.call("GET", "/v1/memories", limit=1, user_id="u", cursor=one.meta["next"])

    asked = door.parts.asked
    assert [question.after for question in asked] == [None, first.id]  # type: ignore[attr-defined]
    assert all(question.filters == Filters(user_id=("u",)) and question.limit == 1 for question in asked)  # type: ignore[attr-defined]
    assert one.data["total"] == 2
    assert [one.data["memories"][0]["id"], two.data["memories"][0]["id"]] == [first.id, second.id]
    assert "next" not in two.meta


async def test_a_cursor_of_another_list_or_tenant_is_a_bad_cursor(door: DoorUnderTest) -> None:
    door.parts.scripts = {
        ListMemories: lambda _: MemoryPage(memories=(), after="x"),
        ListNodes: lambda _: NodePage(nodes=()),
    }
    cursor = (await door.call("GET", "/v1/memories")).meta["next"]

    wrong_list = await door.call("GET", "/v1/graph/nodes", cursor=cursor)
    wrong_tenant = await door.call("GET", "/v1/memories", cursor=cursor, key=await door.new_key("acme"))

    assert [(reply.status, reply.error["field"]) for reply in (wrong_list, wrong_tenant)] == [(400, "cursor")] * 2


async def test_a_memory_comes_from_the_record_else_from_the_index(door: DoorUnderTest) -> None:
    known = memory()
    indexed = Indexed(found=IndexedMemory(memory=known, indexed_at=now(), command=known.id))
    path = f"/v1/memories/{known.id}"

    door.parts.scripts = {GetMemory: lambda _: known}
    recorded = await door.call("GET", path)
    door.parts.scripts = {GetMemory: unknown, FindIndexed: lambda _: indexed}
    lagging = await door.call("GET", path)
    door.parts.scripts = {FindIndexed: lambda _: indexed}
    away = await door.call("GET", path)
    door.parts.scripts = {GetMemory: unknown, FindIndexed: lambda _: Indexed()}
    missing = await door.call("GET", path)

    assert recorded.data == lagging.data == away.data
    assert "degraded" not in lagging.meta and away.meta["degraded"][0].startswith("graph")
    assert missing.status == 404


async def test_history_is_told_oldest_first(door: DoorUnderTest) -> None:
    versions = tuple(MemoryVersion(version=n, at=now(), change="revised", memory=memory()) for n in (1, 2))
    door.parts.scripts = {GetHistory: lambda _: History(versions=versions)}

    reply = await door.call("GET", f"/v1/memories/{new_id()}/history")

    assert [version["version"] for version in reply.data["versions"]] == [1, 2]


async def test_graph_questions_are_asked_as_sent(door: DoorUnderTest) -> None:
    ann = Node(id="person:Ann", type="person", name="Ann")
    door.parts.scripts = {
        ListNodes: lambda _: NodePage(nodes=(ann,)),
        GetNode: lambda _: NodeDetail(node=ann, edges=(), memory_ids=()),
        Neighbours: lambda _: Neighbourhood(nodes=(), edges=()),
        FindPath: lambda _: GraphPath(nodes=("person:Ann",), edges=()),
    }

    replies = [
        await door.call("GET", "/v1/graph/nodes", type="person", prefix="A"),
        await door.call("GET", "/v1/graph/nodes/person:Ann%20B", limit=5),
        await door.call(
            "GET", "/v1/graph/neighbours", node="person:Ann", hops=2, edge_type="knows", at="2026-01-01T00:00:00Z"
        ),
        await door.call("GET", "/v1/graph/path", source="person:Ann", target="person:Bo", max_hops=3),
    ]

    assert [reply.status for reply in replies] == [200] * 4
    nodes, node, neighbours, path = door.parts.asked
    assert (nodes.type, nodes.prefix) == ("person", "A")  # type: ignore[attr-defined]
    assert (node.node, node.limit) == ("person:Ann B", 5)  # type: ignore[attr-defined]
    assert (neighbours.hops, neighbours.edge_type, neighbours.at) == (2, "knows", datetime(2026, 1, 1, tzinfo=UTC))  # type: ignore[attr-defined]
    assert (path.source, path.target, path.max_hops) == ("person:Ann", "person:Bo", 3)  # type: ignore[attr-defined]


async def test_a_node_that_is_not_there_is_404(door: DoorUnderTest) -> None:
    door.parts.scripts = {GetNode: unknown, Neighbours: unknown, FindPath: unknown}

    for path in ("nodes/a:b", "neighbours?node=a:b", "path?source=a:b&target=c:d"):
        assert (await door.call("GET", f"/v1/graph/{path}")).status == 404


async def test_usage_is_that_of_the_tenant_alone(door: DoorUnderTest) -> None:
    day = Meter(day="2026-01-01", meter="api_calls", total=3)
    door.parts.scripts = {
        GetUsage: lambda question: Usage(tenant=question.tenant, totals={"api_calls": 3}, days=(day,))
    }

    reply = await door.call("GET", "/v1/usage", since="2026-01-01", meter="api_calls")

    assert (reply.data["tenant"], reply.data["totals"]) == ("default", {"api_calls": 3})
    assert (door.parts.asked[0].since, door.parts.asked[0].meter) == ("2026-01-01", "api_calls")  # type: ignore[attr-defined]


async def accepted(door: DoorUnderTest) -> tuple[str, str]:
    job = (await door.call("POST", "/v1/memories", {"content": "a"})).data["job"]
    named = JobId.parse(job, "default", door.pepper)
    assert named is not None
    return job, named.command


async def test_a_job_is_followed_from_accepted_to_done(door: DoorUnderTest) -> None:
    job, command = await accepted(door)
    record = JobRecord(memory_id=command, accepted_at=now(), embedded_at=now(), linked_at=now())
    indexed = Indexed(found=IndexedMemory(memory=memory(command), indexed_at=now(), command=command))
    states = []
    for found, shown in ((None, Indexed()), (None, indexed), (record, Indexed()), (record, indexed)):
        door.parts.scripts = {
            FindJob: lambda _, found=found: Found(found=found),
            FindIndexed: lambda _, shown=shown: shown,
            GetMemory: lambda question: memory(question.memory_id),
        }
        reply = await door.call("GET", f"/v1/jobs/{job}")
        states.append(reply.data["state"])

    assert states == ["accepted", "indexed", "linked", "done"]
    assert [stage["stage"] for stage in reply.data["stages"]] == ["accepted", "embedded", "indexed", "linked", "done"]
    assert reply.data["memory_id"] == command


async def test_a_job_in_trouble_says_which(door: DoorUnderTest) -> None:
    job, command = await accepted(door)
    door.parts.scripts = {FindJob: lambda _: Found(), FindIndexed: lambda _: Indexed()}
    told = []
    for state, dead in (("retrying", None), ("dead", 4)):
        trouble = JobTrouble(
            state=state, stage="embedder", attempt=2, reason="no model", code="UNAVAILABLE", at=now(), next_at=now(),
            dead_sequence=dead,
        )  # fmt: skip
        await door.bus.bucket(JOBS).put(f"default.{command}", trouble.encode())
        told.append((await door.call("GET", f"/v1/jobs/{job}")).data)

    assert (told[0]["state"], told[0]["attempt"], told[0]["reason"]) == ("retrying", 2, "no model")
    assert (told[1]["state"], told[1]["dead"]["sequence"], told[1]["dead"]["stage"]) == ("dead", 4, "embedder")


async def test_the_job_of_a_question_holds_its_answer(door: DoorUnderTest) -> None:
    asked = await door.call("POST", "/v1/think", {"question": "?"}, headers={"Prefer": "respond-async"})
    thought = Thought(command="c", accepted_at=now(), at=now(), question="?", answer="42", mode="extractive")
    record = JobRecord(accepted_at=now(), embedded_at=now(), linked_at=now(), thought=thought)
    door.parts.scripts = {FindJob: lambda _: Found(found=record), FindIndexed: lambda _: Indexed()}

    reply = await door.call("GET", asked.headers["Location"])

    assert (reply.data["state"], reply.data["thought"]["answer"]) == ("done", "42")


async def test_a_job_is_told_as_far_as_the_parts_answer(door: DoorUnderTest) -> None:
    job, _ = await accepted(door)

    reply = await door.call("GET", f"/v1/jobs/{job}")

    assert (reply.status, reply.data["state"]) == (200, "accepted")
    assert set(reply.meta["degraded"]) == {"graph", "vectors"}


@pytest.mark.parametrize("text", ["x", "job_", "job_1_2_3", "job_zz_" + "0" * 32 + "_" + "0" * 12, "é"])
async def test_an_invented_job_is_404_without_asking_anyone(door: DoorUnderTest, text: str) -> None:
    assert (await door.call("GET", f"/v1/jobs/{text}")).status == 404
    assert door.parts.asked == []


async def test_ready_names_each_part(door: DoorUnderTest) -> None:
    reply = await door.call("GET", "/health/ready", key=None)

    assert (reply.status, reply.data["status"]) == (200, "ready")
    assert set(reply.data["checks"]) == {"broker", "keys", *SERVICES}


async def test_without_a_broker_it_is_not_ready_but_alive(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with open_door(server, tmp_path / "data") as door:
            assert (await door.call("GET", "/health/ready", key=None)).status == 200
            server.kill()
            deadline = time.monotonic() + 5.0
            while (gone := await door.call("GET", "/health/ready", key=None)).status == 200:
                assert time.monotonic() < deadline
            alive = await door.call("GET", "/health", key=None)
            server.start()
            while (await door.call("GET", "/health/ready", key=None)).status != 200:
                assert time.monotonic() < deadline + 15.0

    assert (gone.status, gone.data["status"], gone.data["checks"]["broker"]["ok"]) == (503, "unavailable", False)
    assert alive.status == 200
