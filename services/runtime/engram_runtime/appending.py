"""Appending to streams: many entries at once, one durable outcome each.

Where every acknowledgement costs an fsync (durability `power`), entries travel as one atomic batch and share it;
whatever a batch cannot do (a repeat in it, one full tenant) is then said entry by entry, which is safe because an
entry's id makes a repeat a no-op.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from engram_contracts.errors import EngramError, Overloaded, RateLimited, Rejected, Unavailable
from engram_contracts.topology import MOST_BYTES
from engram_runtime.bus import APPEND_SECONDS, Appended, Entry
from engram_runtime.tracing import TRACEPARENT, onward
from engram_runtime.wire import listen, send

CORRELATION = "Engram-Correlation"
MAX_BATCH = 500
IN_A_ROW = 50
"""So many are sent before whatever else waits in this process has its turn: some 2 ms."""
TRY_SECONDS = 2.0
PAUSE_SECONDS = 0.1
STREAM_IS_FULL = 10077
MESSAGE_IS_TOO_LARGE = 10054

Outcome = Appended | Exception


class Appender:
    """Publishes entries with acknowledgement. `grouped` makes entries that come together share one fsync.

    All acknowledgements of a process come back through one subscription, which costs half of a request each.
    """

    def __init__(self, client: Client, *, grouped: bool) -> None:
        self._client = client
        self._grouped = grouped
        self._inbox = client.new_inbox()
        self._waiting: dict[str, tuple[_Acks, int]] = {}
        self._tokens = itertools.count()

    async def open(self) -> None:
        """Listen for acknowledgements; once, before the first append."""
        await listen(self._client, f"{self._inbox}.*", self._acknowledged)

    def reconnected(self) -> None:
        """The connection is back: what was sent before may be lost, so it is sent again without waiting for it."""
        for acks in {id(acks): acks for acks, _ in self._waiting.values()}.values():
            acks.give_up()

    async def append(self, entries: Sequence[Entry], *, within: float = APPEND_SECONDS) -> list[Outcome]:
        """One outcome per entry, in order, after at most `within` seconds. Entries of one stream keep their order."""
        if not entries:
            return []
        deadline = asyncio.get_running_loop().time() + within
        if not self._grouped or len(entries) == 1:
            return await self._one_by_one(entries, deadline)
        outcomes: list[Outcome] = [Unavailable("not sent")] * len(entries)
        for places in _by_stream(entries):
            group = [entries[place] for place in places]
            done = await self._batch(group, deadline) or await self._one_by_one(group, deadline)
            for place, outcome in zip(places, done, strict=True):
                outcomes[place] = outcome
        return outcomes

    async def _batch(self, entries: Sequence[Entry], deadline: float) -> list[Outcome] | None:
        """All entries in one atomic batch, or `None` when the server would not take it whole or did not answer."""
        if len(entries) == 1:
            return None
        batch = uuid4().hex
        try:
            for number, entry in enumerate(entries[:-1], 1):
                if not number % IN_A_ROW:
                    await asyncio.sleep(0)
                await self._client.publish(entry.subject, entry.body, headers=_headers(entry, batch, number))
            last = {**_headers(entries[-1], batch, len(entries)), "Nats-Batch-Commit": "1"}
            ack = await self._published([(entries[-1], last)], deadline)
        except NatsError:
            return None
        committed = _outcome(ack[0])
        if not isinstance(committed, Appended):
            return None
        first = committed.sequence - len(entries) + 1
        return [Appended(sequence=first + place, duplicate=False) for place in range(len(entries))]

    async def _one_by_one(self, entries: Sequence[Entry], deadline: float) -> list[Outcome]:
        """Each on its own; what is not acknowledged in time is sent again under the same id."""
        outcomes: dict[int, Outcome] = {}
        left = list(range(len(entries)))
        loop = asyncio.get_running_loop()
        while left:
            try:
                acks = await self._published([(entries[place], _headers(entries[place])) for place in left], deadline)
            except NatsError:
                acks = [None] * len(left)
            outcomes.update((place, _outcome(ack)) for place, ack in zip(left, acks, strict=True))
            left = [place for place, ack in zip(left, acks, strict=True) if ack is None]
            if loop.time() + PAUSE_SECONDS >= deadline:
                break
            if left:
                await asyncio.sleep(PAUSE_SECONDS)
        return [outcomes[place] for place in range(len(entries))]

    async def _published(self, entries: Sequence[tuple[Entry, dict[str, str]]], deadline: float) -> list[bytes | None]:
        """Publish all, then wait for all; `None` where no acknowledgement came in time or no stream listens."""
        acks = _Acks(len(entries))
        tokens = [f"{self._inbox}.{next(self._tokens)}" for _ in entries]
        try:
            for place, (token, (entry, headers)) in enumerate(zip(tokens, entries, strict=True)):
                if place and not place % IN_A_ROW:
                    await asyncio.sleep(0)
                self._waiting[token] = (acks, place)
                await send(self._client, entry.subject, entry.body, reply=token, headers=headers)
            await acks.all(max(min(TRY_SECONDS, deadline - asyncio.get_running_loop().time()), 0.0))
            return acks.told
        finally:
            for token in tokens:
                self._waiting.pop(token, None)

    def _acknowledged(self, message: Msg) -> None:
        waiting = self._waiting.pop(message.subject, None)
        if waiting is not None:
            acks, place = waiting
            acks.tell(place, message.data)


class _Acks:
    """What came back for entries that were published together; `told` has a place for each."""

    def __init__(self, count: int) -> None:
        self.told: list[bytes | None] = [None] * count
        self._left = count
        self._done = asyncio.Event()

    def tell(self, place: int, ack: bytes) -> None:
        """Note one; an empty one says that no stream listens."""
        self.told[place] = ack or None
        self._left -= 1
        if not self._left:
            self._done.set()

    def give_up(self) -> None:
        """Wait for no more of them."""
        self._done.set()

    async def all(self, within: float) -> None:
        """Return when all are there, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._done.wait()


def _by_stream(entries: Sequence[Entry]) -> list[list[int]]:
    """Places of the entries, grouped by stream (the second subject token) and cut to what a batch may hold."""
    streams: dict[str, list[int]] = defaultdict(list)
    for place, entry in enumerate(entries):
        streams[entry.subject.split(".", 2)[1]].append(place)
    return [
        places[start : start + MAX_BATCH] for places in streams.values() for start in range(0, len(places), MAX_BATCH)
    ]


def _headers(entry: Entry, batch: str | None = None, number: int = 0) -> dict[str, str]:
    headers = {"Nats-Msg-Id": entry.id}
    if entry.correlation:
        headers[CORRELATION] = entry.correlation
    if entry.trace:
        headers[TRACEPARENT] = onward(entry.trace) or entry.trace
    headers.update(entry.headers)
    if batch:
        headers["Nats-Batch-Id"] = batch
        headers["Nats-Batch-Sequence"] = str(number)
    return headers


def _outcome(ack: bytes | None) -> Outcome:
    """What an acknowledgement says; none at all is a broker that cannot be reached, or a stream that is not there."""
    if not ack:
        return Unavailable("the broker did not acknowledge the write; try again", retry_after=1.0)
    said = json.loads(ack.decode())  # of bytes, it would find out the encoding first
    if "error" in said:
        return refused(said["error"])
    return Appended(sequence=said["seq"], duplicate=said.get("duplicate", False))


def refused(error: Mapping[str, Any]) -> EngramError:
    """The family's error for a stream's refusal. One code serves a full tenant and a full stream; the text tells."""
    code, words = error.get("err_code"), error.get("description", "")
    if code == STREAM_IS_FULL and "per subject" in words:
        return RateLimited("too much of this tenant's work is waiting; slow down and try again", retry_after=1.0)
    if code == STREAM_IS_FULL:
        return Overloaded("the work stream is full; try again later", retry_after=5.0)
    if code == MESSAGE_IS_TOO_LARGE:
        return Rejected(f"this message is too large for the stream, which takes {MOST_BYTES:,} bytes")
    return Unavailable(f"the broker refused the write: {words} ({code})", retry_after=1.0)
