"""The vectors' handlers over an index in this process, with embedder and graph as the test wants them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from engram_contracts.facts import Fact
from engram_contracts.questions import Activate, Activated, EmbedQuery, QueryVectors, Recall, Recollection
from engram_runtime.service import Delivery
from engram_vectors.accesses import Accesses
from engram_vectors.handlers import Handlers
from engram_vectors.index_edge import open_edge
from engram_vectors.positions import Positions
from engram_vectors.positions_file import FilePositions
from engram_vectors.recalling import Recaller
from engram_vectors.turns import Turns
from engram_vectors.weights import Weights
from support.memories import MODEL, START, chunk, memory_id
from support.recording_bus import RecordingBus

NOW = START + timedelta(days=30)


class Room:
    """The service's handlers over an index, and the bus they speak to."""

    def __init__(self, index: Any, folder: Path) -> None:
        self.bus = RecordingBus()
        self.now = NOW
        self.index = index
        recaller = Recaller(index, self.bus, weights=Weights(graph=0.1), candidates=50)
        positions = Positions(index, FilePositions(folder / "positions.json"))
        self.accesses = Accesses(index, self.bus)
        self.handlers = Handlers(
            index, positions, recaller, self.bus, turns=Turns(), accesses=self.accesses, now=lambda: self.now
        )
        self.query_is(0, 1)
        self.graph_brings()

    def query_is(self, direction: int, *words: int, model: str = MODEL) -> None:
        """Every query has these vectors."""
        like = chunk(direction, words)
        self.bus.answers[EmbedQuery] = always(QueryVectors(model=model, dense=like.dense, sparse=like.sparse))

    def graph_brings(self, *found: tuple[int, float], paths: Sequence[tuple[str, ...]] = ()) -> None:
        """Every activation reaches these memories, so strongly."""
        ids = tuple(memory_id(number) for number, _ in found)
        strengths = tuple(strength for _, strength in found)
        self.bus.answers[Activate] = always(Activated(memory_ids=ids, activations=strengths, paths=tuple(paths)))

    async def keep(self, *facts: Delivery[Fact]) -> None:
        assert await self.handlers.apply(facts) == [None] * len(facts)

    async def recall(self, **how: Any) -> Recollection:
        asked = Recall(**{"tenant": "acme", "query": "hello", "fold": "none", **how})
        return (await self.handlers.recall(asked)).read()

    async def numbers(self, **how: Any) -> list[int]:
        """Which memories are recalled, in order."""
        by_id = {memory_id(number): number for number in range(100)}
        return [by_id[hit.memory.id] for hit in (await self.recall(**how)).hits]


def always(answer: Any) -> Callable[[Any], Awaitable[Any]]:
    async def give(_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return give


@asynccontextmanager
async def open_room(folder: Path) -> AsyncIterator[Room]:
    """A room over an empty Edge index."""
    async with open_edge(folder / "index") as index:
        await index.prepare(MODEL, 8)
        yield Room(index, folder)
