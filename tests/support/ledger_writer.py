"""A process that writes a story into a ledger from its position on, and says how far it came; made to be killed."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from engram_contracts.topology import LOG
from engram_metering.ledger_duckdb import open_ledger
from support.metering_story import deliveries, story


async def write(file: Path, seed: int, length: int) -> None:
    """Write in batches of any size, a line on stdout after each."""
    facts = deliveries(story(seed, length))
    async with open_ledger(file) as ledger:
        position = await ledger.position(LOG.name)
        while position < length:
            batch = facts[position : position + random.randint(1, 40)]
            await ledger.post_facts(batch)
            position = batch[-1].sequence
            print(position, flush=True)  # noqa: T201 (the parent reads it)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
