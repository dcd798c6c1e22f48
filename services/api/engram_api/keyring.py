"""Keys and tenants as the broker's buckets hold them, watched, so that a change counts within moments."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from pydantic import ValidationError

from engram_contracts.messages import Message
from engram_contracts.questions import Check
from engram_contracts.topology import KEYS, TENANTS, Bucket
from engram_runtime.bus import Bus
from engram_runtime.keys import KeyRecord, TenantRecord, hash_key, key_id

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Message)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
CANCEL_SECONDS = 0.2
_NO_HASH = "0" * 64


class Mirror(Generic[M]):
    """A bucket's records in memory. While it cannot be watched, what was last known stays."""

    def __init__(self, bus: Bus, bucket: Bucket, kind: type[M]) -> None:
        self._bus = bus
        self._bucket = bucket
        self._kind = kind
        self._records: dict[str, M] = {}
        self._again = asyncio.Event()
        self._trouble: str | None = "not read yet"
        self.complete = asyncio.Event()

    def get(self, key: str) -> M | None:
        """The record, or `None`."""
        return self._records.get(key)

    async def check(self) -> Check:
        """Whether the bucket is being watched now."""
        return Check(ok=self._trouble is None, detail=self._trouble)

    def watch_again(self) -> None:
        """Begin anew: changes may have been missed."""
        self._again.set()

    async def run(self) -> None:
        """Watch for ever."""
        pause = FIRST_PAUSE
        while True:
            self._again.clear()
            watching = asyncio.create_task(self._watch())
            again = asyncio.create_task(self._again.wait())
            try:
                await asyncio.wait((watching, again), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _ended(watching, again)
            if self._again.is_set():
                pause = FIRST_PAUSE
                continue
            await asyncio.sleep(pause)
            pause = FIRST_PAUSE if self._trouble is None else min(2 * pause, LONGEST_PAUSE)

    async def _watch(self) -> None:
        """Read the whole bucket anew, put it in place of what was known, then apply each change."""
        try:
            fresh: dict[str, M] = {}
            async for change in self._bus.bucket(self._bucket).watch():
                if change is None:
                    self._records, self._trouble = fresh, None
                    self.complete.set()
                else:
                    self._apply(fresh, *change)
        except Exception as error:
            self._trouble = f"cannot be watched: {type(error).__name__}: {error}"
            log.warning("watch lost", extra={"bucket": self._bucket.name, "error": repr(error)})

    def _apply(self, records: dict[str, M], key: str, value: bytes | None) -> None:
        records.pop(key, None)
        if value is not None:
            try:
                records[key] = self._kind.model_validate_json(value)
            except ValidationError:
                log.error("record not readable", extra={"bucket": self._bucket.name, "key": key})


async def _ended(*tasks: asyncio.Task[object]) -> None:
    """Return once they have ended. A cancellation may get lost in the client library, so it is repeated."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_SECONDS)


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
        await _ended(*tasks)
