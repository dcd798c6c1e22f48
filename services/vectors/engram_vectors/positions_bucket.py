"""Positions in the broker's settings bucket, for an index that many processes share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from engram_runtime.bus import KeyValue


class BucketPositions:
    """One entry per partition, `vectors.position.<partition>`; each partition has one writer at a time."""

    def __init__(self, bucket: KeyValue, partitions: Sequence[int]) -> None:
        self._bucket = bucket
        self._partitions = partitions

    async def load(self, generation: str) -> dict[int, int]:
        """See `PositionStore.load`."""
        found: dict[int, int] = {}
        for partition in self._partitions:
            value = await self._bucket.get(_key(partition))
            kept = json.loads(value) if value else None
            if kept and kept["generation"] == generation:
                found[partition] = kept["sequence"]
        return found

    async def save(self, generation: str, positions: Mapping[int, int]) -> None:
        """See `PositionStore.save`."""
        for partition, sequence in positions.items():
            if partition in self._partitions:
                await self._bucket.put(
                    _key(partition), json.dumps({"generation": generation, "sequence": sequence}).encode()
                )


def _key(partition: int) -> str:
    return f"vectors.position.{partition}"
