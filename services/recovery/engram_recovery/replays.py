"""The bucket of replays: one record each, and a flag beside it that asks for its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from engram_contracts.errors import Internal
from engram_contracts.recovery import SYSTEM, ReplayRecord, ReplayState, ReplayStatus
from engram_contracts.topology import REPLAYS
from engram_recovery import progress
from engram_runtime.bus import Bus

CANCEL = ".cancel"
LOOK_SECONDS = 0.4
"""How often a run looks whether it is to end."""


class Replays:
    """Records of replays by tenant and id."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = bus.bucket(REPLAYS)

    async def create(self, record: ReplayRecord) -> bool:
        """Keep a new record; whether there was none under this id."""
        return await self._bucket.create(_key(record), record.encode())

    async def find(self, tenant: str, identity: str) -> tuple[ReplayRecord, int] | None:
        """A record with its revision, or `None`."""
        found = await self._bucket.entry(f"{tenant}.{identity}")
        return (ReplayRecord.model_validate_json(found[0]), found[1]) if found else None

    async def update(self, record: ReplayRecord, revision: int) -> int:
        """Replace a record that still has this revision; its new one.

        Raises `Internal` when another run took the replay over, which then goes on with it.
        """
        updated = await self._bucket.update(_key(record), record.encode(), revision)
        if updated is None:
            raise Internal(f"replay {record.id} was taken over by another run")
        return updated

    async def status(self, record: ReplayRecord) -> ReplayStatus:
        """What may be told of a replay now."""
        cancelling = not record.ended and await self.is_cancelled(record.tenant, record.id)
        return record.status().model_copy(update={"cancelling": cancelling})

    async def cancel(self, record: ReplayRecord) -> None:
        """Ask for its end. A repeat changes nothing."""
        await self._bucket.put(_key(record) + CANCEL, b"1")

    async def is_cancelled(self, tenant: str, identity: str) -> bool:
        """Whether its end was asked for."""
        return await self._bucket.get(f"{tenant}.{identity}{CANCEL}") is not None

    async def all_of(self, tenant: str) -> list[ReplayRecord]:
        """A tenant's records, for `_system` everyone's; newest first."""
        found = []
        async for entry in self._bucket.watch():
            if entry is None:
                break
            key, value = entry
            if value and not key.endswith(CANCEL) and (tenant == SYSTEM or key.startswith(f"{tenant}.")):
                found.append(ReplayRecord.model_validate_json(value))
        return sorted(found, key=lambda record: record.accepted_at, reverse=True)


class Held:
    """A replay in the hands of one run. Every write is refused once another run took it over."""

    def __init__(self, replays: Replays, record: ReplayRecord, revision: int, now: Callable[[], datetime]) -> None:
        self._replays = replays
        self._revision = revision
        self._now = now
        self._written = self.began = time.monotonic()
        self._looked = -LOOK_SECONDS
        self._cancelled = False
        self.record = record

    @property
    def quiet_seconds(self) -> float:
        """How long ago the record was written."""
        return time.monotonic() - self._written

    async def write(self, record: ReplayRecord) -> None:
        """Keep the record, with the time that the run took since the last one."""
        seconds = record.seconds + self.quiet_seconds
        self._written = time.monotonic()
        record = record.model_copy(update={"updated_at": self._now(), "seconds": round(seconds, 3)})
        self._revision = await self._replays.update(record, self._revision)
        self.record = record

    async def advance(self, results: list[progress.Sent], *, cursor: int) -> None:
        """Write down what became of a lot."""
        seconds = (self._now() - (self.record.started_at or self._now())).total_seconds()
        await self.write(progress.advanced(self.record, results, cursor=cursor, seconds=seconds))

    async def is_cancelled(self) -> bool:
        """Whether its end was asked for, as far as the last look tells."""
        if not self._cancelled and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._cancelled = await self._replays.is_cancelled(self.record.tenant, self.record.id)
        return self._cancelled

    async def beat(self, waiting: str | None) -> None:
        """Say that the run is alive, and what it waits for."""
        await self.write(self.record.model_copy(update={"waiting": waiting}))

    async def release(self) -> None:
        """Leave it to the next run."""
        await self.write(self.record.model_copy(update={"runner": None}))

    async def end(self, state: ReplayState, reason: str | None = None) -> None:
        """Write down that it is over."""
        await self.write(progress.ended(self.record, state, now=self._now(), reason=reason))


def _key(record: ReplayRecord) -> str:
    return f"{record.tenant}.{record.id}"
