"""Memories and tenants taken out of the record for good: what belongs to others stays as it was, down to each link."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engram_contracts.erasing import CompactRecorded, EraseRecorded, ListOfUser
from engram_contracts.questions import Question
from engram_runtime.service import Service
from support.graph_story import TENANTS, dump, follow, opened, story
from support.memories import START, memory, memory_id, remembered, revised

TENANT, OTHER = TENANTS
LINKS = ("memories", "versions", "feedback", "mentions", "evidence")


async def ask(service: Service, question: Question[Any]) -> Any:
    return await service.answers[type(question)](question)


def about(lines: list[str], *, without: set[str]) -> list[str]:
    return [line for line in lines if not any(name in line for name in without)]


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_not_erased_keeps_all_its_links(tmp_path: Path, seed: int) -> None:
    told = story(seed, 150)
    async with opened(tmp_path) as graph:
        for start in range(0, len(told), 7):
            await follow(graph, told[start : start + 7])
    before = dump(tmp_path)
    names = tuple(memory_id(number) for number in range(1, 80, 2))

    async with opened(tmp_path) as graph:
        await ask(graph, EraseRecorded(tenant=TENANT, memory_ids=names))
        again = await ask(graph, EraseRecorded(tenant=TENANT, memory_ids=names))
        await ask(graph, CompactRecorded(tenant=TENANT))
    after = dump(tmp_path)

    mine = {f"'{name}'" for name in names}
    for table in LINKS:
        others = [line for line in before[table] if line.startswith(f"('{OTHER}'")]
        rest = about([line for line in before[table] if line.startswith(f"('{TENANT}'")], without=mine)
        assert sorted(after[table]) == sorted([*others, *rest]), table
    assert sum(again.removed.values()) == 0
    assert after["position"] == before["position"]


async def test_a_tenant_is_taken_out_and_the_next_memory_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as graph:
        await follow(graph, story(3, 150))
        removed = (await ask(graph, EraseRecorded(tenant=TENANT))).removed
        await ask(graph, CompactRecorded(tenant=TENANT))
        [outcome] = await follow(graph, [remembered(10_000, memory(1, "Ann came back to Paris"))])
    after = dump(tmp_path)

    assert outcome is None
    assert removed["memories"] > 0
    assert len([line for line in after["memories"] if line.startswith(f"('{TENANT}'")]) == 1
    assert any(line.startswith(f"('{OTHER}'") for line in after["evidence"])


async def test_memories_are_a_users_that_were_so_in_any_version(tmp_path: Path) -> None:
    facts = [
        remembered(1, memory(1, user_id="ann")), remembered(2, memory(2, user_id="ben")),
        remembered(3, memory(3, user_id="ann")), revised(4, 3, {"user_id": "ben"}), revised(5, 2, {"user_id": "ann"}),
        remembered(6, memory(4, user_id="cleo")),
    ]  # fmt: skip
    async with opened(tmp_path) as graph:
        await follow(graph, facts)
        first = await ask(graph, ListOfUser(tenant=TENANT, user_id="ann", until=START.replace(year=2099), limit=2))
        rest = await ask(
            graph, ListOfUser(tenant=TENANT, user_id="ann", until=START.replace(year=2099), after=first.after)
        )
        early = await ask(graph, ListOfUser(tenant=TENANT, user_id="ann", until=START.replace(year=1999)))

    assert {*first.names, *rest.names} == {memory_id(1), memory_id(2), memory_id(3)}
    assert early.names == ()
