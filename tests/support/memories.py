"""Memories, their facts and toy vectors, for tests of what follows the log."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from engram_contracts.facts import (
    Accessed,
    Chunk,
    Embedding,
    Fact,
    Forgotten,
    Judged,
    Remembered,
    Revised,
    SparseVector,
)
from engram_contracts.ids import derived_id
from engram_contracts.memory import Memory, Verdict
from engram_runtime.service import Delivery

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "toy@8"


def memory_id(number: int) -> str:
    """The id of the test's memory `number`."""
    return derived_id("memory", str(number))


def memory(number: int, content: str = "hello world", **fields: Any) -> Memory:
    """Memory `number`, created so many seconds after `START`."""
    at = START + timedelta(seconds=number)
    return Memory(**{"id": memory_id(number), "created_at": at, "updated_at": at, "content": content, **fields})


def chunk(
    direction: int = 0, words: Sequence[int] = (1,), *, start: int = 0, end: int = 11, dimension: int = 8
) -> Chunk:
    """A chunk whose dense vector leans to axis `direction`, and whose sparse one holds `words` once each."""
    dense = [0.1] * dimension
    dense[direction % dimension] = 1.0
    indices = tuple(sorted(set(words)))
    sparse = SparseVector(indices=indices, values=(1.0,) * len(indices))
    return Chunk(start=start, end=end, dense=struct.pack(f"<{dimension}e", *dense), sparse=sparse)


def embedding(*chunks: Chunk, model: str = MODEL) -> Embedding:
    """These chunks, or a plain one, embedded by `model`."""
    return Embedding(model=model, chunks=chunks or (chunk(),), tokens=3)


def remembered(
    sequence: int, what: Memory, embedded: Embedding | None = None, *, tenant: str = "acme", command: str | None = None
) -> Delivery[Fact]:
    """The fact, at this sequence of the log, that a memory is to be kept."""
    fact = Remembered(**_how(sequence, command), memory=what, embedding=embedded or embedding())
    return delivered(sequence, fact, tenant=tenant)


def revised(
    sequence: int,
    number: int,
    changes: dict[str, Any],
    embedded: Embedding | None = None,
    *,
    tenant: str = "acme",
    command: str | None = None,
) -> Delivery[Fact]:
    """The fact that fields of memory `number` change."""
    fact = Revised(**_how(sequence, command), memory_id=memory_id(number), changes=changes, embedding=embedded)
    return delivered(sequence, fact, tenant=tenant)


def forgotten(sequence: int, number: int, *, tenant: str = "acme", command: str | None = None) -> Delivery[Fact]:
    """The fact that memory `number` is to vanish."""
    return delivered(sequence, Forgotten(**_how(sequence, command), memory_id=memory_id(number)), tenant=tenant)


def judged(
    sequence: int, number: int, verdict: Verdict, *, tenant: str = "acme", command: str | None = None, **more: Any
) -> Delivery[Fact]:
    """The fact that somebody said how memory `number` served."""
    fact = Judged(**_how(sequence, command), memory_id=memory_id(number), verdict=verdict, **more)
    return delivered(sequence, fact, tenant=tenant)


def accessed(sequence: int, times: dict[int, int], *, tenant: str = "acme") -> Delivery[Fact]:
    """The fact that memories were recalled so often."""
    counts = {memory_id(number): count for number, count in times.items()}
    return delivered(sequence, Accessed(**_how(sequence, None), times=counts), tenant=tenant)


def delivered(sequence: int, fact: Fact, *, tenant: str = "acme") -> Delivery[Fact]:
    """A fact as the log delivers it."""
    return Delivery(
        tenant=tenant,
        event=fact.event,
        message=fact,
        sequence=sequence,
        at=fact.at,
        correlation=None,
    )


def _how(sequence: int, command: str | None) -> dict[str, Any]:
    at = START + timedelta(days=1, seconds=sequence)
    return {"command": command or derived_id("command", str(sequence)), "accepted_at": at, "at": at}
