"""How a memory lies in the index: one point per chunk, and a record on the first.

A point's id is a UUID as a number: 112 bits derived from tenant and memory id, then the chunk's number. So a
repeat overwrites itself, hits fold to their memories without reading anything, a memory's points are found without
a search, and no tenant's memory id can meet another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from engram_contracts.facts import Chunk, SparseVector
from engram_contracts.memory import Memory
from engram_contracts.messages import Message, Moment
from engram_vectors.filters import AT, EXPIRES, MOMENTS, NUMBERS, TENANT, TERMS, comparable, microseconds, terms
from engram_vectors.looks import look_of

RECORD = "record"
LOOK, PLACE = "look", "place"
BEFORE_MEMORY, AFTER_MEMORY = '{"memory":', ',"command":"'
TAIL = "tail"
"""Names the tenant on every point that is not a memory's first: memories are the tenant's points less these."""

Payload = dict[str, Any]
PointId = int

CHUNK_BITS = 16
FIRST = ~((1 << CHUNK_BITS) - 1)
"""Masks the chunk's number away."""


class Entry(Message):
    """What the index knows of a memory, kept as JSON on its first point; without a `memory` it was forgotten.

    `log_sequence` and `command` are of the last fact that changed it, `born` is the log sequence of its first.
    `spans` are the chunks of a memory that has several, as characters of the content. `reach` is the largest number
    of chunks it ever had. `place` is where it stands in its session (see `places`; 0 for none).
    """

    memory: Memory | None = None
    command: str
    log_sequence: int
    born: int
    indexed_at: Moment
    spans: tuple[tuple[int, int], ...] = ()
    reach: int = 1
    place: int = 0
    earlier: tuple[str, ...] | None = None
    """The commands before `command`, as far as they may come again; a memory that was not changed has none."""
    embedded_by: str | None = None
    """The command that brought the vectors, where it is not `command`."""


def memory_json(record: str) -> str | None:
    """The memory in an entry's JSON, as it stands there; `None` for a forgotten one.

    What follows the memory is looked for from the end. Within strings quotes are escaped, so only the entry's own field
    can be found there.
    """
    end = record.rfind(AFTER_MEMORY)
    return record[len(BEFORE_MEMORY) : end] if end > 0 else None


@dataclass(frozen=True, slots=True)
class Point:
    """A point to be written; one without `dense` can be fetched but not found."""

    id: PointId
    payload: Payload
    dense: tuple[float, ...] | None = None
    sparse: SparseVector | None = None


@dataclass(frozen=True, slots=True)
class Relabel:
    """Fields to set on points that exist; a value of `None` clears the field, others keep theirs."""

    ids: Sequence[PointId]
    payload: Payload


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to change in the index, in this order: drop, put, relabel. Repeating it changes nothing more."""

    drop: list[PointId] = field(default_factory=list)
    put: list[Point] = field(default_factory=list)
    relabel: list[Relabel] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Points that are touched."""
        return len(self.drop) + len(self.put) + sum(len(each.ids) for each in self.relabel)

    def points(self) -> Iterator[PointId]:
        """The ids of the points that are touched."""
        yield from self.drop
        yield from (point.id for point in self.put)
        yield from (point for each in self.relabel for point in each.ids)

    def payloads(self) -> Iterator[Payload]:
        """What is set on points."""
        yield from (point.payload for point in self.put)
        yield from (each.payload for each in self.relabel)


def head_of(tenant: str, memory_id: str) -> PointId:
    """The id of a memory's first point."""
    name = f"{len(tenant)}:{tenant}{memory_id}".encode()
    return int.from_bytes(blake2b(name, digest_size=14).digest(), "big") << CHUNK_BITS


def first_of(point: PointId) -> PointId:
    """The id of the first point of the memory that `point` belongs to."""
    return point & FIRST


def chunk_of(point: PointId, number: int) -> PointId:
    """The id of chunk `number` of the memory that `point` belongs to."""
    return (point & FIRST) + number


def chunk_number(point: PointId) -> int:
    """Which chunk of its memory a point is."""
    return point & ~FIRST


def uuid_of(point: PointId) -> str:
    """A point's id as the engines, and everybody outside, know it."""
    return f"{point:032x}"


def point_of(uuid: str) -> PointId:
    """The point that `uuid_of` made this of, with dashes or without."""
    return int(uuid.replace("-", ""), 16)


def points_of(tenant: str, head: PointId, entry: Entry, chunks: Sequence[Chunk]) -> list[Point]:
    """All points of a memory."""
    assert entry.memory is not None
    labels = {name: value for name, value in _labels(tenant, entry.memory, entry.place).items() if value is not None}
    first = Point(head, {**labels, RECORD: entry.encode().decode()}, chunks[0].floats(), chunks[0].sparse)
    if len(chunks) == 1:
        return [first]
    labels[TAIL] = tenant
    rest = (Point(chunk_of(head, n), labels, chunk.floats(), chunk.sparse) for n, chunk in enumerate(chunks))
    return [first, *(point for n, point in enumerate(rest) if n)]


def relabels_of(tenant: str, head: PointId, entry: Entry) -> list[Relabel]:
    """What brings the points of a memory up to date whose vectors have not changed."""
    assert entry.memory is not None
    labels = _labels(tenant, entry.memory, entry.place)
    first = Relabel([head], {**labels, RECORD: entry.encode().decode()})
    if len(entry.spans) < 2:
        return [first]
    return [first, Relabel([chunk_of(head, n) for n in range(1, len(entry.spans))], labels)]


def tombstone(tenant: str, head: PointId, entry: Entry) -> Point:
    """What stays of a forgotten memory, so that a late repeat does not bring it back."""
    return Point(head, {TENANT: tenant, TAIL: tenant, RECORD: entry.encode().decode()})


def surplus(head: PointId, *, after: int, reach: int) -> list[PointId]:
    """Ids of the chunks a memory no longer has."""
    return [chunk_of(head, n) for n in range(after, reach)]


def spans_of(chunks: Sequence[Chunk]) -> tuple[tuple[int, int], ...]:
    """Where the chunks lie; nothing where there is only one."""
    return tuple((chunk.start, chunk.end) for chunk in chunks) if len(chunks) > 1 else ()


def _labels(tenant: str, memory: Memory, place: int) -> Payload:
    expires = memory.expires_at
    numbers, moments = comparable(memory.metadata) if memory.metadata else ({}, {})
    return {
        TENANT: tenant,
        TERMS: terms(memory),
        AT: microseconds(memory.occurred_at or memory.created_at),
        EXPIRES: None if expires is None else microseconds(expires),
        NUMBERS: numbers or None,
        MOMENTS: moments or None,
        PLACE: place or None,
        LOOK: look_of(memory, place),
    }
