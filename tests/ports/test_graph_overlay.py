"""A graph kept current in memory answers what one built anew from the record answers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from engram_contracts.errors import NotFound
from engram_contracts.questions import Activate, FindPath, GetNode, ListNodes, Neighbours, Question
from engram_runtime.service import Service
from support.graph_story import NODES, TENANTS, follow, opened, story
from support.memories import START

LENGTH = 60


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 10_000), loaded_after=st.integers(0, LENGTH), piece=st.integers(1, 20))
def test_what_is_kept_current_equals_what_is_built_anew(seed: int, loaded_after: int, piece: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        current, anew = asyncio.run(both_ways(Path(folder), seed, loaded_after, piece))

    assert current == anew


async def both_ways(folder: Path, seed: int, loaded_after: int, piece: int) -> tuple[list[Any], list[Any]]:
    told = story(seed, LENGTH)
    async with opened(folder) as service:
        await follow(service, told[:loaded_after])
        await answers(service)
        for start in range(loaded_after, LENGTH, piece):
            await follow(service, told[start : start + piece])
        current = await answers(service)
    async with opened(folder) as service:
        return current, await answers(service)


async def answers(service: Service) -> list[Any]:
    """Everything the graph can be asked of every node of the story, in a form that can be compared."""
    given_answers = []
    for tenant in TENANTS:
        listed = await service.answers[ListNodes](ListNodes(tenant=tenant, limit=1_000))
        given_answers.append(listed)
        for name in sorted({*NODES, *(node.id for node in listed.nodes)}):
            for question in questions(tenant, name):
                given_answers.append(await answer(service, question))
    return given_answers


def questions(tenant: str, node: str) -> list[Question[Any]]:
    return [
        GetNode(tenant=tenant, node=node, limit=200),
        Neighbours(tenant=tenant, node=node, hops=2, limit=500),
        Neighbours(tenant=tenant, node=node, hops=3, limit=500, at=START),
        Activate(tenant=tenant, text=node.partition(":")[2], limit=500),
        FindPath(tenant=tenant, source=node, target="person:Ann"),
    ]


async def answer(service: Service, question: Question[Any]) -> Any:
    try:
        return comparable(await service.answers[type(question)](question))
    except NotFound as error:
        return str(error)


def comparable(reply: Any) -> Any:
    """The reply with floats rounded and lists of equals sorted: ties may stand in either order."""
    data = reply.model_dump(mode="json")
    if "activations" in data:
        return sorted(zip(data["memory_ids"], [round(each, 9) for each in data["activations"]], strict=True))
    for each in data.get("nodes", []):
        if isinstance(each, dict):
            each["activation"] = round(each["activation"], 9)
    if "truncated" in data:
        data["nodes"].sort(key=lambda each: each["node"]["id"])
    if "hops" not in str(data) and "node" not in data and "edges" in data:
        return len(data["nodes"])
    return data
