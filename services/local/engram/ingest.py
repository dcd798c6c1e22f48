"""Sending memories to the door in bulk: in order, bounded, patient when told to wait, with progress."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engram_contracts.errors import FAMILY, EngramError, Internal, Rejected, Unavailable

BATCH = 100
BATCH_BYTES = 3 * 1024 * 1024
"""Below the door's limit for a request, which is 4 MiB."""
TRIES = 8
LONGEST_WAIT = 30.0
LOOK_SECONDS = 0.05

Record = dict[str, Any]
Made = dict[str, Any]
Advance = Callable[[int], None]


async def send(door: Any, records: Sequence[Record], advance: Advance) -> list[Made]:
    """What the door says of each record, `{id, job}`, in order. A repeat with the same keys adds nothing.

    Raises `Rejected` naming the record's number for one that is no memory; those sent before stay.
    """
    made: list[Made] = []
    for batch in _batches(records):
        made += await _patiently(door, batch, len(made))
        advance(len(batch))
    return made


async def settle(door: Any, job: str, *, within: float) -> dict[str, Any]:
    """The job once it is done or dead. Raises `Unavailable` when it is neither after so many seconds."""
    deadline = time.monotonic() + within
    while True:
        seen: dict[str, Any] = (await door.call("GET", f"/v1/jobs/{job}"))["data"]
        if seen["state"] in ("done", "dead"):
            return seen
        if time.monotonic() > deadline:
            raise Unavailable(f"{job} is still {seen['state']} after {within:g} s; see `engram status`")
        await asyncio.sleep(LOOK_SECONDS)


def _batches(records: Sequence[Record]) -> Iterator[list[Record]]:
    """The records in order, cut to what one request may hold."""
    batch: list[Record] = []
    room = BATCH_BYTES
    for record in records:
        size = len(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if batch and (len(batch) == BATCH or size > room):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(record)
        room -= size
    if batch:
        yield batch


async def _patiently(door: Any, batch: Sequence[Record], start: int) -> list[Made]:
    """Send until each record is accepted, only what was refused for now again."""
    made: dict[int, Made] = {}
    for attempt in range(TRIES):
        left = [place for place in range(len(batch)) if place not in made]
        try:
            outcomes = await _once(door, [batch[place] for place in left])
            trouble = _sort(dict(zip(left, outcomes, strict=True)), made)
        except EngramError as whole:
            trouble = {left[0]: whole}
        if not trouble:
            return [made[place] for place in range(len(batch))]
        place, error = next(iter(trouble.items()))
        if error.retry == "never":
            raise Rejected(f"in records {start + place + 1} to {start + len(batch)}: {error.message}") from error
        if attempt < TRIES - 1:
            await asyncio.sleep(min(error.retry_after or 0.2 * 2**attempt, LONGEST_WAIT))
    raise error


async def _once(door: Any, batch: Sequence[Record]) -> list[Made]:
    envelope = await door.call("POST", "/v1/memories", {"memories": list(batch)})
    made: list[Made] = envelope["data"]["memories"]
    return made


def _sort(outcomes: dict[int, Made], made: dict[int, Made]) -> dict[int, EngramError]:
    """Put what was accepted into `made`; the errors of the rest, those no retry can help first."""
    trouble = {}
    for place, outcome in outcomes.items():
        refusal = outcome.get("error")
        if refusal is None:
            made[place] = outcome
        else:
            kind = FAMILY.get(refusal["code"], Internal)
            trouble[place] = kind(refusal["message"], retry_after=refusal.get("retry_after"))
    return dict(sorted(trouble.items(), key=lambda item: item[1].retry == "later"))
