"""Sending memories to the door in bulk: bounded, patient when told to wait, with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engram_contracts.errors import EngramError, Rejected

BATCH = 100
AT_ONCE = 4
TRIES = 8
LONGEST_WAIT = 30.0

Record = dict[str, Any]
Advance = Callable[[int], None]


async def send(door: Any, records: Sequence[Record], advance: Advance) -> list[dict[str, str]]:
    """What the door says of each record, `{id, job}`, in order. A repeat with the same keys adds nothing.

    Raises `Rejected` naming the record's number for one that is no memory; those sent before stay.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(start: int, batch: Sequence[Record]) -> list[dict[str, str]]:
        async with gate:
            made = await _patiently(door, batch, start)
            advance(len(batch))
            return made

    results = await asyncio.gather(*(one(start, batch) for start, batch in _batches(records)))
    return [item for made in results for item in made]


def _batches(records: Sequence[Record]) -> Iterator[tuple[int, Sequence[Record]]]:
    for start in range(0, len(records), BATCH):
        yield start, records[start : start + BATCH]


async def _patiently(door: Any, batch: Sequence[Record], start: int) -> list[dict[str, str]]:
    for attempt in range(TRIES):
        try:
            envelope = await door.call("POST", "/v1/memories", {"memories": list(batch)})
            made: list[dict[str, str]] = envelope["data"]["memories"]
            return made
        except EngramError as error:
            if error.retry == "never":
                raise Rejected(f"in records {start + 1} to {start + len(batch)}: {error.message}") from error
            if attempt == TRIES - 1:
                raise
            await asyncio.sleep(min(error.retry_after or 0.2 * 2**attempt, LONGEST_WAIT))
    raise AssertionError("the last try answers")
