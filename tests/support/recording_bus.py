"""A bus without a broker: keeps what was appended and announced, answers as told. For tests of handlers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from engram_contracts.errors import Unavailable
from engram_contracts.events import Event
from engram_contracts.messages import Message
from engram_contracts.questions import Pong, Question
from engram_contracts.topology import Bucket, Consumer, Stream
from engram_runtime.bus import Appended, Archive, Backlog, Entry, Stored

R = TypeVar("R", bound=Message)
E = TypeVar("E", bound=Event)


@dataclass
class MemoryBucket:
    """A key-value bucket in memory."""

    entries: dict[str, bytes] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    watchers: list[asyncio.Queue[tuple[str, bytes | None]]] = field(default_factory=list)

    async def get(self, key: str) -> bytes | None:
        return self.entries.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self.entries[key] = value
        self._changed(key, value)

    async def create(self, key: str, value: bytes) -> bool:
        if key in self.entries:
            return False
        await self.put(key, value)
        return True

    async def delete(self, key: str) -> None:
        if self.entries.pop(key, None) is not None:
            self._changed(key, None)

    async def watch(self) -> AsyncIterator[tuple[str, bytes | None] | None]:
        changes: asyncio.Queue[tuple[str, bytes | None]] = asyncio.Queue()
        self.watchers.append(changes)
        for key, value in list(self.entries.items()):
            yield key, value
        yield None
        while True:
            yield await changes.get()

    async def entry(self, key: str) -> tuple[bytes, int] | None:
        value = self.entries.get(key)
        return None if value is None else (value, self.revisions.get(key, 0))

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        if self.revisions.get(key, 0) != revision:
            return None
        await self.put(key, value)
        return self.revisions[key]

    def _changed(self, key: str, value: bytes | None) -> None:
        self.revisions[key] = self.revisions.get(key, 0) + 1
        for watcher in self.watchers:
            watcher.put_nowait((key, value))


@dataclass
class RecordingBus:
    """Fulfils `engram_runtime.bus.Bus`.

    `refuse` decides which entries are refused, and with what error. `answers` holds, by type of question, what
    answers it; without one a question is `Unavailable`. An entry whose id was appended before is a duplicate.
    """

    refuse: Callable[[Entry], Exception | None] = lambda _: None
    answers: dict[type[Question[Any]], Callable[[Any], Awaitable[Message]]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    appends: list[int] = field(default_factory=list)
    """How many entries each call of `append` brought."""
    emitted: list[tuple[str, Event]] = field(default_factory=list)
    asked: list[Question[Any]] = field(default_factory=list)
    buckets: dict[str, MemoryBucket] = field(default_factory=dict)
    listeners: list[tuple[str, type[Event], asyncio.Queue[Any]]] = field(default_factory=list)

    async def append(self, entries: Sequence[Entry], *, within: float = 6.0) -> list[Appended | Exception]:
        self.appends.append(len(entries))
        return [self.refuse(entry) or self._append(entry) for entry in entries]

    async def ask(self, question: Question[R], *, within: float) -> R:
        self.asked.append(question)
        answer = self.answers.get(type(question))
        if answer is None:
            raise Unavailable(f"{question.service} is not running")
        async with asyncio.timeout(within):
            return await answer(question)  # type: ignore[return-value]  # the test answers with the question's Reply

    async def ping(self, service: str, *, within: float) -> Pong:
        raise Unavailable(f"{service} is not running")

    async def emit(self, tenant: str, event: Event) -> None:
        self.emitted.append((tenant, event))
        for listening, kind, queue in self.listeners:
            if listening == tenant and isinstance(event, kind):
                queue.put_nowait(event)

    @contextlib.asynccontextmanager
    async def events(self, tenant: str, kind: type[E], *, about: str | None = None) -> AsyncIterator[AsyncIterator[E]]:
        queue: asyncio.Queue[E] = asyncio.Queue()
        listener = (tenant, kind, queue)
        self.listeners.append(listener)

        async def heard() -> AsyncIterator[E]:
            while True:
                event = await queue.get()
                if event.about == about:
                    yield event

        try:
            yield heard()
        finally:
            self.listeners.remove(listener)

    def bucket(self, bucket: Bucket) -> MemoryBucket:
        return self.buckets.setdefault(bucket.name, MemoryBucket())

    async def read(self, stream: Stream, sequence: int) -> Stored | None:
        if not 0 < sequence <= len(self.entries):
            return None
        entry = self.entries[sequence - 1]
        return Stored(subject=entry.subject, body=entry.body, id=entry.id, at=datetime.now(UTC))

    async def backlog(self, consumer: Consumer) -> Backlog:
        raise Unavailable("a recording has no backlog")

    async def backlogs(self, stream: Stream) -> dict[str, Backlog]:
        raise Unavailable(f"a recording has no backlogs of {stream.name}")

    async def ping_all(self, *, within: float) -> list[Pong]:
        return []

    def archive(self, stream: Stream) -> Archive:
        raise NotImplementedError(f"looking through {stream.name} needs a real broker")

    def tail(
        self, stream: Stream, pattern: str, *, after: int
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[list[Stored]]]:
        raise NotImplementedError(f"following {stream.name} needs a real broker")

    def _append(self, entry: Entry) -> Appended:
        known = self.sequences.get(entry.id)
        if known is not None:
            return Appended(sequence=known, duplicate=True)
        self.entries.append(entry)
        self.sequences[entry.id] = len(self.entries)
        return Appended(sequence=len(self.entries), duplicate=False)
