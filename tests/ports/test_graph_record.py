"""The record in real DuckDB files: what the log says, the questions tell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from engram_contracts.errors import Conflict, NotFound, Rejected, Unavailable
from engram_contracts.events import Progress
from engram_contracts.facts import (
    Citation,
    EdgeDropped,
    EdgePut,
    Fact,
    Linked,
    NodeDropped,
    NodePut,
    Thought,
)  # fmt: skip
from engram_contracts.ids import derived_id
from engram_contracts.memory import Filters, Range
from engram_contracts.questions import (
    Activate,
    CountRecorded,
    FindJob,
    FindPath,
    GetHistory,
    GetMemory,
    GetNode,
    ListMemories,
    ListNodes,
    Neighbours,
    Question,
)  # fmt: skip
from engram_graph.draft import WITHDRAWN
from engram_runtime.service import Delivery, Service
from support.graph_story import PARTITION, TENANTS, dump, follow, opened
from support.memories import START, delivered, forgotten, memory, memory_id, remembered, revised
from support.recording_bus import RecordingBus

TENANT, NEIGHBOUR = TENANTS


@pytest.fixture
def bus() -> RecordingBus:
    return RecordingBus()


@pytest.fixture
async def graph(tmp_path: Path, bus: RecordingBus) -> AsyncIterator[Service]:
    async with opened(tmp_path, bus) as service:
        yield service


async def ask(service: Service, question: Question[Any]) -> Any:
    return await service.answers[type(question)](question)


def told(sequence: int, kind: type[Fact], *, tenant: str = TENANT, **fields: Any) -> Delivery[Fact]:
    at = START + timedelta(days=1, seconds=sequence)
    how = {"command": derived_id("command", str(sequence)), "accepted_at": at, "at": at}
    return delivered(sequence, kind(**how, **fields), tenant=tenant)


def due(time: str) -> dict[str, Any]:
    return {"due": f"2026-01-01{time}"}


def edge_put(sequence: int, source: str, target: str, **fields: Any) -> Delivery[Fact]:
    return told(sequence, EdgePut, source=source, type="knows", target=target, **fields)


# Memories


async def test_what_was_remembered_is_told_word_for_word(graph: Service) -> None:
    kept = memory(
        1, "Ünïcode 😀 \"quoted\"", tags=("a", "b"), metadata={"n": 1, "ok": True, "list": ["x", None]}, importance=0.7,
        speaker="Ann", occurred_at=START, expires_at=START + timedelta(days=900),
    )  # fmt: skip

    assert await follow(graph, [remembered(1, kept)]) == [None]

    assert await ask(graph, GetMemory(tenant=TENANT, memory_id=kept.id)) == kept
    assert (await ask(graph, CountRecorded(tenant=TENANT))).memories == 1


async def test_a_revision_keeps_what_was_before(graph: Service) -> None:
    await follow(graph, [remembered(1, memory(1, "first", kind="note")), revised(2, 1, {"content": "second"})])
    await follow(graph, [revised(3, 1, {"kind": "fact", "user_id": None})])

    current = await ask(graph, GetMemory(tenant=TENANT, memory_id=memory_id(1)))
    history = (await ask(graph, GetHistory(tenant=TENANT, memory_id=memory_id(1)))).versions
    assert (current.content, current.kind, current.version) == ("second", "fact", 3)
    assert [(each.version, each.change, each.memory.content, each.memory.kind) for each in history] == [
        (1, "created", "first", "note"),
        (2, "revised", "second", "note"),
        (3, "revised", "second", "fact"),
    ]
    assert history[1].at == history[1].memory.updated_at == START + timedelta(days=1, seconds=2)


async def test_nothing_of_a_forgotten_memory_is_left(graph: Service, tmp_path: Path) -> None:
    await follow(graph, [remembered(1, memory(1, "Zanzibar was lovely, and Zanzibar was far", tags=("zanzibartag",)))])
    await follow(graph, [revised(2, 1, {"content": 'we read "Zanzibar nights" there', "speaker": "Zanzibarine"})])
    cites = Citation(memory_id=memory_id(1), quote="Zanzibar", score=1.0)
    words = {"question": "where?", "answer": "Zanzibar", "mode": "extractive", "citations": (cites,)}
    await follow(graph, [told(3, Thought, **words), edge_put(4, "person:A", "person:B", evidence=(memory_id(1),))])

    assert await follow(graph, [forgotten(5, 1), told(6, Thought, **words)]) == [None, None]

    for question in (
        GetMemory(tenant=TENANT, memory_id=memory_id(1)),
        GetHistory(tenant=TENANT, memory_id=memory_id(1)),
    ):
        with pytest.raises(NotFound):
            await ask(graph, question)
    assert (await ask(graph, ListMemories(tenant=TENANT))).memories == ()
    assert (await ask(graph, CountRecorded(tenant=TENANT))).memories == 0
    for sequence in (3, 6):
        job = await ask(graph, FindJob(tenant=TENANT, command=derived_id("command", str(sequence))))
        assert job.found.thought.answer == WITHDRAWN
    [edge] = (await ask(graph, GetNode(tenant=TENANT, node="person:A"))).edges
    assert edge.evidence == ()


async def test_the_text_of_a_forgotten_memory_is_in_no_table(tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        await follow(service, [remembered(1, memory(1, "Zanzibar? We like Zanzibar", speaker="Zanzibarine"))])
        await follow(service, [revised(2, 1, {"content": "More of Zanzibar"}), forgotten(3, 1)])

    assert "Zanzibar" not in repr(dump(tmp_path))


async def test_forgetting_again_changes_nothing_and_the_id_stays_taken(graph: Service) -> None:
    await follow(graph, [remembered(1, memory(1)), forgotten(2, 1)])

    outcomes = await follow(graph, [forgotten(3, 1), remembered(4, memory(1)), revised(5, 1, {"kind": "fact"})])

    assert outcomes[0] is None
    assert isinstance(outcomes[1], Conflict)
    assert isinstance(outcomes[2], NotFound)


async def test_what_cannot_be_applied_is_told_one_by_one(graph: Service) -> None:
    outcomes = await follow(
        graph,
        [
            remembered(1, memory(1, "stays")),
            remembered(2, memory(1, "another under the same id")),
            revised(3, 2, {"content": "of nobody"}),
            revised(4, 1, {"importance": 7}),
            forgotten(5, 3),
            told(6, Linked, memory_id=memory_id(9)),
            edge_put(7, "person:A", "person:A"),
            edge_put(8, "person:A", "person:B", valid_from=START, valid_to=START),
            remembered(9, memory(4)),
        ],
    )

    kinds = [None if each is None else type(each) for each in outcomes]
    assert kinds == [None, Conflict, NotFound, Rejected, NotFound, NotFound, Rejected, Rejected, None]
    assert (await ask(graph, GetMemory(tenant=TENANT, memory_id=memory_id(1)))).content == "stays"
    assert (await ask(graph, FindJob(tenant=TENANT, command=derived_id("command", "3")))).found is None


async def test_a_list_goes_from_the_newest_back_and_on_behind_a_cursor(graph: Service) -> None:
    await follow(graph, [remembered(n, memory(n, f"number {n}")) for n in range(1, 8)])

    first = await ask(graph, ListMemories(tenant=TENANT, limit=3))
    await follow(graph, [remembered(8, memory(8)), forgotten(9, 5)])
    second = await ask(graph, ListMemories(tenant=TENANT, limit=3, after=first.after))
    third = await ask(graph, ListMemories(tenant=TENANT, limit=3, after=second.after))

    assert [[each.content for each in page.memories] for page in (first, second, third)] == [
        ["number 7", "number 6", "number 5"],
        ["number 4", "number 3", "number 2"],
        ["number 1"],
    ]
    assert (first.total, third.after) == (7, None)
    with pytest.raises(Rejected):
        await ask(graph, ListMemories(tenant=TENANT, after="no such place"))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), {1, 2, 3, 4}),
        (Filters(user_id="u1"), {1, 2}),
        (Filters(user_id="u1", kind="fact"), {2}),
        (Filters(kind=("fact", "plan")), {2, 3}),
        (Filters(speaker="Ann"), {1}),
        (Filters(agent_id="bot", session_id="s"), {3}),
        (Filters(tags=("x",)), {1, 2}),
        (Filters(tags=("x", "y")), {2}),
        (Filters(after=START + timedelta(days=10)), {3}),
        (Filters(before=START + timedelta(seconds=2)), {1}),
        (Filters(metadata={"n": 1}), {1}),
        (Filters(metadata={"n": 1.0}), {1}),
        (Filters(metadata={"n": "1"}), {2}),
        (Filters(metadata={"n": True}), {3}),
        (Filters(metadata={"a/b~c": "d", "n": True}), {3}),
        (Filters(metadata={"none": 1}), set()),
        (Filters(ranges={"n": Range(gte=1)}), {1}),
        (Filters(ranges={"n": Range(gt=1)}), set()),
        (Filters(ranges={"n": Range(gt=0.5, lt=1.5)}), {1}),
        (Filters(ranges={"due": Range(gte=START)}), {1, 2, 3}),
        (Filters(ranges={"due": Range(gt=START, lte=START + timedelta(hours=1))}), {3}),
        (Filters(none_of=(Filters(ranges={"due": Range(lt=START + timedelta(minutes=59))}),)), {3, 4}),
        (Filters(any_of=(Filters(speaker="Ann"), Filters(kind="plan"))), {1, 3}),
        (Filters(user_id="u1", none_of=(Filters(kind="fact"),)), {1}),
        (Filters(all_of=(Filters(tags=("x",)), Filters(none_of=(Filters(speaker="Ann"),)))), {2}),
        (Filters(none_of=(Filters(),)), set()),
    ],
)
async def test_filters_narrow_a_list(graph: Service, filters: Filters, expected: set[int]) -> None:
    await follow(
        graph,
        [
            remembered(1, memory(1, user_id="u1", speaker="Ann", tags=("x",), metadata={"n": 1, **due("")})),
            remembered(
                2, memory(2, user_id="u1", kind="fact", tags=("y", "x"), metadata={"n": "1", **due("T02:00:00+02:00")})
            ),
            remembered(
                3,
                memory(
                    3, kind="plan", agent_id="bot", session_id="s",
                    metadata={"n": True, "a/b~c": "d", **due("T01:00:00")},
                    occurred_at=START + timedelta(days=10),
                ),
            ),
            remembered(4, memory(4, metadata={"due": "tomorrow"})),
        ],
    )  # fmt: skip

    page = await ask(graph, ListMemories(tenant=TENANT, filters=filters))

    assert {each.id for each in page.memories} == {memory_id(number) for number in expected}
    assert page.total == len(expected)


async def test_a_job_tells_its_times_and_a_thought_its_answer(graph: Service) -> None:
    answer = {"question": "what?", "answer": "that", "mode": "extractive"}
    await follow(graph, [remembered(1, memory(1)), told(2, Thought, **answer)])

    job = (await ask(graph, FindJob(tenant=TENANT, command=derived_id("command", "1")))).found
    thought = (await ask(graph, FindJob(tenant=TENANT, command=derived_id("command", "2")))).found

    at = START + timedelta(days=1, seconds=1)
    assert (job.memory_id, job.accepted_at, job.embedded_at) == (memory_id(1), at, at)
    assert job.linked_at > at
    assert (thought.memory_id, thought.thought.answer) == (None, "that")
    assert (await ask(graph, FindJob(tenant=NEIGHBOUR, command=derived_id("command", "1")))).found is None


async def test_progress_is_announced_once_for_each_tenant(graph: Service, bus: RecordingBus) -> None:
    batch = [
        remembered(1, memory(1)),
        remembered(2, memory(2), tenant=NEIGHBOUR),
        revised(3, 1, {"kind": "fact"}),
        told(4, NodePut, node="place:Oslo"),
        forgotten(5, 9),
    ]

    await follow(graph, batch)
    await follow(graph, batch)

    events = {tenant: event for tenant, event in bus.emitted if isinstance(event, Progress)}
    assert len(bus.emitted) == len(events) == 2
    assert events[TENANT].stage == "linked"
    assert events[TENANT].commands == tuple(derived_id("command", n) for n in "134")
    assert events[TENANT].memory_ids == (memory_id(1), memory_id(1), "")


# The graph


async def test_people_and_what_they_speak_of_are_joined_with_evidence(graph: Service) -> None:
    await follow(
        graph,
        [
            remembered(1, memory(1, "I met Bob in Paris", speaker="Ann")),
            remembered(2, memory(2, "so Bob was there?", speaker="Ann")),
        ],
    )

    ann = await ask(graph, GetNode(tenant=TENANT, node="person:Ann"))

    assert (ann.node.mentions, ann.node.degree, ann.memory_ids) == (2, 2, (memory_id(2), memory_id(1)))
    edges = {(edge.source, edge.type, edge.target): (edge.weight, edge.evidence) for edge in ann.edges}
    assert edges == {
        ("person:Ann", "mentioned", "name:Bob"): (2, (memory_id(2), memory_id(1))),
        ("person:Ann", "mentioned", "name:Paris"): (1, (memory_id(1),)),
    }
    around = await ask(graph, Neighbours(tenant=TENANT, node="name:Paris", hops=1, edge_type="co_occurs"))
    assert [reached.node.id for reached in around.nodes] == ["name:Bob"]


async def test_a_name_that_turns_out_to_be_a_speaker_becomes_the_person(graph: Service) -> None:
    await follow(graph, [remembered(1, memory(1, "I met Bob in Paris", speaker="Ann"))])
    await ask(graph, GetNode(tenant=TENANT, node="name:Bob"))

    await follow(graph, [remembered(2, memory(2, "hello there", speaker="Bob"))])

    by_old_name = await ask(graph, GetNode(tenant=TENANT, node="name:Bob"))
    assert by_old_name == await ask(graph, GetNode(tenant=TENANT, node="person:Bob"))
    assert by_old_name.memory_ids == (memory_id(2), memory_id(1))
    assert {edge.source for edge in by_old_name.edges} | {edge.target for edge in by_old_name.edges} == {
        "person:Ann", "person:Bob", "name:Paris",
    }  # fmt: skip


async def test_forgetting_takes_found_edges_and_nodes_back_and_leaves_those_put(graph: Service) -> None:
    await follow(
        graph,
        [
            remembered(1, memory(1, "I met Bob in Paris", speaker="Ann")),
            remembered(2, memory(2, "and Bob again", speaker="Ann")),
            edge_put(3, "person:Ann", "place:Oslo", weight=0.5),
        ],
    )
    await ask(graph, GetNode(tenant=TENANT, node="person:Ann"))

    await follow(graph, [forgotten(4, 1)])

    ann = await ask(graph, GetNode(tenant=TENANT, node="person:Ann"))
    assert [(edge.type, edge.target, edge.weight) for edge in ann.edges] == [
        ("mentioned", "name:Bob", 1.0),
        ("knows", "place:Oslo", 0.5),
    ]
    with pytest.raises(NotFound):
        await ask(graph, GetNode(tenant=TENANT, node="name:Paris"))


async def test_edges_hold_in_their_stretch_of_time(graph: Service) -> None:
    early, late = START, START + timedelta(days=30)
    await follow(graph, [edge_put(1, "person:Ann", "company:Acme", weight=1, valid_from=early)])
    await follow(graph, [edge_put(2, "person:Ann", "company:Acme", weight=5, valid_from=late)])

    async def weights(at: Any) -> list[float]:
        found = await ask(graph, Neighbours(tenant=TENANT, node="person:Ann", at=at))
        return [edge.weight for edge in found.edges]

    assert await weights(early - timedelta(seconds=1)) == []
    assert await weights(early) == await weights(late - timedelta(seconds=1)) == [1.0]
    assert await weights(late) == [5.0]
    assert [edge.valid_from for edge in (await ask(graph, GetNode(tenant=TENANT, node="person:Ann"))).edges] == [late]


async def test_nodes_and_edges_are_put_merged_and_dropped(graph: Service) -> None:
    await follow(
        graph,
        [
            told(1, NodePut, node="place:Oslo", attributes={"country": "NO"}),
            told(2, NodePut, node="place:Oslo", attributes={"size": 1}),
            edge_put(3, "person:Ann", "place:Oslo"),
            remembered(4, memory(4, "we were in oslo", speaker="Ann")),
        ],
    )
    oslo = await ask(graph, GetNode(tenant=TENANT, node="place:Oslo"))
    assert (oslo.node.attributes, oslo.node.mentions, oslo.node.degree) == ({"country": "NO", "size": 1}, 1, 2)

    await follow(graph, [told(5, EdgeDropped, source="person:Ann", type="knows", target="place:Oslo")])
    assert [edge.type for edge in (await ask(graph, GetNode(tenant=TENANT, node="place:Oslo"))).edges] == ["mentioned"]

    await follow(graph, [told(6, NodeDropped, node="place:Oslo"), told(7, NodeDropped, node="place:Oslo")])
    with pytest.raises(NotFound):
        await ask(graph, GetNode(tenant=TENANT, node="place:Oslo"))
    assert (await ask(graph, GetNode(tenant=TENANT, node="person:Ann"))).edges == ()


async def test_what_a_model_found_is_kept_until_the_text_changes(graph: Service) -> None:
    linked = told(2, Linked, memory_id=memory_id(1), nodes=("topic:art",), edges=(("name:Bob", "paints", "topic:art"),))
    await follow(graph, [remembered(1, memory(1, "I met Bob", speaker="Ann")), linked])

    bob = await ask(graph, GetNode(tenant=TENANT, node="name:Bob"))
    assert {(edge.type, edge.evidence) for edge in bob.edges} == {
        ("mentioned", (memory_id(1),)),
        ("paints", (memory_id(1),)),
    }

    await follow(graph, [revised(3, 1, {"tags": ["t"]})])
    assert len((await ask(graph, GetNode(tenant=TENANT, node="topic:art"))).edges) == 1
    await follow(graph, [revised(4, 1, {"content": "I met Bob twice"})])
    with pytest.raises(NotFound):
        await ask(graph, GetNode(tenant=TENANT, node="topic:art"))


async def test_nodes_are_listed_by_mentions_and_on_behind_a_cursor(graph: Service) -> None:
    texts = ("with Bob in Paris", "with Bob and Carl", "with Bob")
    await follow(graph, [remembered(n, memory(n, text, speaker="Ann")) for n, text in enumerate(texts, start=1)])

    first = await ask(graph, ListNodes(tenant=TENANT, limit=2))
    rest = await ask(graph, ListNodes(tenant=TENANT, limit=2, after=first.after))
    named = await ask(graph, ListNodes(tenant=TENANT, type="name", prefix="pA"))

    assert [(node.id, node.mentions, node.degree) for node in (*first.nodes, *rest.nodes)] == [
        ("name:Bob", 3, 3), ("person:Ann", 3, 3), ("name:Carl", 1, 2), ("name:Paris", 1, 2),
    ]  # fmt: skip
    assert [node.id for node in named.nodes] == ["name:Paris"]
    assert rest.after is None
    with pytest.raises(Rejected):
        await ask(graph, ListNodes(tenant=TENANT, after="rubbish"))


async def test_a_path_leads_over_shared_memories(graph: Service) -> None:
    texts = (("I met Bob", "Ann"), ("Bob knows Carl", "Eve"), ("Carl has a dog, Dora", "Eve"))
    await follow(graph, [remembered(n, memory(n, text, speaker=who)) for n, (text, who) in enumerate(texts, start=1)])

    path = await ask(graph, FindPath(tenant=TENANT, source="person:Ann", target="name:Dora"))

    assert path.nodes in {
        ("person:Ann", "name:Bob", "name:Carl", "name:Dora"),
        ("person:Ann", "name:Bob", "person:Eve", "name:Dora"),
    }
    with pytest.raises(NotFound):
        await ask(graph, FindPath(tenant=TENANT, source="person:Ann", target="name:Dora", max_hops=2))


async def test_activation_leads_from_named_nodes_to_their_memories(graph: Service) -> None:
    texts = ("I met Bob in Paris", "Paris is far", "we saw Dora", "so Bob sings")
    await follow(
        graph, [remembered(n, memory(n, f"yes: {text}", speaker="Ann")) for n, text in enumerate(texts, start=1)]
    )

    found = await ask(graph, Activate(tenant=TENANT, text="what did bob do in paris?"))

    assert found.seeds == ("name:Bob", "name:Paris")
    assert found.memory_ids[0] == memory_id(1)
    assert set(found.memory_ids) == {memory_id(number) for number in range(1, 5)}
    assert all(0 < activation < 1 for activation in found.activations)
    assert found.paths[-1] == ("name:Bob", "person:Ann") or found.paths[-1] == ("name:Paris", "person:Ann")
    assert (await ask(graph, Activate(tenant=TENANT, text="nothing known"))).memory_ids == ()


# Tenants and files


async def test_tenants_of_one_partition_never_see_each_other(graph: Service) -> None:
    mine, theirs = memory(1, "I met Bob in Paris", speaker="Ann"), memory(1, "We saw Carl in Rome", speaker="Ann")
    await follow(graph, [remembered(1, mine), edge_put(2, "person:Ann", "place:Oslo")])
    await follow(graph, [remembered(3, theirs, tenant=NEIGHBOUR)])

    for tenant, own in ((TENANT, mine), (NEIGHBOUR, theirs)):
        assert await ask(graph, GetMemory(tenant=tenant, memory_id=own.id)) == own
        assert (await ask(graph, ListMemories(tenant=tenant))).memories == (own,)
        assert (await ask(graph, CountRecorded(tenant=tenant))).memories == 1
    nodes = {tenant: {node.id for node in (await ask(graph, ListNodes(tenant=tenant))).nodes} for tenant in TENANTS}
    assert nodes == {
        TENANT: {"person:Ann", "name:Bob", "name:Paris", "place:Oslo"},
        NEIGHBOUR: {"person:Ann", "name:Carl", "name:Rome"},
    }
    reached = await ask(graph, Neighbours(tenant=NEIGHBOUR, node="person:Ann", hops=3))
    assert {each.node.id for each in reached.nodes} == {"name:Carl", "name:Rome"}
    assert (await ask(graph, Activate(tenant=NEIGHBOUR, text="Bob in Paris in Oslo"))).memory_ids == ()
    await follow(graph, [forgotten(4, 1), told(5, NodeDropped, node="person:Ann")])
    assert await ask(graph, GetMemory(tenant=NEIGHBOUR, memory_id=theirs.id)) == theirs
    assert (await ask(graph, GetNode(tenant=NEIGHBOUR, node="person:Ann"))).node.degree == 2


async def test_a_file_is_made_for_the_first_fact(graph: Service, tmp_path: Path) -> None:
    assert [await following.position() for following in graph.follows] == [0] * len(graph.follows)
    assert not (tmp_path / "graph").exists()

    await follow(graph, [remembered(7, memory(1))])

    assert {file.name for file in (tmp_path / "graph").glob("*.duckdb")} == {f"p{PARTITION}.duckdb"}
    assert await graph.follows[PARTITION].position() == 7


async def test_a_second_process_is_told_who_owns_the_partition(graph: Service, tmp_path: Path) -> None:
    await follow(graph, [remembered(1, memory(1))])

    tests = Path(__file__).resolve().parents[1]
    second = subprocess.run(
        [sys.executable, "-c", SECOND.format(tests=str(tests), partition=PARTITION), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert second.stdout.splitlines() == [
        f"Unavailable: p{PARTITION}.duckdb is held by another process; only one graph service may own a partition",
        f"False p{PARTITION}.duckdb is held by another process; only one graph service may own a partition",
    ]
    assert (await graph.checks["store"]()).ok


SECOND = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.graph_story import opened

async def main():
    async with opened(Path(sys.argv[1])) as service:
        try:
            await service.follows[{partition}].position()
        except Exception as error:
            print(f"{{type(error).__name__}}: {{error}}")
        check = await service.checks["store"]()
        print(check.ok, check.detail)

asyncio.run(main())
"""


async def test_a_partition_that_is_kept_elsewhere_is_unavailable(tmp_path: Path) -> None:
    others = tuple(number for number in range(8) if number != PARTITION)
    async with opened(tmp_path, partitions=others) as service:
        with pytest.raises(Unavailable):
            await ask(service, CountRecorded(tenant=TENANT))


async def test_a_file_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph").mkdir()
    with duckdb.connect(str(tmp_path / "graph" / f"p{PARTITION}.duckdb")) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute("INSERT INTO schema_version VALUES (99)")

    async with opened(tmp_path) as service:
        with pytest.raises(Unavailable, match="newer"):
            await service.follows[PARTITION].position()


async def test_many_tenants_come_and_go_within_the_bounds_of_memory(tmp_path: Path) -> None:
    async with opened(tmp_path, csr_bytes=1, known_nodes=1) as service:
        for sequence in range(1, 9):
            tenant = TENANTS[sequence % 2]
            fact = remembered(sequence, memory(sequence, "I met Bob in Paris", speaker="Ann"), tenant=tenant)
            assert await follow(service, [fact]) == [None]
            assert (await ask(service, GetNode(tenant=tenant, node="name:Bob"))).node.mentions == (sequence + 1) // 2
