"""One process's connection to the broker: append to streams, ask questions, announce events, read buckets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeVar

from engram_contracts.events import Event
from engram_contracts.messages import Message
from engram_contracts.questions import Pong, Question
from engram_contracts.topology import Bucket, Consumer, Stream

APPEND_SECONDS = 6.0
"""So long an append is tried unless told otherwise."""

R = TypeVar("R", bound=Message)
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One message to append to a stream. `id` makes a repeat within the stream's window a no-op.

    `trace` is the traceparent of what it follows from. `owner` is the tenant whose text it holds, where the subject
    does not say so: it is sealed with that tenant's data key, if there is one.
    """

    subject: str
    body: bytes
    id: str
    correlation: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    trace: str | None = None
    owner: str | None = None

    def with_body(self, body: bytes) -> Entry:
        """The same with another body."""
        return replace(self, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """Where an entry lies. A repeat answers the first entry's sequence and `duplicate`."""

    sequence: int
    duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A message as a stream holds it, opened where it was sealed and the data key is known.

    `size` is the body's in bytes as it lies there, also where the body itself was not asked for.
    """

    subject: str
    body: bytes
    id: str | None
    at: datetime
    sequence: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The first and last sequence of a stream, and how many messages it holds between them."""

    first: int
    last: int
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many messages a consumer has before it, in hand or waiting, and how many deliveries it settled so far.

    Up to the sequence `floor` of its stream, everything that was its to handle is settled. `in_hand` of the depth were
    delivered, and are not settled. `filters` are the subjects it is given.
    """

    depth: int
    settled: int
    floor: int = 0
    in_hand: int = 0
    filters: tuple[str, ...] = ()


class KeyValue(Protocol):
    """A key-value bucket."""

    async def get(self, key: str) -> bytes | None:
        """The value, or `None`."""

    async def put(self, key: str, value: bytes) -> None:
        """Set a value."""

    async def create(self, key: str, value: bytes) -> bool:
        """Set a value where there is none; whether it was this call that did."""

    async def entry(self, key: str) -> tuple[bytes, int] | None:
        """The value with its revision, or `None`."""

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Set a value where the key still has this revision (0: never had one).

        The new revision, or `None` where another was faster.
        """

    async def delete(self, key: str) -> None:
        """Remove a key; one that is not there is no error."""

    def watch(self) -> AsyncIterator[tuple[str, bytes | None] | None]:
        """Every entry, then `None` once, then each change as it happens (a removed key has the value `None`)."""


class Archive(Protocol):
    """A stream that is looked through by sequence and thinned out by hand. Raises `Unavailable` when it is away."""

    async def extent(self) -> Extent:
        """Where it begins and ends now."""

    async def subjects(self, pattern: str) -> dict[str, int]:
        """How many messages it holds of each subject that fits."""

    async def read(self, start: int, *, pattern: str, limit: int) -> list[Stored]:
        """Messages from a sequence on, in order; fewer than `limit` where they are large, none only at the end."""

    async def heads(self, start: int, last: int, *, pattern: str) -> list[Stored]:
        """The messages from one sequence to another, both inclusive, in order and without their bodies."""

    async def newest(self, subject: str) -> Stored | None:
        """The newest message of a subject, or `None`."""

    async def delete(self, sequence: int, *, erase: bool = False) -> bool:
        """Take one message out; whether it was there. With `erase` its bytes on the disk are written over."""

    async def purge(self, pattern: str) -> int:
        """Take out every message of the subjects that fit; how many."""


class Bus(Protocol):
    """What a service may do with the broker."""

    async def append(self, entries: Sequence[Entry], *, within: float = APPEND_SECONDS) -> list[Appended | Exception]:
        """Append durably, in order; one outcome per entry. Errors are of the family (RateLimited, Overloaded, ...).

        What is not acknowledged `within` so many seconds is `Unavailable`; it may still be there later.
        """

    async def ask(self, question: Question[R], *, within: float) -> R:
        """Ask and wait. Raises the answerer's error, or `Unavailable` when nobody answers `within` so many seconds."""

    async def ping(self, service: str, *, within: float) -> Pong:
        """How one instance of a service does. Raises `Unavailable` when none answers."""

    async def emit(self, tenant: str, event: Event) -> None:
        """Announce to whoever listens now. Raises `Unavailable` where it cannot even be handed over."""

    def events(
        self, tenant: str, kind: type[E], *, about: str | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[E]]:
        """Listen to a tenant's live events of one kind; listening has begun when the context is entered.

        Kinds that are about one command alone are listened to by its id, `about`.
        """

    def bucket(self, bucket: Bucket) -> KeyValue:
        """A key-value bucket."""

    async def read(self, stream: Stream, sequence: int) -> Stored | None:
        """The message at a sequence of a stream, or `None` where it is gone."""

    async def backlog(self, consumer: Consumer) -> Backlog:
        """What a consumer has before it. Raises `Unavailable` when that cannot be told."""

    async def backlogs(self, stream: Stream) -> dict[str, Backlog]:
        """What each consumer of a stream has before it, by name. Raises `Unavailable` when that cannot be told."""

    async def ping_all(self, *, within: float) -> list[Pong]:
        """Every instance of every service that answers `within` so many seconds."""

    def archive(self, stream: Stream) -> Archive:
        """A stream, to be looked through."""

    def tail(
        self, stream: Stream, pattern: str, *, after: int
    ) -> AbstractAsyncContextManager[AsyncIterator[list[Stored]]]:
        """Messages of a stream as they come, from behind a sequence: in order, each once, whatever breaks meanwhile."""
