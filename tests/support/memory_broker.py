"""A bus without a broker whose dead letters can be looked through, and whose user can be killed at any of its calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from engram_contracts.topology import DEAD, Bucket, Stream
from engram_runtime.bus import Appended, Entry, Extent, Stored
from support.recording_bus import MemoryBucket, RecordingBus


class Killed(BaseException):
    """The process ended here."""


@dataclass
class Fuse:
    """Burns down by one before and one after each call; at zero the user is killed, and calls work again."""

    left: int | None = None

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Killed


@dataclass
class DeadStream:
    """Fulfils `engram_runtime.bus.Archive`."""

    fuse: Fuse
    letters: dict[int, Stored] = field(default_factory=dict)
    last: int = 0

    def bury(self, stored: Stored) -> int:
        self.last += 1
        self.letters[self.last] = replace(stored, sequence=self.last, size=len(stored.body))
        return self.last

    async def extent(self) -> Extent:
        return Extent(first=min(self.letters, default=self.last + 1), last=self.last, messages=len(self.letters))

    async def subjects(self, pattern: str) -> dict[str, int]:
        raise NotImplementedError

    async def read(self, start: int, *, pattern: str, limit: int) -> list[Stored]:
        return [one for n, one in sorted(self.letters.items()) if n >= start and fnmatchcase(one.subject, pattern)][
            :limit
        ]

    async def heads(self, start: int, last: int, *, pattern: str) -> list[Stored]:
        return [one for one in await self.read(start, pattern=pattern, limit=self.last) if one.sequence <= last]

    async def delete(self, sequence: int) -> bool:
        self.fuse.burn()
        gone = self.letters.pop(sequence, None)
        self.fuse.burn()
        return gone is not None


class FusedBucket(MemoryBucket):
    """A bucket whose writes burn the fuse."""

    fuse: Fuse

    async def put(self, key: str, value: bytes) -> None:
        self.fuse.burn()
        self.set(key, value)
        self.fuse.burn()

    def set(self, key: str, value: bytes) -> None:
        """Set a value as somebody else does, whom the fuse does not concern."""
        self.entries[key] = value
        self._changed(key, value)


@dataclass
class MemoryBroker(RecordingBus):
    """`taken` is how much of what was appended the workers have taken; a taken message cannot be read any more.

    `appended` hears of every new message at once.
    """

    fuse: Fuse = field(default_factory=Fuse)
    dead: DeadStream = field(init=False)
    taken: int = 0
    appended: Callable[[Entry], None] = lambda _: None

    def __post_init__(self) -> None:
        self.dead = DeadStream(self.fuse)

    def archive(self, stream: Stream) -> DeadStream:
        assert stream is DEAD
        return self.dead

    def bucket(self, bucket: Bucket) -> FusedBucket:
        found = self.buckets.setdefault(bucket.name, FusedBucket())
        assert isinstance(found, FusedBucket)
        found.fuse = self.fuse
        return found

    async def append(self, entries: Sequence[Entry], *, within: float = 6.0) -> list[Appended | Exception]:
        self.fuse.burn()
        known = len(self.entries)
        outcomes = await super().append(entries)
        for entry in self.entries[known:]:
            self.appended(entry)
        self.fuse.burn()
        return outcomes

    async def read(self, stream: Stream, sequence: int) -> Stored | None:
        if stream is DEAD:
            return self.dead.letters.get(sequence)
        if not self.taken < sequence <= len(self.entries):
            return None
        entry = self.entries[sequence - 1]
        return Stored(subject=entry.subject, body=entry.body, id=entry.id, at=datetime.now(UTC), headers=entry.headers)
