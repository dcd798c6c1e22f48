"""Looking through a JetStream stream by sequence, and taking messages out of it.

Messages with their bodies come by batched direct get (ADR-31), which leaves nothing behind on the server. Heads come
by a short-lived consumer, the only way to be spared the bodies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from engram_contracts.errors import Unavailable
from engram_contracts.topology import MiB, Stream
from engram_runtime.bus import Extent, Stored
from engram_runtime.delivery import Receipt
from engram_runtime.lost import steadily

ANSWER_SECONDS = 5.0
SILENCE_SECONDS = 2.0
READ_BYTES = 8 * MiB
"""What one read may bring beside its first message."""

IS_GONE = 10043
ENDED = ("204", "404")
FOREIGN = (APIError, NatsError, TimeoutError)

Take = Callable[[Msg], Stored]
Unsealed = Callable[[list[Stored]], Awaitable[list[Stored]]]


class NatsArchive:
    """Fulfils `engram_runtime.bus.Archive`."""

    def __init__(self, client: Client, jetstream: JetStreamContext, stream: Stream, unsealed: Unsealed) -> None:
        self._unsealed = unsealed
        self._client = client
        self._jetstream = jetstream
        self._stream = stream.name

    async def extent(self) -> Extent:
        """See `Archive.extent`."""
        try:
            state = (await steadily(lambda: self._jetstream.stream_info(self._stream))).state
        except FOREIGN as error:
            raise self._away(error) from error
        return Extent(first=state.first_seq, last=state.last_seq, messages=state.messages)

    async def subjects(self, pattern: str) -> dict[str, int]:
        """See `Archive.subjects`."""
        try:
            asked = partial(self._jetstream.stream_info, self._stream, subjects_filter=pattern)
            state = (await steadily(asked)).state
        except FOREIGN as error:
            raise self._away(error) from error
        return dict(state.subjects or {})

    async def read(self, start: int, *, pattern: str, limit: int) -> list[Stored]:
        """See `Archive.read`."""
        wanted = {"seq": max(start, 1), "next_by_subj": pattern, "batch": limit, "max_bytes": READ_BYTES}
        try:
            found = await self._ask(f"$JS.API.DIRECT.GET.{self._stream}", wanted, _direct, until=math.inf)
        except FOREIGN as error:
            raise self._away(error) from error
        return await self._unsealed(found)

    async def heads(self, start: int, last: int, *, pattern: str) -> list[Stored]:
        """See `Archive.heads`."""
        wanted = {"batch": last - start + 1, "no_wait": True}
        try:
            async with self._passing(start, pattern) as name:
                return await self._ask(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}", wanted, _head, until=last)
        except FOREIGN as error:
            raise self._away(error) from error

    async def newest(self, subject: str) -> Stored | None:
        """See `Archive.newest`. The leader is asked, who knows of every message that was acknowledged."""
        try:
            message = await self._jetstream.get_last_msg(self._stream, subject)
        except NotFoundError:
            return None
        except FOREIGN as error:
            raise self._away(error) from error
        body = message.data or b""
        stored = Stored(
            subject=message.subject or subject,
            body=body,
            id=(message.headers or {}).get("Nats-Msg-Id"),
            at=message.time or datetime.now(UTC),
            sequence=message.seq or 0,
            headers=message.headers or {},
            size=len(body),
        )
        return (await self._unsealed([stored]))[0]

    async def delete(self, sequence: int, *, erase: bool = False) -> bool:
        """See `Archive.delete`."""
        return self._deleted(sequence, await self._told("STREAM.MSG.DELETE", {"seq": sequence, "no_erase": not erase}))

    async def purge(self, pattern: str) -> int:
        """See `Archive.purge`."""
        said = await self._told("STREAM.PURGE", {"filter": pattern})
        if problem := said.get("error"):
            raise Unavailable(f"{self._stream} cannot be purged: {problem.get('description')}", retry_after=1.0)
        return int(said.get("purged", 0))

    async def _told(self, verb: str, what: dict[str, Any]) -> dict[str, Any]:
        """What the server says to a request about the stream."""
        request = json.dumps(what).encode()
        try:
            answer = await self._client.request(f"$JS.API.{verb}.{self._stream}", request, timeout=ANSWER_SECONDS)
        except FOREIGN as error:
            raise self._away(error) from error
        said: dict[str, Any] = json.loads(answer.data)
        return said

    def _deleted(self, sequence: int, said: dict[str, Any]) -> bool:
        problem = said.get("error", {})
        if problem and problem.get("err_code") != IS_GONE:
            raise Unavailable(
                f"{self._stream} does not give up message {sequence}: {problem.get('description')}", retry_after=1.0
            )
        return not problem

    async def _ask(self, subject: str, wanted: dict[str, Any], take: Take, *, until: float) -> list[Stored]:
        """Ask for many messages; those up to sequence `until` that come before the server says it has no more."""
        inbox = self._client.new_inbox()
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._client.subscribe(inbox, cb=arrived.put)
        try:
            await self._client.publish(subject, json.dumps(wanted).encode(), reply=inbox)
            return await _collected(arrived, take, wanted["batch"], until)
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    @contextlib.asynccontextmanager
    async def _passing(self, start: int, pattern: str) -> AsyncIterator[str]:
        """A consumer of heads from a sequence on, in the server's memory, gone with the context or soon after."""
        config = ConsumerConfig(
            name=f"passing-{uuid4().hex[:12]}",
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(start, 1),
            ack_policy=AckPolicy.NONE,
            filter_subject=pattern,
            headers_only=True,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=10.0,
        )
        created = await self._jetstream.add_consumer(self._stream, config)
        try:
            yield created.name
        finally:
            with contextlib.suppress(*FOREIGN):
                await self._jetstream.delete_consumer(self._stream, created.name)

    def _away(self, error: BaseException) -> Unavailable:
        return Unavailable(f"stream {self._stream} cannot be read: {error!r}", retry_after=1.0)


async def _collected(arrived: asyncio.Queue[Msg], take: Take, most: int, until: float) -> list[Stored]:
    found: list[Stored] = []
    while len(found) < most:
        async with asyncio.timeout(SILENCE_SECONDS):
            message = await arrived.get()
        status = (message.headers or {}).get("Status")
        if status in ENDED:
            break
        if status is not None:
            raise NatsError(f"status {status}: {(message.headers or {}).get('Description')}")
        stored = take(message)
        if stored.sequence > until:
            break
        found.append(stored)
    return found


def _direct(message: Msg) -> Stored:
    """A message as a direct get answers it; what the server says of it stands among its headers."""
    headers = dict(message.headers or {})
    subject, sequence, at = (headers.pop(f"Nats-{name}", "") for name in ("Subject", "Sequence", "Time-Stamp"))
    for name in ("Nats-Stream", "Nats-Num-Pending", "Nats-Last-Sequence"):
        headers.pop(name, None)
    return Stored(
        subject=subject,
        body=message.data,
        id=headers.get("Nats-Msg-Id"),
        at=_moment(at),
        sequence=int(sequence),
        headers=headers,
        size=len(message.data),
    )


def _head(message: Msg) -> Stored:
    """A message as a consumer without bodies delivers it."""
    headers = dict(message.headers or {})
    receipt = Receipt.of(message)
    return Stored(
        subject=message.subject,
        body=b"",
        id=headers.get("Nats-Msg-Id"),
        at=receipt.at,
        sequence=receipt.sequence,
        size=int(headers.pop("Nats-Msg-Size", 0)),
        headers=headers,
    )


def _moment(text: str) -> datetime:
    """A time of the server, which has nanoseconds, where Python has microseconds."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole).replace(microsecond=int(f"{fraction:0<6.6}"), tzinfo=UTC)
