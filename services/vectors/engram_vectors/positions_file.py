"""Positions in a JSON file beside the index."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


class FilePositions:
    """One file, replaced as a whole. A missing file means no positions."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def load(self, generation: str) -> dict[int, int]:
        """See `PositionStore.load`."""
        if not self._file.exists():
            return {}
        kept = json.loads(self._file.read_bytes())
        if kept["generation"] != generation:
            return {}
        return {int(partition): sequence for partition, sequence in kept["positions"].items()}

    async def save(self, generation: str, positions: Mapping[int, int]) -> None:
        """See `PositionStore.save`."""
        replace(self._file, json.dumps({"generation": generation, "positions": dict(positions)}).encode())


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
