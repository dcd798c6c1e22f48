"""Which names are a tenant's speakers: asked of the index once, and remembered for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from engram_vectors.filters import SAID, TENANT, TERMS, as_token, names_said, said_by
from engram_vectors.points import Changes
from engram_vectors.ports import VectorIndex

KNOWN_SECONDS, UNKNOWN_SECONDS = 600.0, 2.0
REMEMBERED = 20_000


class Speakers:
    """Answers from memory where it can.

    A new speaker is known at once where this process writes what they say (`heard`), elsewhere after
    `UNKNOWN_SECONDS` at the latest. `alone` says that nobody else writes to the index, so that who is unknown stays so
    until then.
    """

    def __init__(self, index: VectorIndex, *, alone: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._index = index
        self._clock = clock
        self._unknown_seconds = KNOWN_SECONDS if alone else UNKNOWN_SECONDS
        self._until: OrderedDict[tuple[str, str], tuple[float, bool]] = OrderedDict()

    async def among(self, tenant: str, names: Sequence[str]) -> frozenset[str]:
        """Those of the words that are in the name of somebody who said something."""
        return frozenset([name for name in names if await self._known(tenant, name)])

    def heard(self, changes: Changes) -> None:
        """Take note of who said what was written."""
        until = self._clock() + KNOWN_SECONDS
        for payload in (each for each in changes.payloads() if SAID in each.get(TERMS, "")):
            for name in names_said(payload[TERMS]):
                self._keep((payload[TENANT], name), (until, True))

    def forget(self) -> None:
        """Know nobody any more, because some may be gone."""
        self._until.clear()

    async def _known(self, tenant: str, name: str) -> bool:
        now, key = self._clock(), (tenant, as_token(name))
        until, speaks = self._until.get(key, (0.0, False))
        if now < until:
            return speaks
        speaks = await self._index.tally(said_by(tenant, name)) > 0
        self._keep(key, (now + (KNOWN_SECONDS if speaks else self._unknown_seconds), speaks))
        return speaks

    def _keep(self, key: tuple[str, str], known: tuple[float, bool]) -> None:
        self._until[key] = known
        self._until.move_to_end(key)
        if len(self._until) > REMEMBERED:
            self._until.popitem(last=False)
