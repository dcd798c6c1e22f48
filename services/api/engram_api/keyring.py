"""Keys and tenants as the broker's buckets hold them, watched, so that a change counts within moments."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from engram_contracts.control import KeyRecord, TenantRecord
from engram_contracts.questions import Check
from engram_contracts.topology import KEYS, TENANTS
from engram_runtime.bus import Bus
from engram_runtime.keys import hash_key, key_id
from engram_runtime.mirror import Mirror, ended

_NO_HASH = "0" * 64


class Keyring:
    """Tells whose a key is."""

    def __init__(self, keys: Mirror[KeyRecord], tenants: Mirror[TenantRecord], pepper: bytes) -> None:
        self._keys = keys
        self._tenants = tenants
        self._pepper = pepper

    @property
    def complete(self) -> bool:
        """Whether keys and tenants were read at least once."""
        return self._keys.complete.is_set() and self._tenants.complete.is_set()

    def verify(self, text: str) -> tuple[str, KeyRecord] | None:
        """The id and record of a key that counts now, compared in constant time; else `None`."""
        identity = key_id(text)
        if identity is None:
            return None
        record = self._keys.get(identity)
        expected = record.hash if record else _NO_HASH
        if not hmac.compare_digest(expected, hash_key(text, self._pepper)) or record is None:
            return None
        return (identity, record) if record.usable(datetime.now(UTC)) else None

    def tenant(self, name: str) -> TenantRecord | None:
        """What is known of a tenant."""
        return self._tenants.get(name)

    async def check(self) -> Check:
        """Whether both buckets are being watched now."""
        checks = [await self._keys.check(), await self._tenants.check()]
        troubles = [check.detail for check in checks if check.detail]
        return Check(ok=not troubles, detail="; ".join(troubles) or None)


@contextlib.asynccontextmanager
async def open_keyring(
    bus: Bus, pepper: bytes, *, patience: float = 5.0
) -> AsyncIterator[tuple[Keyring, Callable[[], None]]]:
    """A keyring that follows the broker, and what to call when the connection to it was lost and is back.

    Waits up to `patience` seconds for the first full reading; without it, the keyring is there but not complete.
    """
    keys, tenants = Mirror(bus, KEYS, KeyRecord), Mirror(bus, TENANTS, TenantRecord)
    tasks = [asyncio.create_task(mirror.run()) for mirror in (keys, tenants)]

    def watch_again() -> None:
        keys.watch_again()
        tenants.watch_again()

    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(keys.complete.wait(), tenants.complete.wait())
        yield Keyring(keys, tenants, pepper), watch_again
    finally:
        await ended(*tasks)
