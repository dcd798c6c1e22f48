"""A key-value bucket's records in memory, watched, so that a change counts within moments."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from pydantic import ValidationError

from engram_contracts.messages import Message
from engram_contracts.questions import Check
from engram_contracts.topology import Bucket
from engram_runtime.bus import Bus

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Message)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
CANCEL_SECONDS = 0.2
PATIENCE_SECONDS = 5.0
"""So long a starting process waits for the records; it must not stand still for want of a bucket."""


class Mirror(Generic[M]):
    """A bucket's records in memory. While it cannot be watched, what was last known stays.

    `changed` is told the key of every record that is there or changes, once `get` answers it.
    """

    def __init__(
        self, bus: Bus, bucket: Bucket, kind: type[M], *, changed: Callable[[str], None] = lambda _: None
    ) -> None:
        self._changed = changed
        self._bus = bus
        self._bucket = bucket
        self._kind = kind
        self._records: dict[str, M] = {}
        self._again = asyncio.Event()
        self._trouble: str | None = "not read yet"
        self.complete = asyncio.Event()

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def get(self, key: str) -> M | None:
        """The record, or `None`."""
        return self._records.get(key)

    def items(self) -> list[tuple[str, M]]:
        """All records, by key."""
        return sorted(self._records.items())

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
                await ended(watching, again)
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
                    for key in fresh:
                        self._changed(key)
                else:
                    self._apply(fresh, *change)
                    if self._records is fresh:
                        self._changed(change[0])
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


@contextlib.asynccontextmanager
async def mirrored(bus: Bus, bucket: Bucket, kind: type[M]) -> AsyncIterator[Mirror[M]]:
    """A bucket's records, followed while the context is open, and read as a whole when it is entered, if it can be."""
    mirror = Mirror(bus, bucket, kind)
    reconnected: list[Callable[[], None]] = getattr(bus, "reconnected", [])
    reconnected.append(mirror.watch_again)
    running = asyncio.create_task(mirror.run())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await mirror.complete.wait()
        yield mirror
    finally:
        reconnected.remove(mirror.watch_again)
        await ended(running)


async def ended(*tasks: asyncio.Task[object]) -> None:
    """Return once they have ended. A cancellation may get lost in the client library, so it is repeated."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_SECONDS)
