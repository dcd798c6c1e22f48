"""What the vectors service needs from outside: an index of points, and a place to keep its positions in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from engram_contracts.facts import SparseVector
from engram_vectors.filters import Wanted
from engram_vectors.looks import Look
from engram_vectors.points import Changes, PointId

Scored = tuple[PointId, float]
"""A point's id and its score, higher is better."""
Scanned = tuple[PointId, str | None, str | None]
"""A point's id, the tenant and the record on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What to look for. A leg without a vector stays empty; `limit` is per leg, in points."""

    dense: tuple[float, ...] | None
    sparse: SparseVector | None
    limit: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """What each leg found, best first: cosine similarity, and BM25 with the engine's IDF."""

    dense: Sequence[Scored] = field(default=())
    sparse: Sequence[Scored] = field(default=())
    looks: Mapping[PointId, Look] = field(default_factory=dict)
    """The found memories at a glance, by first point."""


class VectorIndex(Protocol):
    """Points of all tenants under one model. An index that was never prepared is empty.

    Foreign errors come out as `Unavailable`. `generation` names this incarnation of the data: it changes when the
    data was lost or thrown away, and positions in the log that were kept for another one do not count.
    """

    @property
    def model(self) -> str | None:
        """The model of the vectors, `name@dimension`; `None` before the first `prepare`."""

    @property
    def generation(self) -> str | None:
        """Which incarnation of the data this is; `None` before the first `prepare`."""

    async def prepare(self, model: str, dimension: int) -> None:
        """Make room for this model's vectors where there is none yet; what exists is left as it is."""

    async def write(self, changes: Changes) -> None:
        """Drop, put and relabel; visible when it returns, on disk after `flush`. A repeat changes nothing."""

    async def search(self, wanted: Wanted, probe: Probe) -> Candidates:
        """The best points of each leg, both legs in one round trip."""

    async def standing(self, wanted: Wanted, places: Sequence[int]) -> dict[PointId, Look]:
        """The wanted memories that stand at these places of their sessions, by first point."""

    async def tally(self, wanted: Wanted) -> int:
        """How many points are wanted."""

    async def narrow(self, wanted: Wanted, heads: Sequence[PointId]) -> set[PointId]:
        """Those of the first points that are wanted."""

    async def fetch(self, tenant: str, heads: Sequence[PointId]) -> dict[PointId, str]:
        """Records by first point, of those that are there and the tenant's; forgotten memories included."""

    async def count(self, tenant: str) -> int:
        """How many memories of the tenant can be recalled."""

    async def flush(self) -> None:
        """Have everything that was written on disk."""


class Position(NamedTuple):
    """How far in the log: the sequence (0 for none), and when the fact there was appended, where that is known."""

    sequence: int
    appended: datetime | None = None


class PositionStore(Protocol):
    """Keeps, per log partition, the position whose effects are on disk."""

    async def load(self, generation: str) -> dict[int, Position]:
        """The positions kept for this generation of the index; none for a partition never kept."""

    async def save(self, generation: str, positions: Mapping[int, Position]) -> None:
        """Keep positions durably; a crash keeps the old or the new of each partition."""
