"""Which names are a tenant's speakers: asked of the index once, and remembered for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from engram_vectors.filters import said_by
from engram_vectors.ports import VectorIndex

KNOWN_SECONDS, UNKNOWN_SECONDS = 600.0, 2.0
REMEMBERED = 20_000


class Speakers:
    """Answers from memory where it can; a speaker who is new is known after `UNKNOWN_SECONDS` at the latest."""

    def __init__(self, index: VectorIndex, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._index = index
        self._clock = clock
        self._until: OrderedDict[tuple[str, str], tuple[float, bool]] = OrderedDict()

    async def among(self, tenant: str, names: Sequence[str]) -> frozenset[str]:
        """Those of the words that are in the name of somebody who said something."""
        known = await asyncio.gather(*(self._known(tenant, name) for name in names))
        return frozenset(name for name, speaks in zip(names, known, strict=True) if speaks)

    async def _known(self, tenant: str, name: str) -> bool:
        now, key = self._clock(), (tenant, name)
        until, speaks = self._until.get(key, (0.0, False))
        if now < until:
            return speaks
        speaks = await self._index.tally(said_by(tenant, name)) > 0
        self._until[key] = (now + (KNOWN_SECONDS if speaks else UNKNOWN_SECONDS), speaks)
        self._until.move_to_end(key)
        if len(self._until) > REMEMBERED:
            self._until.popitem(last=False)
        return speaks
