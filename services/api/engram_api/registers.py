"""Registers of the control plane: records of one kind, read from memory, written to the broker's bucket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from engram_contracts.errors import Conflict, NotFound
from engram_contracts.messages import Message
from engram_contracts.topology import Bucket
from engram_runtime.bus import Bus
from engram_runtime.mirror import Mirror

M = TypeVar("M", bound=Message)

TRIES = 5
SEEN_SECONDS = 1.0
LOOK_SECONDS = 0.002


class Register(Generic[M]):
    """Records of one kind. A write returns once this door knows of it, which no other does much later."""

    def __init__(self, bus: Bus, bucket: Bucket, kind: type[M], mirror: Mirror[M]) -> None:
        self._bucket = bus.bucket(bucket)
        self._kind = kind
        self._mirror = mirror

    def get(self, key: str) -> M | None:
        """The record, as far as this door knows."""
        return self._mirror.get(key)

    def items(self) -> list[tuple[str, M]]:
        """All records, by key."""
        return self._mirror.items()

    async def create(self, key: str, record: M) -> bool:
        """Add a record where there is none; whether there was none."""
        made = await self._bucket.create(key, record.encode())
        if made:
            await self._known(key, record)
        return made

    async def stored(self, key: str) -> M | None:
        """The record as the broker has it now."""
        entry = await self._bucket.entry(key)
        return self._kind.model_validate_json(entry[0]) if entry else None

    async def change(self, key: str, edit: Callable[[M], M]) -> M:
        """Put another record in place of the one there is. Raises `NotFound`, what `edit` raises, and `Conflict`."""
        for _ in range(TRIES):
            entry = await self._bucket.entry(key)
            if entry is None:
                raise NotFound("there is no such record")
            before = self._kind.model_validate_json(entry[0])
            after = edit(before)
            if after == before or await self._bucket.update(key, after.encode(), entry[1]) is not None:
                await self._known(key, after)
                return after
        raise Conflict("others changed it at the same time; try again")

    async def remove(self, key: str) -> None:
        """Take a record out; one that is not there is no error."""
        await self._bucket.delete(key)
        await self._known(key, None)

    async def _known(self, key: str, record: M | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SEEN_SECONDS):
                while self._mirror.get(key) != record:  # noqa: ASYNC110 (rare; an event per key would have to be kept)
                    await asyncio.sleep(LOOK_SECONDS)


def page(items: Iterable[tuple[str, M]], after: str | None, limit: int) -> tuple[Sequence[tuple[str, M]], str | None]:
    """A stretch of a list by key from behind `after`, and where it goes on."""
    rest = [item for item in items if after is None or item[0] > after]
    return rest[:limit], rest[limit - 1][0] if len(rest) > limit else None
