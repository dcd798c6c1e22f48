"""The part of a graph that some memories tell: the same answers as if no other memory had ever been kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.errors import NotFound
from engram_contracts.facts import EdgePut, Fact, NodePut
from engram_contracts.ids import derived_id
from engram_contracts.memory import Filters
from engram_contracts.questions import (
    Edge,
    FindPath,
    GetNode,
    ListNodes,
    Neighbourhood,
    Neighbours,
    NodeDetail,
    Question,
)
from engram_contracts.questions import (
    Path as Way,
)
from engram_runtime.service import Delivery, Service
from support.graph_story import SPEAKERS, TENANTS, follow, opened
from support.memories import START, delivered, forgotten, memory, remembered, revised

TENANT, OTHER = TENANTS
ANN = Filters(user_id="ann")
PLACES = ("Ghent", "Oslo Harbour", "Green Tea Club", "Bruges", "Lisbon")


def by_hand(sequence: int, kind: type[Fact], **fields: Any) -> Delivery[Fact]:
    how = {"command": derived_id("command", str(sequence)), "accepted_at": START, "at": START}
    return delivered(sequence, kind(**how, **fields))


def story(users: tuple[str, ...], *, seed: int = 5) -> list[Delivery[Fact]]:
    """Memories of two users about the same places, some changed, some forgotten; only of those who are named."""
    chance, told = random.Random(seed), list[Delivery[Fact]]()
    for number in range(1, 26):
        user, place, other = chance.choice(("ann", "bob")), *chance.sample(PLACES, 2)
        text, fate = f"We went from {place} to {other} with {user.title()}son.", chance.random()
        kept = memory(number, text, user_id=user, speaker=chance.choice(SPEAKERS), session_id=f"{user}-1")
        facts = [remembered(2 * number, kept)]
        if fate < 0.2:
            facts.append(forgotten(2 * number + 1, number))
        elif fate < 0.4:
            facts.append(revised(2 * number + 1, number, {"content": f"No, {other} it was, said Carol."}))
        told += facts if user in users else []
    return told


async def asked(service: Service, question: Question[Any]) -> Any:
    try:
        return await service.answers[type(question)](question)
    except NotFound as error:
        return error.message


def plain(edge: Edge) -> tuple[Any, ...]:
    """An edge. Which end of two names that stand together comes first follows from which was known first."""
    ends = edge.source, edge.target
    return edge.type, *(sorted(ends) if edge.type == "co_occurs" else ends), edge.weight, edge.evidence


def told(answer: Any) -> Any:
    """What an answer says, without the order of edges."""
    match answer:
        case NodeDetail():
            return answer.node, sorted(map(plain, answer.edges)), answer.memory_ids
        case Neighbourhood():
            reached = sorted((each.node.id, each.hops, round(each.activation, 9)) for each in answer.nodes)
            return reached, sorted(map(plain, answer.edges)), answer.truncated
        case Way():
            return len(answer.nodes)
    return answer


async def everything(service: Service, nodes: list[str], within: Filters | None) -> list[Any]:
    """All that can be asked of a graph, of every other node."""
    said: list[Any] = [await asked(service, ListNodes(tenant=TENANT, within=within, limit=1_000))]
    for node in nodes[::2]:
        said.append(await asked(service, GetNode(tenant=TENANT, within=within, node=node, limit=200)))
        said.append(await asked(service, Neighbours(tenant=TENANT, within=within, node=node, hops=3)))
        said.append(await asked(service, FindPath(tenant=TENANT, within=within, source=node, target=nodes[0])))
    return [told(each) for each in said]


async def test_who_reaches_some_memories_has_the_graph_that_they_alone_would_make(tmp_path: Path) -> None:
    async with opened(tmp_path / "both") as both, opened(tmp_path / "alone") as alone:
        await follow(both, story(("ann", "bob")))
        await follow(alone, story(("ann",)))
        nodes = [node.id for node in (await asked(both, ListNodes(tenant=TENANT, limit=1_000))).nodes]

        within, by_themselves = await everything(both, nodes, ANN), await everything(alone, nodes, None)

    assert within == by_themselves
    assert {"name:Bobson", "name:Annson"} <= set(nodes)
    assert "name:Bobson" not in repr([each for each in within if not isinstance(each, str)])


async def test_what_was_put_by_hand_and_other_tenants_memories_are_no_part_of_it(tmp_path: Path) -> None:
    theirs = remembered(300, memory(99, "We like Antwerp, said Ann.", user_id="ann"), tenant=OTHER)
    put = [
        by_hand(301, NodePut, node="name:Ghent", attributes={"note": "of all"}),
        by_hand(302, EdgePut, source="name:Ghent", type="near", target="name:Secretville"),
    ]
    async with opened(tmp_path) as service:
        await follow(service, [*story(("ann", "bob")), theirs, *put])

        node = await asked(service, GetNode(tenant=TENANT, within=ANN, node="name:Ghent"))
        hidden = await asked(service, GetNode(tenant=TENANT, within=ANN, node="name:Secretville"))
        nowhere = await asked(service, GetNode(tenant=TENANT, within=ANN, node="name:Nowhere"))
        listed = await asked(service, ListNodes(tenant=TENANT, within=ANN, limit=1_000))
        whole = await asked(service, GetNode(tenant=TENANT, node="name:Ghent"))

    assert (node.node.attributes, whole.node.attributes) == ({}, {"note": "of all"})
    assert "near" not in {edge.type for edge in node.edges} and "near" in {edge.type for edge in whole.edges}
    assert hidden.replace("Secretville", "Nowhere") == nowhere
    assert not {"name:Antwerp", "name:Secretville"} & {each.id for each in listed.nodes}


@pytest.mark.parametrize("narrowed", [{}, {"type": "name"}, {"prefix": "g"}])
async def test_pages_of_a_part_hold_each_of_its_nodes_once(tmp_path: Path, narrowed: dict[str, str]) -> None:
    async with opened(tmp_path) as service:
        await follow(service, story(("ann", "bob")))
        whole = await asked(service, ListNodes(tenant=TENANT, within=ANN, limit=1_000, **narrowed))
        seen, after = [], None
        while True:
            page = await asked(service, ListNodes(tenant=TENANT, within=ANN, limit=3, after=after, **narrowed))
            seen += page.nodes
            if (after := page.after) is None:
                break

    assert tuple(seen) == whole.nodes and len(seen) > 1


async def test_of_nobody_there_is_nothing(tmp_path: Path) -> None:
    nobody = Filters(user_id=("carl", "dora"), session_id="x")
    async with opened(tmp_path) as service:
        await follow(service, story(("ann", "bob")))

        assert (await asked(service, ListNodes(tenant=TENANT, within=nobody))).nodes == ()
        assert "no node" in await asked(service, GetNode(tenant=TENANT, within=nobody, node="name:Ghent"))
