"""Positions in the broker's settings bucket, for an index that many processes share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from engram_runtime.bus import KeyValue
from engram_vectors.ports import Position
from engram_vectors.positions_file import moment


class BucketPositions:
    """One entry per partition, `vectors.position.<partition>`; each partition has one writer at a time."""

    def __init__(self, bucket: KeyValue, partitions: Sequence[int]) -> None:
        self._bucket = bucket
        self._partitions = partitions

    async def load(self, generation: str) -> dict[int, Position]:
        """See `PositionStore.load`."""
        found: dict[int, Position] = {}
        for partition in self._partitions:
            value = await self._bucket.get(_key(partition))
            kept = json.loads(value) if value else None
            if kept and kept["generation"] == generation:
                found[partition] = Position(kept["sequence"], moment(kept.get("appended")))
        return found

    async def save(self, generation: str, positions: Mapping[int, Position]) -> None:
        """See `PositionStore.save`."""
        for partition, position in positions.items():
            if partition in self._partitions:
                time = position.appended.isoformat() if position.appended else None
                kept = {"generation": generation, "sequence": position.sequence, "appended": time}
                await self._bucket.put(_key(partition), json.dumps(kept).encode())


def _key(partition: int) -> str:
    return f"vectors.position.{partition}"
