"""The dead letters with their bodies: found, read in order, taken out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from engram_contracts.errors import NotFound
from engram_contracts.events import JobTrouble
from engram_contracts.recovery import SYSTEM, DeadFilter, Selection
from engram_contracts.topology import DEAD, JOBS, dead_pattern
from engram_recovery.letters import Buried, matches
from engram_recovery.marks import job_key
from engram_recovery.progress import upcoming
from engram_runtime.bus import Bus, Extent

AT_ONCE = 100
NAMED_AT_ONCE = 32
"""Dead letters that are read by their sequences come whole and together, and one may be megabytes."""

Lot = list[tuple[int, Buried | None]]
"""Chosen sequences in order, with what lies there for the one who chose."""

Mark = Callable[[JobTrouble | None, Buried], JobTrouble | None]
"""The new trouble record of a buried job, from the one there is; `None` leaves it as it is."""


class Graveyard:
    """The DEAD stream, and the trouble records of the jobs that lie in it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._archive = bus.archive(DEAD)
        self._jobs = bus.bucket(JOBS)

    async def extent(self) -> Extent:
        """Where it begins and ends now."""
        return await self._archive.extent()

    async def find(self, tenant: str, sequences: Sequence[int]) -> list[Buried | None]:
        """The dead letters at these sequences; `None` where there is none, or one of another tenant."""
        return await asyncio.gather(*(self._find(tenant, sequence) for sequence in sequences))

    async def get(self, tenant: str, sequence: int) -> Buried:
        """The dead letter at a sequence; `NotFound` where there is none, or one of another tenant."""
        buried = await self._find(tenant, sequence)
        if buried is None:
            raise NotFound(f"there is no dead letter {sequence}")
        return buried

    async def require(self, tenant: str, sequences: Sequence[int]) -> None:
        """Raise `NotFound` unless each of them is there for this tenant."""
        after = 0
        while some := upcoming(sequences, after, NAMED_AT_ONCE):
            found = await self.find(tenant, some)
            lacking = [sequence for sequence, buried in zip(some, found, strict=True) if buried is None]
            if lacking:
                raise NotFound(f"there is no dead letter {lacking[0]}", field="selection.sequences")
            after = some[-1]

    async def lot(
        self, tenant: str, selection: Selection, *, after: int, until: int, limit: int
    ) -> tuple[Lot, int | None]:
        """The next dead letters of a selection, at most `limit`, and the last sequence that is dealt with by them.

        That is `None` when nothing up to sequence `until` is left. The lot may be empty before.
        """
        if selection.sequences:
            return await self._named(tenant, selection.sequences, after, until, min(limit, NAMED_AT_ONCE))
        wanted = selection.filter or DeadFilter()
        pattern = dead_pattern(wanted.tenant or tenant, wanted.stage or "*")
        found = [Buried.of(stored) for stored in await self._archive.read(after + 1, pattern=pattern, limit=limit)]
        within = [buried for buried in found if buried.letter.sequence <= until]
        if not within:
            return [], None
        chosen = [(buried.letter.sequence, buried) for buried in within if matches(buried.letter, wanted)]
        return list(chosen), within[-1].letter.sequence

    async def _named(
        self, tenant: str, sequences: Sequence[int], after: int, until: int, limit: int
    ) -> tuple[Lot, int | None]:
        some = upcoming(sequences, after, limit)
        if not some:
            return [], None
        found = await self.find(tenant, some)
        lot = [(n, buried if n <= until else None) for n, buried in zip(some, found, strict=True)]
        return lot, some[-1]

    async def take_out(self, buried: Sequence[Buried], mark: Mark) -> int:
        """Delete dead letters, after their jobs' records say why; how many were there. A repeat deletes nothing."""
        deleted = 0
        for start in range(0, len(buried), AT_ONCE):
            lot = buried[start : start + AT_ONCE]
            deleted += sum(await asyncio.gather(*(self._take_out(one, mark) for one in lot)))
        return deleted

    async def _find(self, tenant: str, sequence: int) -> Buried | None:
        stored = await self._bus.read(DEAD, sequence)
        buried = Buried.of(stored) if stored else None
        return buried if buried and tenant in (SYSTEM, buried.letter.tenant) else None

    async def _take_out(self, buried: Buried, mark: Mark) -> bool:
        await self._note(buried, mark)
        return await self._archive.delete(buried.letter.sequence)

    async def _note(self, buried: Buried, mark: Mark) -> None:
        """Change the job's record, unless a worker writes it at the same time: then that is the newer word."""
        key = job_key(buried)
        if key is None:
            return
        value, revision = await self._jobs.entry(key) or (None, 0)
        changed = mark(JobTrouble.model_validate_json(value) if value else None, buried)
        if changed is not None:
            await self._jobs.update(key, changed.encode(), revision)
