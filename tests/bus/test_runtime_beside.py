"""A service beside another one answers its questions in the same process, and says in time that it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engram_contracts.errors import Rejected, Unavailable
from engram_contracts.facts import SparseVector
from engram_contracts.questions import CountIndexed, EmbedQuery, QueryVectors
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.settings import NatsSettings
from support.servers import nats_server

VECTORS = QueryVectors(model="toy@1", dense=b"\x00\x00", sparse=SparseVector(indices=(), values=()))


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[NatsBus]:
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            yield bus


async def test_a_question_is_answered_here_though_nobody_listens_on_the_broker(bus: NatsBus) -> None:
    asked: list[str] = []

    async def answer(question: EmbedQuery) -> QueryVectors:
        asked.append(question.text)
        return VECTORS

    bus.answer_here({EmbedQuery: answer})

    assert await bus.ask(EmbedQuery(text="who?"), within=1.0) == VECTORS
    assert asked == ["who?"]
    with pytest.raises(Unavailable, match="vectors"):
        await bus.ask(CountIndexed(tenant="acme"), within=0.1)


async def test_its_errors_and_its_silence_are_those_of_any_service(bus: NatsBus) -> None:
    async def refuse(_: Any) -> Any:
        raise Rejected("too long", field="text")

    async def hang(_: Any) -> Any:
        await asyncio.Event().wait()

    bus.answer_here({EmbedQuery: refuse})
    with pytest.raises(Rejected, match="too long"):
        await bus.ask(EmbedQuery(text="x"), within=1.0)

    bus.answer_here({EmbedQuery: hang})
    with pytest.raises(Unavailable, match="embedder did not answer within 50 ms"):
        await bus.ask(EmbedQuery(text="x"), within=0.05)
