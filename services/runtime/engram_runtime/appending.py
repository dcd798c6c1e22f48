"""Appending to streams: many entries at once, one durable outcome each.

Where every acknowledgement costs an fsync (durability `power`), entries travel as one atomic batch and share it;
whatever a batch cannot do (a repeat in it, one full tenant) is then said entry by entry, which is safe because an
entry's id makes a repeat a no-op.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from uuid import uuid4

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.errors import APIError

from engram_contracts.errors import EngramError, Overloaded, RateLimited, Unavailable
from engram_runtime.bus import Appended, Entry

CORRELATION = "Engram-Correlation"
MAX_BATCH = 500
TRIES = 3
TRY_SECONDS = 2.0
STREAM_IS_FULL = 10077

Outcome = Appended | Exception


class Appender:
    """Publishes entries with acknowledgement. `grouped` makes entries that come together share one fsync."""

    def __init__(self, client: Client, stream: JetStreamContext, *, grouped: bool) -> None:
        self._client = client
        self._stream = stream
        self._grouped = grouped

    async def append(self, entries: Sequence[Entry]) -> list[Outcome]:
        """One outcome per entry, in order. Entries of one stream keep their order."""
        if not self._grouped or len(entries) == 1:
            return await self._one_by_one(entries)
        outcomes: list[Outcome] = [Unavailable("not sent")] * len(entries)
        for places in _by_stream(entries):
            group = [entries[place] for place in places]
            done = await self._batch(group) or await self._one_by_one(group)
            for place, outcome in zip(places, done, strict=True):
                outcomes[place] = outcome
        return outcomes

    async def _batch(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """All entries in one atomic batch, or `None` when the server would not take it whole or did not answer."""
        if len(entries) == 1:
            return None
        batch = uuid4().hex
        try:
            for number, entry in enumerate(entries[:-1], 1):
                await self._client.publish(entry.subject, entry.body, headers=_headers(entry, batch, number))
            last = {**_headers(entries[-1], batch, len(entries)), "Nats-Batch-Commit": "1"}
            ack = await self._stream.publish(entries[-1].subject, entries[-1].body, TRY_SECONDS, headers=last)
        except (NatsError, APIError, TimeoutError):
            return None
        first = ack.seq - len(entries) + 1
        return [Appended(sequence=first + place, duplicate=False) for place in range(len(entries))]

    async def _one_by_one(self, entries: Sequence[Entry]) -> list[Outcome]:
        if len(entries) == 1:
            return [await self._one(entries[0])]
        return list(await asyncio.gather(*(self._one(entry) for entry in entries)))

    async def _one(self, entry: Entry) -> Outcome:
        headers = _headers(entry)
        for attempt in range(1, TRIES + 1):
            try:
                return _appended(await self._stream.publish(entry.subject, entry.body, TRY_SECONDS, headers=headers))
            except APIError as error:
                return refused(error)
            except (NatsError, TimeoutError) as error:
                if attempt == TRIES:
                    return unreachable(error)
                await asyncio.sleep(0.1 * attempt)
        raise AssertionError("the last try answers")


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
    headers.update(entry.headers)
    if batch:
        headers["Nats-Batch-Id"] = batch
        headers["Nats-Batch-Sequence"] = str(number)
    return headers


def _appended(ack: PubAck) -> Appended:
    return Appended(sequence=ack.seq, duplicate=bool(ack.duplicate))


def refused(error: APIError) -> EngramError:
    """The family's error for a stream's refusal. One code serves a full tenant and a full stream; the text tells."""
    if error.err_code == STREAM_IS_FULL:
        if "per subject" in (error.description or ""):
            return RateLimited("too much of this tenant's work is waiting; slow down and try again", retry_after=1.0)
        return Overloaded("the work stream is full; try again later", retry_after=5.0)
    return Unavailable(f"the broker refused the write: {error.description} ({error.err_code})", retry_after=1.0)


def unreachable(error: BaseException) -> EngramError:
    """The family's error for a broker that did not answer."""
    return Unavailable(f"the broker did not acknowledge the write ({type(error).__name__}); try again", retry_after=1.0)
