"""A vector index in a dictionary: what `Changes` mean, without an engine. For tests of what writes to one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engram_vectors.filters import TENANT, Wanted
from engram_vectors.looks import Look
from engram_vectors.points import RECORD, TAIL, Changes, PointId
from engram_vectors.ports import Candidates, Probe


@dataclass
class ToyIndex:
    """Fulfils `VectorIndex` but for its search, which finds nothing. `crash` tears what was not flushed."""

    model: str | None = "toy@8"
    generation: str | None = "g"
    payloads: dict[PointId, dict[str, Any]] = field(default_factory=dict)
    vectors: dict[PointId, Any] = field(default_factory=dict)
    flushed: tuple[dict[PointId, dict[str, Any]], dict[PointId, Any]] = field(default_factory=lambda: ({}, {}))
    history: list[tuple[dict[PointId, dict[str, Any]], dict[PointId, Any]]] = field(default_factory=list)
    writes: int = 0

    async def prepare(self, model: str, dimension: int) -> None:
        self.model, self.generation = model, "g"

    async def write(self, changes: Changes) -> None:
        self.apply(changes)

    def apply(self, changes: Changes) -> None:
        self.writes += 1
        for point in changes.drop:
            self.payloads.pop(point, None)
            self.vectors.pop(point, None)
        for put in changes.put:
            self.payloads[put.id] = dict(put.payload)
            self.vectors[put.id] = (put.dense, put.sparse)
        for relabel in changes.relabel:
            for point in relabel.ids:
                if point in self.payloads:
                    self.payloads[point].update(relabel.payload)
        self.history.append(self._copy())

    async def search(self, wanted: Wanted, probe: Probe) -> Candidates:
        return Candidates()

    async def standing(self, wanted: Wanted, places: Sequence[int]) -> dict[PointId, Look]:
        return {}

    async def tally(self, wanted: Wanted) -> int:
        return 0

    async def narrow(self, wanted: Wanted, heads: Sequence[PointId]) -> set[PointId]:
        return {head for head in heads if self.payloads.get(head, {}).get(TENANT) == wanted.tenant}

    async def fetch(self, tenant: str, heads: Sequence[PointId]) -> dict[PointId, str]:
        found = {head: self.payloads[head] for head in heads if head in self.payloads}
        return {head: payload[RECORD] for head, payload in found.items() if payload[TENANT] == tenant}

    async def count(self, tenant: str) -> int:
        heads = (payload for payload in self.payloads.values() if TAIL not in payload)
        return sum(payload[TENANT] == tenant for payload in heads)

    async def flush(self) -> None:
        self.flushed = self._copy()
        self.history = []

    def crash(self, chance: random.Random) -> None:
        """Each point falls back to what was flushed or any state since; its vectors may be newer than its payload."""
        states = [self.flushed, *self.history]
        payloads: dict[PointId, dict[str, Any]] = {}
        vectors: dict[PointId, Any] = {}
        for point in sorted({point for state in states for point in state[0]}):
            at = chance.randrange(len(states))
            if point in states[at][0]:
                later = [state[1][point] for state in states[at:] if point in state[1]]
                payloads[point], vectors[point] = dict(states[at][0][point]), chance.choice(later)
        self.payloads, self.vectors, self.history = payloads, vectors, []

    def _copy(self) -> tuple[dict[PointId, dict[str, Any]], dict[PointId, Any]]:
        return {point: dict(payload) for point, payload in self.payloads.items()}, dict(self.vectors)
