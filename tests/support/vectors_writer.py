"""A vectors service that follows a made-up log until it is killed: `python -m support.vectors_writer FOLDER`."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from engram_contracts.facts import Fact
from engram_contracts.ids import partition_of
from engram_runtime.service import Delivery
from engram_vectors.handlers import Handlers
from engram_vectors.index_edge import open_edge
from engram_vectors.positions import Positions
from engram_vectors.positions_file import FilePositions
from engram_vectors.recalling import Recaller
from engram_vectors.turns import Turns
from engram_vectors.weights import Weights
from support.memories import chunk, embedding, forgotten, memory, remembered, revised
from support.recording_bus import RecordingBus

TENANT = "acme"
MEMORIES = 150
FACTS = 3_000


def story(sequence: int) -> Delivery[Fact]:
    """The fact at this sequence of the log, always the same."""
    chance = random.Random(sequence)
    number = chance.randrange(MEMORIES)
    chunks = [chunk(sequence + n, [sequence % 50, 100 + n]) for n in range(chance.randrange(1, 4))]
    kind = chance.choices(("remembered", "revised", "relabelled", "forgotten"), (4, 3, 3, 0.1))[0]
    if kind == "remembered":
        return remembered(sequence, memory(number, tags=("new",)), embedding(*chunks))
    if kind == "revised":
        return revised(sequence, number, {"content": f"version of {sequence}"}, embedding(*chunks))
    if kind == "relabelled":
        return revised(sequence, number, {"tags": [f"t{sequence % 5}"]})
    return forgotten(sequence, number)


async def follow(folder: Path, *, until: int = FACTS, tell: bool = False) -> None:
    """Apply the story from the kept position on, flushing every few points."""
    async with open_edge(folder / "index") as index:
        positions = Positions(index, FilePositions(folder / "positions.json"), points=40)
        await positions.load()
        bus = RecordingBus()
        handlers = Handlers(
            index, positions, Recaller(index, bus, weights=Weights(), candidates=50), bus, turns=Turns()
        )
        done = positions.of(partition_of(TENANT))
        while done < until:
            size = random.Random(done).randrange(1, 12)
            await handlers.apply([story(n) for n in range(done + 1, min(done + size, until) + 1)])
            done = positions.of(partition_of(TENANT))
            if tell:
                print(done, flush=True)  # noqa: T201  # how the test sees that it works
        await positions.save()


if __name__ == "__main__":
    asyncio.run(follow(Path(sys.argv[1]), tell=True))
