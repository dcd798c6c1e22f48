"""The bucket of erasures: one record each."""

from __future__ import annotations

from datetime import datetime

from engram_contracts.erasing import Erase, ErasureRecord
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import ERASURES
from engram_runtime.bus import Bus


class Erasures:
    """Records of erasures by id."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = bus.bucket(ERASURES)

    async def create(self, record: ErasureRecord) -> bool:
        """Keep a new record; whether there was none under this id."""
        return await self._bucket.create(record.id, record.encode())

    async def find(self, tenant: str, identity: str) -> ErasureRecord | None:
        """The record, where it is of the tenant."""
        found = await self._bucket.get(identity)
        record = ErasureRecord.model_validate_json(found) if found else None
        return record if record and tenant in (SYSTEM, record.tenant) else None

    async def keep(self, record: ErasureRecord) -> None:
        """Replace a record."""
        await self._bucket.put(record.id, record.encode())

    async def all_of(self, tenant: str) -> list[ErasureRecord]:
        """A tenant's records, for `_system` everyone's; newest first."""
        found = []
        async for entry in self._bucket.watch():
            if entry is None:
                break
            if entry[1]:
                found.append(ErasureRecord.model_validate_json(entry[1]))
        wanted = (record for record in found if tenant in (SYSTEM, record.tenant))
        return sorted(wanted, key=lambda record: record.accepted_at, reverse=True)


def queued(command: Erase, now: datetime) -> ErasureRecord:
    """The record of an erasure that nobody works on yet."""
    return ErasureRecord(
        id=command.id,
        tenant=command.tenant,
        user_id=command.user_id,
        actor=command.actor,
        accepted_at=command.accepted_at,
        updated_at=now,
    )
