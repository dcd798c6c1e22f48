"""How far in the log the index has come: in memory at once, on disk after a flush.

While the process lives, followers continue from what was applied; after a crash they begin again at what was
flushed, and what lies between is applied a second time.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

from engram_vectors.ports import Position, PositionStore, VectorIndex

NONE = Position(0)
log = logging.getLogger(__name__)


class Positions:
    """Positions by partition. Saves at most every `every` seconds or `points` written points, and on request.

    `trouble` says why the last save failed, or is `None`.
    """

    def __init__(self, index: VectorIndex, store: PositionStore, *, every: float = 20.0, points: int = 10_000) -> None:
        self._index = index
        self._store = store
        self._every = every
        self._points = points
        self._applied: dict[int, Position] = {}
        self._unsaved = 0
        self._dirty = asyncio.Event()
        self.trouble: str | None = None

    async def load(self) -> None:
        """Begin where the last process left off."""
        if self._index.generation is not None:
            self._applied = await self._store.load(self._index.generation)

    def of(self, partition: int) -> int:
        """The log sequence up to which a partition's facts are applied; 0 for none."""
        return self._applied.get(partition, NONE).sequence

    def appended(self, partition: int) -> datetime | None:
        """When the fact at a partition's position was appended to the log, where that is known."""
        return self._applied.get(partition, NONE).appended

    def rewind(self, partition: int, sequence: int) -> None:
        """Go on behind a sequence of the log, which has lost what was applied beyond it."""
        self._applied[partition] = self._applied.get(partition, NONE)._replace(sequence=sequence)
        self._dirty.set()

    async def advance(self, partition: int, position: Position, *, points: int) -> None:
        """Note that facts up to a position are applied, with so many points written."""
        self._applied[partition] = position
        self._unsaved += points
        self._dirty.set()
        if self._unsaved >= self._points:
            await self.save()

    async def save(self) -> None:
        """Flush the index, then keep the positions that were applied before it."""
        if not self._dirty.is_set() or self._index.generation is None:
            return
        self._dirty.clear()
        applied, self._unsaved = dict(self._applied), 0
        try:
            await self._index.flush()
            await self._store.save(self._index.generation, applied)
        except BaseException:
            self._dirty.set()
            raise

    async def keep_saving(self) -> None:
        """Save whenever something is unsaved for `every` seconds, until cancelled. A failure is tried again."""
        while True:
            await self._dirty.wait()
            await asyncio.sleep(self._every)
            try:
                await self.save()
                self.trouble = None
            except Exception as error:
                self.trouble = f"positions cannot be saved: {error}"
                log.error("positions cannot be saved", exc_info=error)
