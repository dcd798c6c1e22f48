"""A recollection on its way out: its memories go as they lie in the index, unread. Pure.

Reading ten memories and writing them again would take a sixth of a recall's time in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from engram_contracts.questions import Mode, Recollection
from engram_vectors.points import Entry, PointId, memory_json
from engram_vectors.ranking import Ranked

EXPIRES = '"expires_at":"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a `Recollection` says, each hit in JSON. The first of its memories to expire does so at `until`.

    `heads` are their first points.
    """

    hits: tuple[bytes, ...] = ()
    degraded: tuple[str, ...] = ()
    took_ms: float = 0.0
    stages_ms: Mapping[str, float] | None = None
    mode: Mode | None = None
    weights: Mapping[str, Any] | None = None
    until: datetime | None = None
    heads: tuple[PointId, ...] = ()

    def encode(self) -> bytes:
        """The `Recollection` as JSON, without fields that are `None`."""
        rest = {
            "degraded": self.degraded, "took_ms": self.took_ms, "stages_ms": self.stages_ms, "mode": self.mode,
            "weights": self.weights,
        }  # fmt: skip
        return b'{"hits":[%b],%b' % (b",".join(self.hits), to_json(rest, exclude_none=True)[1:])

    def read(self) -> Recollection:
        """The message that this is."""
        return Recollection.model_validate_json(self.encode())


def hit_of(ranked: Ranked, records: Mapping[PointId, str], path: tuple[str, ...], *, explain: bool) -> bytes | None:
    """A `Hit` in JSON, or `None` for a memory that was forgotten meanwhile."""
    record = records[ranked.head]
    memory = memory_json(record)
    if memory is None:
        return None
    explanation = {
        "parts": ranked.parts, "raw": ranked.raw, "normalised": ranked.normalised, "ranks": ranked.ranks, "path": path,
    }  # fmt: skip
    rest = {
        "score": ranked.score,
        "legs": [name for name in ranked.raw if name in ranked.parts] or list(ranked.parts),
        "excerpt": None if '"spans":[]' in record[len(memory) :] else _excerpt(record, ranked.chunk),
        "duplicates": _ids(records[head] for head in ranked.same if head in records),
        "explain": explanation if explain else None,
    }
    return b'{"memory":%b,%b' % (memory.encode(), to_json(rest, exclude_none=True)[1:])


def first_to_expire(records: Iterable[str]) -> datetime | None:
    """When the first of these memories expires."""
    memories = (Entry.model_validate_json(record).memory for record in records if EXPIRES in record)
    return min((each.expires_at for each in memories if each and each.expires_at), default=None)


def _excerpt(record: str, chunk: int) -> str | None:
    entry = Entry.model_validate_json(record)
    if entry.memory is None or chunk >= len(entry.spans):
        return None
    start, end = entry.spans[chunk]
    return entry.memory.content[start:end]


def _ids(records: Iterable[str]) -> list[str]:
    memories = (Entry.model_validate_json(record).memory for record in records)
    return [memory.id for memory in memories if memory is not None]
