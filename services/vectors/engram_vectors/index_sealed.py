"""An index whose records are sealed before they are written, and opened when they are fetched.

What is looked for by (vectors, scopes, tags, values of the metadata, a look) lies there as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engram_runtime.vault import Vault
from engram_vectors.filters import TENANT
from engram_vectors.mending import Renewable, ScannedIndex
from engram_vectors.points import RECORD, Changes, Payload, PointId
from engram_vectors.ports import Scanned


class SealedIndex:
    """Implements `ScannedIndex` over another one; what touches no record is the other's own."""

    def __init__(self, index: ScannedIndex, vault: Vault) -> None:
        self._index = index
        self._vault = vault
        self.prepare, self.flush, self.count = index.prepare, index.flush, index.count
        self.search, self.standing = index.search, index.standing
        self.tally, self.narrow = index.tally, index.narrow

    @property
    def model(self) -> str | None:
        """See `VectorIndex.model`."""
        return self._index.model

    @property
    def generation(self) -> str | None:
        """See `VectorIndex.generation`."""
        return self._index.generation

    async def write(self, changes: Changes) -> None:
        """See `VectorIndex.write`."""
        await self._index.write(changes if self._vault.empty else self._sealed(changes))

    async def fetch(self, tenant: str, heads: Sequence[PointId]) -> dict[PointId, str]:
        """See `VectorIndex.fetch`."""
        found = await self._index.fetch(tenant, heads)
        if not self._vault.seals(tenant):
            return found
        return {head: self._vault.open_text(tenant, record) for head, record in found.items()}

    async def scan(self, tenant: str | None, start: PointId | None, limit: int) -> list[Scanned]:
        """See `ScannedIndex.scan`."""
        found = await self._index.scan(tenant, start, limit)
        return found if self._vault.empty else [self._opened(*each) for each in found]

    async def renew(self) -> tuple[int, int]:
        """See `Renewable.renew`; of an index that cannot be written anew, nothing is."""
        return await self._index.renew() if isinstance(self._index, Renewable) else (0, 0)

    def _sealed(self, changes: Changes) -> Changes:
        return replace(
            changes,
            put=[replace(point, payload=self._payload(point.payload)) for point in changes.put],
            relabel=[replace(each, payload=self._payload(each.payload)) for each in changes.relabel],
        )

    def _payload(self, payload: Payload) -> Payload:
        if RECORD not in payload or not self._vault.seals(payload[TENANT]):
            return payload
        return {**payload, RECORD: self._vault.seal_text(payload[TENANT], payload[RECORD])}

    def _opened(self, point: PointId, tenant: str | None, record: str | None) -> Scanned:
        if tenant is None or record is None:
            return point, tenant, record
        return point, tenant, self._vault.open_text(tenant, record)
