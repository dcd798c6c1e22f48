"""What is said while an answer is made, for who listens at a door."""

from __future__ import annotations

import contextlib

from engram_contracts.errors import Unavailable
from engram_contracts.events import Said
from engram_contracts.ids import new_id
from engram_runtime.bus import Bus


class Voice:
    """One try to answer a command, piece by piece. A broker that is away is no failure: the answer itself is kept."""

    def __init__(self, bus: Bus, tenant: str, command: str) -> None:
        self._bus = bus
        self._tenant = tenant
        self._command = command
        self.stream = new_id()
        self.pieces = 0
        """So many were said."""

    async def say(self, text: str) -> None:
        """Announce a piece."""
        await self._emit(text, last=False)

    async def end(self) -> None:
        """Nothing more is said; of a try that said nothing there is no end to tell."""
        if self.pieces:
            await self._emit("", last=True)

    async def _emit(self, text: str, *, last: bool) -> None:
        said = Said(command=self._command, stream=self.stream, number=self.pieces, text=text, last=last)
        self.pieces += 1
        with contextlib.suppress(Unavailable):
            await self._bus.emit(self._tenant, said)
