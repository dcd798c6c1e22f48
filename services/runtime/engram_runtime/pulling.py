"""The pull loop: overlapped pull requests, micro-batches, a clean hand-back on stop.

FastStream declares the consumer; only its poll loop is replaced. The next messages are requested while the current
batch is handled, batches that are not full keep a distance, and a silent server is noticed by missing heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.subscriber.config import NatsSubscriberConfig, NatsSubscriberSpecificationConfig
from faststream.nats.subscriber.specification import NatsSubscriberSpecification
from faststream.nats.subscriber.usecases import BatchPullStreamSubscriber
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig

from engram_contracts.topology import Consumer
from engram_runtime.wire import leave, listen

log = logging.getLogger(__name__)

NAK = b"-NAK"
EXPIRES = 60.0
HEARTBEAT = 5.0

Batch = list[Msg]
Handle = Callable[[Batch], Awaitable[None]]
Prepare = Callable[[], Awaitable[None]]


class Pace:
    """When batches that are not full may begin: those of all consumers that share it together, `linger` apart.

    A lone message goes at once. A trickle over many lanes wakes the process once for all of them and not for each,
    which is most of what a lone message costs.
    """

    def __init__(self, linger: float) -> None:
        self._linger = linger
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next beginning, if there was one lately."""
        await asyncio.sleep(max(self._next - time.monotonic(), 0.0))

    def begin(self) -> None:
        """A batch begins."""
        self._next = max(self._next, time.monotonic() + self._linger)


class Puller:
    """Pulls one durable consumer's messages and hands them on in batches.

    At most `concurrency` batches are handled at once. A batch that is not full waits for its turn at the `pace`, by
    default one of its own. `prepare` runs before the first pull and again after `restart`, with nothing of the old
    session left in hand.
    """

    def __init__(self, client: Client, consumer: Consumer, prepare: Prepare | None = None) -> None:
        self.consumer = consumer
        self._client = client
        self._prepare = prepare
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream.name}.{consumer.name}"
        self._ready: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._outstanding = 0
        self._heard = 0.0
        self.pace = Pace(consumer.linger)
        self._stopping = False
        self._restarting = False
        self._subscription: Subscription | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(consumer.concurrency)

    @property
    def waiting(self) -> Sequence[Msg]:
        """Messages that have arrived and are in nobody's hands yet."""
        return tuple(self._ready)

    async def run(self, handle: Handle) -> None:
        """Pull until `stop`. Errors of a session end it, and the next begins after a breath."""
        while not self._stopping:
            try:
                await self._session(handle)
            except (NatsError, OSError, TimeoutError) as error:
                log.warning("pull interrupted", extra={"consumer": self.consumer.name, "error": repr(error)})
                await asyncio.sleep(0.3)

    async def flush(self) -> None:
        """Return once the server has what was answered, or cannot be reached."""
        with contextlib.suppress(NatsError, TimeoutError):
            await self._client.flush(timeout=2)

    def restart(self) -> None:
        """Begin a new session: forget what is in hand unhandled, prepare, and pull afresh."""
        self._restarting = True
        self._arrived.set()

    def resume(self) -> None:
        """The connection is back: requests made before are gone, so make them again."""
        if self._prepare is not None:
            self.restart()
        self._outstanding = 0
        self._arrived.set()

    async def stop(self, *, within: float) -> None:
        """Stop pulling, give prefetched messages back at once, and wait for what is being handled."""
        self._stopping = True
        self._arrived.set()
        await self._hand_back()
        if self._running:
            await asyncio.wait(self._running, timeout=within)

    async def _session(self, handle: Handle) -> None:
        self._restarting = False
        self._outstanding = 0
        self._ready.clear()
        if self._prepare is not None:
            await self._prepare()
        inbox = self._client.new_inbox()
        self._subscription = await listen(self._client, inbox, self._receive)
        self._heard = time.monotonic()
        try:
            while not (self._stopping or self._restarting):
                await self._step(inbox, handle)
        finally:
            if not self._stopping:
                with contextlib.suppress(NatsError):
                    await leave(self._client, self._subscription)

    async def _step(self, inbox: str, handle: Handle) -> None:
        await self._request(inbox)
        if not self._ready and not await self._wait():
            return
        if len(self._ready) < self.consumer.batch:
            await self.pace.turn()
        await self._slots.acquire()
        if self._stopping or self._restarting or not self._ready:
            self._slots.release()
            return
        self.pace.begin()
        batch = [self._ready.popleft() for _ in range(min(len(self._ready), self.consumer.batch))]
        await self._request(inbox)
        task = asyncio.create_task(self._handle(handle, batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _handle(self, handle: Handle, batch: Batch) -> None:
        try:
            await handle(batch)
        except Exception:
            log.exception("batch failed", extra={"consumer": self.consumer.name})
        finally:
            self._slots.release()

    async def _request(self, inbox: str) -> None:
        """Keep one batch on its way while one is in hand."""
        wanted = 2 * self.consumer.batch - len(self._ready) - self._outstanding
        if wanted < self.consumer.batch:
            return
        self._outstanding += wanted
        request = {"batch": wanted, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
        await self._client.publish(self._subject, json.dumps(request).encode(), reply=inbox)

    async def _wait(self) -> bool:
        """Whether messages arrived; silence past two heartbeats means the requests are lost."""
        self._arrived.clear()
        if self._stopping or self._restarting:
            return False
        try:
            async with asyncio.timeout(HEARTBEAT):
                await self._arrived.wait()
        except TimeoutError:
            if time.monotonic() - self._heard > 2 * HEARTBEAT:
                self.resume()
        return bool(self._ready)

    def _receive(self, message: Msg) -> None:
        self._heard = time.monotonic()
        if message.reply:
            self._outstanding = max(self._outstanding - 1, 0)
            self._ready.append(message)
            self._arrived.set()
        else:
            self._status(message)

    def _status(self, message: Msg) -> None:
        """A pull request ended, or the server says it is alive."""
        headers: dict[str, str] = message.headers or {}
        status = headers.get("Status")
        if status == "100":
            return
        if status == "408":
            unserved = int(headers.get("Nats-Pending-Messages", self._outstanding))
            self._outstanding = max(self._outstanding - unserved, 0)
        else:
            reason = headers.get("Description", "no responders" if status == "503" else "")
            log.warning("pull refused", extra={"consumer": self.consumer.name, "status": status, "reason": reason})
            asyncio.get_running_loop().call_later(0.3, self.resume)
        self._arrived.set()

    async def _hand_back(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(NatsError, TimeoutError):
                await self._subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped
        while self._ready:
            await self._ready.popleft().respond(NAK)


class MicroBatchSubscriber(BatchPullStreamSubscriber):
    """FastStream's batch subscriber with `Puller` in place of its poll loop. The durable already exists.

    Batches go straight to `handle`: FastStream's way from batch to handler costs 110 us, much for a lone message.
    """

    puller: Puller
    handle: Handle

    async def _create_subscription(self) -> None:
        self.add_task(self.puller.run, (self.handle,))

    async def stop(self) -> None:
        """Hand back, finish, then stop as FastStream does."""
        await self.puller.stop(within=self._outer_config.graceful_timeout or 15.0)
        await super().stop()


def subscribe(broker: NatsBroker, puller: Puller, handle: Handle) -> MicroBatchSubscriber:
    """Declare on the broker that `handle` works off the puller's consumer, at the pace of others of the same linger."""
    consumer = puller.consumer
    others = (each.puller for each in broker.subscribers if isinstance(each, MicroBatchSubscriber))
    puller.pace = next((other.pace for other in others if other.consumer.linger == consumer.linger), puller.pace)
    outer: Any = broker.config
    calls: CallsCollection[Any] = CallsCollection()
    described = NatsSubscriberSpecificationConfig(
        subject="",
        queue=None,
        filter_subjects=list(consumer.filters),
        title_=consumer.name,
        description_=None,
        include_in_schema=True,
    )
    subscriber = MicroBatchSubscriber(
        NatsSubscriberConfig(
            subject="",
            sub_config=ConsumerConfig(durable_name=consumer.name, filter_subjects=list(consumer.filters)),
            extra_options={},
            no_reply=True,
            _outer_config=outer,
            _ack_policy=AckPolicy.MANUAL,
        ),
        NatsSubscriberSpecification(_outer_config=outer, calls=calls, specification_config=described),
        calls,
        stream=JStream(consumer.stream.name, declare=False),
        pull_sub=PullSub(batch_size=consumer.batch, batch=True),
    )
    subscriber.puller, subscriber.handle = puller, handle
    Registrator.subscriber(broker, subscriber, persistent=True)
    subscriber(handle)
    return subscriber
