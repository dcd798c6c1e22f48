"""Verdicts in the record: counted, kept with what was said, and gone with the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.errors import NotFound
from engram_contracts.memory import Feedback
from engram_contracts.questions import GetHistory, GetMemory, Question
from engram_runtime.service import Service
from support.graph_story import TENANTS, dump, follow, opened
from support.memories import accessed, forgotten, judged, memory, memory_id, remembered, revised
from support.recording_bus import RecordingBus

TENANT, _ = TENANTS


@pytest.fixture
async def graph(tmp_path: Path) -> AsyncIterator[Service]:
    async with opened(tmp_path, RecordingBus()) as service:
        yield service


async def ask(service: Service, question: Question[Any]) -> Any:
    return await service.answers[type(question)](question)


async def test_a_verdict_is_counted_once_and_told_in_the_history(graph: Service) -> None:
    wrong = judged(2, 1, "wrong", command="c", query="who?", note="it was Ben")
    await follow(graph, [remembered(1, memory(1, "Ann came")), wrong])
    await follow(graph, [wrong, judged(3, 1, "wrong", command="c"), judged(4, 1, "useful")])

    assert (await ask(graph, GetMemory(tenant=TENANT, memory_id=memory_id(1)))).feedback == Feedback(useful=1, wrong=1)
    history = await ask(graph, GetHistory(tenant=TENANT, memory_id=memory_id(1)))
    assert len(history.versions) == 1
    assert [(each.verdict, each.version, each.query, each.note) for each in history.feedback] == [
        ("wrong", 1, "who?", "it was Ben"), ("useful", 1, None, None),
    ]  # fmt: skip


async def test_a_memory_that_says_something_else_begins_without_verdicts(graph: Service) -> None:
    facts = [remembered(1, memory(1, "Ann came")), judged(2, 1, "wrong"), revised(3, 1, {"content": "Ben came"})]
    await follow(graph, [*facts, judged(4, 1, "useful")])

    assert (await ask(graph, GetMemory(tenant=TENANT, memory_id=memory_id(1)))).feedback == Feedback(useful=1)
    history = await ask(graph, GetHistory(tenant=TENANT, memory_id=memory_id(1)))
    assert [(each.verdict, each.version) for each in history.feedback] == [("wrong", 1), ("useful", 2)]


async def test_what_was_said_of_a_forgotten_memory_is_gone_and_nothing_is_added(tmp_path: Path) -> None:
    async with opened(tmp_path, RecordingBus()) as graph:
        await follow(graph, [remembered(1, memory(1)), judged(2, 1, "wrong", note="secret")])
        [nothing, late] = await follow(graph, [forgotten(3, 1), judged(4, 1, "useful", note="secret")])
        [unknown] = await follow(graph, [judged(5, 2, "useful")])

    assert nothing is None
    assert late is None
    assert isinstance(unknown, NotFound)
    assert "secret" not in str(dump(tmp_path))


async def test_recalls_are_counted_and_change_nothing_else(graph: Service) -> None:
    counted = accessed(3, {1: 2, 2: 1, 7: 1})
    await follow(graph, [remembered(1, memory(1, "Ann met Ben")), remembered(2, memory(2, "Ben left"))])
    await follow(graph, [counted])
    await follow(graph, [counted, forgotten(4, 2), accessed(5, {1: 1, 2: 1})])

    kept = await ask(graph, GetMemory(tenant=TENANT, memory_id=memory_id(1)))
    assert (kept.access_count, kept.accessed_at, kept.version) == (3, accessed(5, {}).message.at, 1)
    assert len((await ask(graph, GetHistory(tenant=TENANT, memory_id=memory_id(1)))).versions) == 1
    with pytest.raises(NotFound):
        await ask(graph, GetMemory(tenant=TENANT, memory_id=memory_id(2)))
