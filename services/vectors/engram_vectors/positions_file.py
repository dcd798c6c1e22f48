"""Positions in a JSON file beside the index."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from engram_vectors.ports import Position


class FilePositions:
    """One file, replaced as a whole. A missing file means no positions."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def load(self, generation: str) -> dict[int, Position]:
        """See `PositionStore.load`."""
        if not self._file.exists():
            return {}
        kept = json.loads(self._file.read_bytes())
        if kept["generation"] != generation:
            return {}
        times = kept.get("appended", {})
        return {
            int(partition): Position(sequence, moment(times.get(partition)))
            for partition, sequence in kept["positions"].items()
        }

    async def save(self, generation: str, positions: Mapping[int, Position]) -> None:
        """See `PositionStore.save`."""
        sequences = {partition: each.sequence for partition, each in positions.items()}
        times = {partition: each.appended.isoformat() for partition, each in positions.items() if each.appended}
        kept = {"generation": generation, "positions": sequences, "appended": times}
        replace(self._file, json.dumps(kept).encode())


def moment(text: str | None) -> datetime | None:
    """The moment that was kept, if there was one."""
    return datetime.fromisoformat(text) if text else None


def replace(file: Path, content: bytes) -> None:
    """Give a file new content, so that a crash at any moment leaves the old or the new."""
    draft = file.with_name(f"{file.name}.new")
    with draft.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
