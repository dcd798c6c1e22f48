"""The end of a stream as it grows: messages of some subjects, strictly in order, from a sequence on.

By a short-lived consumer in the server's memory. What it delivers must be without a gap, as its own count tells; where
one is seen, where the server is silent, or when the connection was lost, the next begins behind the last message that
was handed on. So nothing is left out and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from uuid import uuid4

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from engram_contracts.topology import Stream
from engram_runtime.bus import Stored
from engram_runtime.delivery import Receipt
from engram_runtime.wire import leave, listen

log = logging.getLogger(__name__)

TOGETHER = 128
EXPIRES = 30.0
HEARTBEAT = 5.0
KEPT_SECONDS = 60.0
"""So long the server keeps a consumer that nobody asks for messages."""
AGAIN_SECONDS = 0.1
EXPIRED, ALIVE = "408", "100"
FOREIGN = (APIError, NatsError, OSError, TimeoutError)


class Tail:
    """Follows a stream from behind a sequence, for ever. `resume` says that the connection was lost and is back."""

    def __init__(self, client: Client, jetstream: JetStreamContext, stream: Stream, pattern: str, after: int) -> None:
        self._client = client
        self._jetstream = jetstream
        self._stream = stream.name
        self._pattern = pattern
        self._position = after
        self._arrived: deque[Msg] = deque()
        self._told = asyncio.Event()
        self._heard = 0.0
        self._wanted = 0
        self._expected = 1
        self._broken = False

    def resume(self) -> None:
        """Begin anew behind the last message that was handed on."""
        self._broken = True
        self._told.set()

    async def batches(self) -> AsyncGenerator[list[Stored], None]:
        """Messages in order, as many together as have come meanwhile."""
        while True:
            try:
                async with self._session() as ask:
                    while not self._broken:
                        batch = await self._next(ask)
                        if batch:
                            yield batch
            except FOREIGN as error:
                log.debug("tail interrupted", extra={"stream": self._stream, "error": repr(error)})
            await asyncio.sleep(AGAIN_SECONDS)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[_Ask]:
        self._broken, self._wanted, self._expected = False, 0, 1
        self._arrived.clear()
        name = f"live-{uuid4().hex[:12]}"
        inbox = self._client.new_inbox()
        subscription = await listen(self._client, inbox, self._receive)
        try:
            await self._jetstream.add_consumer(self._stream, self._config(name))
            self._heard = time.monotonic()
            yield _Ask(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{name}", inbox)
        finally:
            with contextlib.suppress(*FOREIGN):
                await leave(self._client, subscription)
                if not self._broken:
                    await self._jetstream.delete_consumer(self._stream, name)

    def _config(self, name: str) -> ConsumerConfig:
        return ConsumerConfig(
            name=name,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._position + 1,
            ack_policy=AckPolicy.NONE,
            filter_subject=self._pattern,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=KEPT_SECONDS,
        )

    async def _next(self, ask: _Ask) -> list[Stored]:
        """What has come; nothing where the session has to begin anew, or only time has passed."""
        if not self._wanted:
            self._wanted = TOGETHER
            await self._client.publish(ask.subject, ask.body, reply=ask.inbox)
        self._told.clear()
        if not self._arrived:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    await self._told.wait()
        if time.monotonic() - self._heard > 2 * HEARTBEAT:
            self._broken = True
        return self._taken()

    def _taken(self) -> list[Stored]:
        taken: list[Stored] = []
        while self._arrived and not self._broken:
            message = self._arrived.popleft()
            receipt = Receipt.of(message)
            if receipt.consumer_sequence != self._expected:
                self._broken = True
                break
            self._expected += 1
            self._position = receipt.sequence
            taken.append(_stored(message, receipt))
        return taken

    def _receive(self, message: Msg) -> None:
        self._heard = time.monotonic()
        status = (message.headers or {}).get("Status")
        if message.reply:
            self._wanted = max(self._wanted - 1, 0)
            self._arrived.append(message)
        elif status == EXPIRED:
            self._wanted = 0
        elif status != ALIVE:
            self._broken = True
        if status != ALIVE:
            self._told.set()


class _Ask:
    """A request for messages of one consumer."""

    body = json.dumps(
        {"batch": TOGETHER, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
    ).encode()

    def __init__(self, subject: str, inbox: str) -> None:
        self.subject = subject
        self.inbox = inbox


def _stored(message: Msg, receipt: Receipt) -> Stored:
    headers = dict(message.headers or {})
    return Stored(
        subject=message.subject,
        body=message.data,
        id=headers.get("Nats-Msg-Id"),
        at=receipt.at,
        sequence=receipt.sequence,
        headers=headers,
        size=len(message.data),
    )
