"""The bus over NATS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from uuid import uuid4

from faststream.nats import NatsBroker
from faststream.security import SASLPlaintext
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NoStreamResponseError,
    NotFoundError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue as NatsBucket

from engram_contracts.errors import Failure, Overloaded, Rejected, Unavailable
from engram_contracts.events import Event
from engram_contracts.messages import Message
from engram_contracts.questions import Pong, Question
from engram_contracts.topology import PING_ALL, Bucket, Consumer, Stream, event_subject, rpc_subject
from engram_runtime import tracing
from engram_runtime.appending import CORRELATION, STREAM_IS_FULL, Appender
from engram_runtime.bus import APPEND_SECONDS, Appended, Archive, Backlog, Entry, KeyValue, Stored
from engram_runtime.context import correlation
from engram_runtime.heeding import heeding
from engram_runtime.lost import LostError, steadily
from engram_runtime.mirror import ended
from engram_runtime.nats_archive import NatsArchive
from engram_runtime.pulse import Pulse, SilentError
from engram_runtime.sealing import sealed
from engram_runtime.service import Answer
from engram_runtime.settings import Durability, NatsSettings
from engram_runtime.tailing import Tail
from engram_runtime.vault import Vault
from engram_runtime.wire import install

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Message)
E = TypeVar("E", bound=Event)
T = TypeVar("T")
FAILED = "Engram-Failed"
RECONNECT_SECONDS = 1.5
CLOSE_SECONDS = 2.0
SILENT = "the broker does not answer; try again"
LOOK_SECONDS = 0.02
ASK_AGAIN_SECONDS = 0.02
MISSING_SECONDS = 6.0
"""So long after a service was first missed it may be one that is started again; later, it is away."""


PAGE = 256
"""So many consumers the server lists at once."""

NOT_THERE = (NoStreamResponseError, ServiceUnavailableError)
"""Nobody took what was sent, so that it can be sent again whatever it is."""


class NatsBus:
    """One process's connection. `broker` is FastStream's, which declares what this process consumes."""

    def __init__(self, broker: NatsBroker, client: Client, *, durability: Durability) -> None:
        self.broker = broker
        self.client = client
        client.request, client.flush = heeding(client.request), heeding(client.flush)  # type: ignore[method-assign]
        self.jetstream: JetStreamContext = client.jetstream(timeout=5.0)
        self.instance = uuid4().hex[:12]
        self.reconnected: list[Callable[[], None]] = []
        self._appender = Appender(client, grouped=durability == "power")
        self.pulse = Pulse(client)
        self.reconnected += [self._appender.reconnected, self._ask_again, self.pulse.reconnected]
        self._missing: dict[str, float] = {}
        self._here: dict[type[Any], Answer] = {}
        self.vault = Vault()
        """Without a key: who only looks after the broker reads and writes no text of tenants."""

    async def open(self) -> None:
        """Be ready to append."""
        install(self.client)
        await self._appender.open()

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached now."""
        return self.client.is_connected

    async def append(self, entries: Sequence[Entry], *, within: float = APPEND_SECONDS) -> list[Appended | Exception]:
        """See `Bus.append`."""
        if not entries:
            return []
        with tracing.publishing(entries[0].subject, len(entries)):
            return await self._appender.append(self.vault.entries(entries), within=within)

    def answer_here(self, answers: Mapping[type[Question[Any]], Answer]) -> None:
        """Have this process's own questions of these kinds answered in it, without the broker."""
        self._here.update(answers)

    async def ask(self, question: Question[R], *, within: float) -> R:
        """See `Bus.ask`."""
        if (here := self._here.get(type(question))) is not None:
            try:
                async with asyncio.timeout(within):
                    return cast(R, await here(question))
            except TimeoutError as error:
                late = f"{question.service} did not answer within {within * 1000:.0f} ms"
                raise Unavailable(late, retry_after=1.0) from error
        with tracing.asking(question.service, question.verb):
            reply = await self._request(rpc_subject(question.service, question.verb), question.encode(), within)
        return question.Reply.model_validate_json(reply)  # type: ignore[return-value]  # Reply is the R of this question

    async def ping(self, service: str, *, within: float) -> Pong:
        """See `Bus.ping`."""
        return Pong.model_validate_json(await self._request(rpc_subject(service, "ping"), b"", within))

    async def ping_all(self, *, within: float) -> list[Pong]:
        """See `Bus.ping_all`."""
        inbox = self.client.new_inbox()
        answers: list[Pong] = []

        async def collect(message: Msg) -> None:
            answers.append(Pong.model_validate_json(message.data))

        subscription = await self.client.subscribe(inbox, cb=collect)
        await self.client.publish(PING_ALL, reply=inbox)
        await asyncio.sleep(within)
        await subscription.unsubscribe()
        return answers

    async def _request(self, subject: str, body: bytes, within: float) -> bytes:
        """Ask; where nobody is there to answer, ask again for a while, as a service that is started again soon is."""
        deadline = time.monotonic() + within
        service = subject.split(".")[2]
        while True:
            if self.pulse.silent or not self.client.is_connected:
                await self._connected_again(min(within, RECONNECT_SECONDS))
            try:
                message = await self._asked(subject, body, max(deadline - time.monotonic(), 0.001))
            except NoRespondersError as error:
                since = self._missing.setdefault(service, time.monotonic())
                if time.monotonic() > min(deadline - ASK_AGAIN_SECONDS, since + MISSING_SECONDS):
                    raise Unavailable(f"{service} is not running", retry_after=1.0) from error
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            except LostError:
                continue
            except (NatsError, TimeoutError) as error:
                raise Unavailable(self._unanswered(service, within, error), retry_after=1.0) from error
            else:
                self._missing.pop(service, None)
                break
        if message.headers and FAILED in message.headers:
            raise Failure.model_validate_json(message.data).error()
        return message.data

    def _unanswered(self, service: str, within: float, error: Exception) -> str:
        if isinstance(error, SilentError):
            return SILENT
        late = f"did not answer within {within * 1000:.0f} ms"
        return f"{service} {'is not running' if service in self._missing else late}"

    def _ask_again(self) -> None:
        """Have every question that waits for its answer asked again, instead of waiting until its time is up."""
        for answer in list(self.client._resp_map.values()):
            if not answer.done():
                answer.set_exception(LostError())

    async def _asked(self, subject: str, body: bytes, within: float) -> Msg:
        told = {CORRELATION: correlation.get(), tracing.TRACEPARENT: tracing.traceparent()}
        headers = {name: value for name, value in told.items() if value}
        return await self.client.request(subject, body, timeout=within, headers=headers or None)

    async def _connected_again(self, within: float) -> None:
        """Return once the broker can be reached; `Unavailable` when that takes longer. A restart takes less.

        One that is connected and does not answer is not waited for.
        """
        if self.pulse.silent:
            raise Unavailable(SILENT, retry_after=1.0)
        deadline = asyncio.get_running_loop().time() + within
        while not self.client.is_connected:
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable("the broker cannot be reached; try again", retry_after=1.0)
            await asyncio.sleep(LOOK_SECONDS)

    async def emit(self, tenant: str, event: Event) -> None:
        """See `Bus.emit`."""
        try:
            await self.client.publish(event_subject(tenant, event.event, event.about), event.encode())
        except NatsError as error:
            raise Unavailable(f"the event cannot be announced: {error!r}", retry_after=1.0) from error

    @contextlib.asynccontextmanager
    async def events(self, tenant: str, kind: type[E], *, about: str | None = None) -> AsyncIterator[AsyncIterator[E]]:
        """See `Bus.events`."""
        subscription = await self.client.subscribe(event_subject(tenant, kind.event, about))

        async def decoded() -> AsyncIterator[E]:
            async for message in subscription.messages:
                yield kind.model_validate_json(message.data)

        try:
            yield decoded()
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    @contextlib.asynccontextmanager
    async def receiving(
        self, pattern: str, queue: str, receive: Callable[[str, bytes], Awaitable[bytes]]
    ) -> AsyncIterator[None]:
        """Answer each message of a pattern, as one of a queue group, with what `receive` makes of it.

        Leaving the context takes no more of them, and finishes what was begun.
        """
        running: set[asyncio.Task[None]] = set()

        async def answer(message: Msg) -> None:
            said = await receive(message.subject, message.data)
            if message.reply:
                with contextlib.suppress(NatsError):
                    await self.client.publish(message.reply, said)

        async def begin(message: Msg) -> None:
            task = asyncio.create_task(answer(message))
            running.add(task)
            task.add_done_callback(running.discard)

        subscription = await self.client.subscribe(pattern, queue=queue, cb=begin)
        try:
            yield
        finally:
            with contextlib.suppress(NatsError):
                await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped
            await asyncio.gather(*running, return_exceptions=True)

    def bucket(self, bucket: Bucket) -> KeyValue:
        """See `Bus.bucket`."""
        return SealedKeyValue(self.jetstream, bucket, self) if bucket.sealed else NatsKeyValue(self.jetstream, bucket)

    async def read(self, stream: Stream, sequence: int) -> Stored | None:
        """See `Bus.read`."""
        try:
            message = await steadily(lambda: self.jetstream.get_msg(stream.name, seq=sequence))
        except NotFoundError:
            return None
        except (APIError, NatsError, TimeoutError) as error:
            raise Unavailable(f"stream {stream.name} cannot be read: {error}", retry_after=1.0) from error
        headers = message.headers or {}
        stored = Stored(
            subject=message.subject or "",
            body=message.data or b"",
            id=headers.get("Nats-Msg-Id"),
            at=message.time or datetime.now(UTC),
            sequence=sequence,
            headers=headers,
            size=len(message.data or b""),
        )
        return (await self._unsealed([stored]))[0]

    async def backlog(self, consumer: Consumer) -> Backlog:
        """See `Bus.backlog`."""
        try:
            info = await steadily(lambda: self.jetstream.consumer_info(consumer.stream.name, consumer.name))
        except (APIError, NatsError, TimeoutError) as error:
            raise Unavailable(f"consumer {consumer.name} cannot be read: {error}", retry_after=1.0) from error
        return _backlog(info)

    async def backlogs(self, stream: Stream) -> dict[str, Backlog]:
        """See `Bus.backlogs`."""
        found: dict[str, Backlog] = {}
        try:
            while page := await self.jetstream.consumers_info(stream.name, offset=len(found)):
                found.update((info.name, _backlog(info)) for info in page)
                if len(page) < PAGE:
                    break
        except (APIError, NatsError, TimeoutError) as error:
            raise Unavailable(f"stream {stream.name} cannot be read: {error}", retry_after=1.0) from error
        return found

    def archive(self, stream: Stream) -> Archive:
        """See `Bus.archive`."""
        return NatsArchive(self.client, self.jetstream, stream, self._unsealed)

    @contextlib.asynccontextmanager
    async def tail(self, stream: Stream, pattern: str, *, after: int) -> AsyncIterator[AsyncIterator[list[Stored]]]:
        """See `Bus.tail`."""
        tail = Tail(self.client, self.jetstream, stream, pattern, after)
        self.reconnected.append(tail.resume)
        try:
            async with contextlib.aclosing(self._unsealed_batches(tail)) as batches:
                yield batches
        finally:
            self.reconnected.remove(tail.resume)

    async def _unsealed_batches(self, tail: Tail) -> AsyncGenerator[list[Stored], None]:
        async with contextlib.aclosing(tail.batches()) as batches:
            async for batch in batches:
                yield await self._unsealed_at_last(batch)

    async def _unsealed_at_last(self, messages: list[Stored]) -> list[Stored]:
        while True:
            try:
                return await self._unsealed(messages)
            except Unavailable:
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _unsealed(self, messages: list[Stored]) -> list[Stored]:
        """The messages, opened where they are sealed; what no key opens is left as it lies there."""
        if not any(sealed(message.body) for message in messages):
            return messages
        await self.vault.learn(message.body for message in messages)
        return [self._opened(message) for message in messages]

    def _opened(self, message: Stored) -> Stored:
        try:
            return replace(message, body=self.vault.open(message.body))
        except Rejected:
            return message


def _backlog(info: ConsumerInfo) -> Backlog:
    in_hand = info.num_ack_pending or 0
    delivered = info.delivered.consumer_seq if info.delivered else 0
    floor = info.ack_floor.stream_seq if info.ack_floor else 0
    return Backlog(
        depth=(info.num_pending or 0) + in_hand,
        settled=delivered - in_hand,
        floor=floor,
        in_hand=in_hand,
        filters=tuple(filter(None, (info.config.filter_subject, *(info.config.filter_subjects or ())))),
    )


class NatsKeyValue:
    """A key-value bucket of JetStream."""

    def __init__(self, jetstream: JetStreamContext, bucket: Bucket) -> None:
        self._jetstream = jetstream
        self._name = bucket.name
        self._opened: NatsBucket | None = None

    async def _open(self) -> NatsBucket:
        if self._opened is None:
            try:
                self._opened = await self._jetstream.key_value(self._name)
            except BucketNotFoundError as error:
                raise Unavailable(f"bucket {self._name!r} does not exist; run `engram provision`") from error
        return self._opened

    async def _steadily(self, act: Callable[[NatsBucket], Awaitable[T]]) -> T:
        """Do what may be done twice; again where the connection was lost meanwhile, and is back."""
        while True:
            try:
                return await self._once(act)
            except LostError:
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _once(self, act: Callable[[NatsBucket], Awaitable[T]]) -> T:
        """Do it; a broker that has just been started may need a moment until it has read its streams."""
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            try:
                return await act(await self._open())
            except NOT_THERE:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(ASK_AGAIN_SECONDS)
            except RuntimeError as error:  # uvloop's word for a connection that was closed a moment ago
                if "closed" not in str(error):
                    raise
                raise LostError from error

    async def get(self, key: str) -> bytes | None:
        """See `KeyValue.get`."""
        try:
            return (await self._steadily(lambda bucket: bucket.get(key))).value
        except KeyNotFoundError:
            return None
        except (APIError, NatsError, TimeoutError) as error:
            raise self._away(error) from error

    async def put(self, key: str, value: bytes) -> None:
        """See `KeyValue.put`."""
        try:
            await self._steadily(lambda bucket: bucket.put(key, value))
        except (APIError, NatsError, TimeoutError) as error:
            raise self._away(error) from error

    async def create(self, key: str, value: bytes) -> bool:
        """See `KeyValue.create`."""
        try:
            await self._once(lambda bucket: bucket.create(key, value))
        except KeyWrongLastSequenceError:
            return False
        except LostError:
            return await self._holds(key, value) or await self.create(key, value) or await self._holds(key, value)
        except (APIError, NatsError, TimeoutError) as error:
            raise self._away(error) from error
        return True

    async def _holds(self, key: str, value: bytes) -> bool:
        """Whether a write whose answer was lost took effect; it may also do so late."""
        found = await NatsKeyValue.entry(self, key)
        return found is not None and found[0] == value

    async def entry(self, key: str) -> tuple[bytes, int] | None:
        """See `KeyValue.entry`."""
        try:
            found = await self._steadily(lambda bucket: bucket.get(key))
        except KeyNotFoundError:
            return None
        except (APIError, NatsError, TimeoutError) as error:
            raise self._away(error) from error
        return (found.value or b"", found.revision or 0)

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """See `KeyValue.update`."""
        try:
            return await self._once(lambda bucket: bucket.update(key, value, last=revision))
        except KeyWrongLastSequenceError:
            return None
        except LostError:
            if not await self._holds(key, value):
                revised = await self.update(key, value, revision)
                if revised is not None or not await self._holds(key, value):
                    return revised
            found = await self.entry(key)
            return found[1] if found else None
        except (APIError, NatsError, TimeoutError) as error:
            raise self._away(error) from error

    async def delete(self, key: str) -> None:
        """See `KeyValue.delete`."""
        try:
            await self._steadily(lambda bucket: bucket.delete(key))
        except KeyNotFoundError:
            return
        except (APIError, NatsError, TimeoutError) as error:
            raise self._away(error) from error

    async def watch(self) -> AsyncIterator[tuple[str, bytes | None] | None]:
        """See `KeyValue.watch`."""
        watcher = await (await self._open()).watchall()
        whole = False
        try:
            async for entry in watcher:
                if entry is not None:
                    yield entry.key, entry.value if entry.operation is None else None
                if not whole and (entry.delta == 0 if entry is not None else await _is_empty(watcher)):
                    whole = True
                    yield None
        finally:
            with contextlib.suppress(NatsError):
                await watcher.stop()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped

    def _away(self, error: BaseException) -> Unavailable | Overloaded:
        if isinstance(error, APIError) and error.err_code == STREAM_IS_FULL:
            return Overloaded(f"bucket {self._name!r} is full; try again later", retry_after=5.0)
        return Unavailable(f"bucket {self._name!r} cannot be reached: {type(error).__name__}", retry_after=1.0)


async def _is_empty(watcher: NatsBucket.KeyWatcher) -> bool:
    """Whether nothing was there to be told; the client also says so where what it was sent has not been read yet."""
    assert watcher._sub is not None
    told = await watcher._sub.consumer_info()
    return not told.num_pending and not told.delivered.consumer_seq


class SealedKeyValue(NatsKeyValue):
    """A bucket whose values are sealed for the tenant that their key begins with, where that has a data key."""

    def __init__(self, jetstream: JetStreamContext, bucket: Bucket, bus: NatsBus) -> None:
        super().__init__(jetstream, bucket)
        self._bus = bus

    async def put(self, key: str, value: bytes) -> None:
        """See `KeyValue.put`."""
        await super().put(key, self._sealed(key, value))

    async def create(self, key: str, value: bytes) -> bool:
        """See `KeyValue.create`."""
        return await super().create(key, self._sealed(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int | None:
        """See `KeyValue.update`."""
        return await super().update(key, self._sealed(key, value), revision)

    async def get(self, key: str) -> bytes | None:
        """See `KeyValue.get`."""
        value = await super().get(key)
        return None if value is None else await self._bus.vault.opened(value)

    async def entry(self, key: str) -> tuple[bytes, int] | None:
        """See `KeyValue.entry`."""
        found = await super().entry(key)
        return None if found is None else (await self._bus.vault.opened(found[0]), found[1])

    async def watch(self) -> AsyncIterator[tuple[str, bytes | None] | None]:
        """See `KeyValue.watch`."""
        async for found in super().watch():
            if found is None or found[1] is None:
                yield found
            else:
                yield found[0], await self._bus.vault.opened(found[1])

    def _sealed(self, key: str, value: bytes) -> bytes:
        return self._bus.vault.seal(key.partition(".")[0], value)


SAID_EVERY = 1.0
"""Seconds between two lines that say the same."""


@contextlib.asynccontextmanager
async def open_bus(settings: NatsSettings, *, name: str, durability: Durability = "power") -> AsyncIterator[NatsBus]:
    """A connected bus. It reconnects for ever; until the first connection it waits, and says so once a second.

    Consumers are declared on `bus.broker` by the host; closing drains what is still to be sent.
    """
    calls = _Calls(settings.url)
    broker = NatsBroker(
        settings.url,
        name=name,
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds; a float works, the annotation says int
        connect_timeout=2,
        ping_interval=5,
        max_outstanding_pings=2,
        pending_size=64 * 1024 * 1024,
        reconnected_cb=calls.reconnected,
        disconnected_cb=calls.disconnected,
        error_cb=calls.failed,
        apply_types=False,
        logger=None,
        graceful_timeout=15.0,
        **_login(settings),
    )
    client = await _connect(broker, settings.url)
    bus = NatsBus(broker, client, durability=durability)
    calls.opened(bus)
    await bus.open()
    feeling = asyncio.create_task(bus.pulse.run())
    try:
        yield bus
    finally:
        feeling.cancel()
        calls.bus = None
        with contextlib.suppress(NatsError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.flush()
        with contextlib.suppress(NatsError):
            await broker.stop()
        await _closed(client)


async def _closed(client: Client) -> None:
    """Have the client end, also while it looks for its broker: it would go on for ever, and the process with it."""
    looking = client._reconnection_task
    if not client.is_connected:  # there is nobody to whom it could send what it still has
        client._pending, client._pending_data_size = [], 0
    with contextlib.suppress(NatsError, TimeoutError, OSError, RuntimeError):  # the last is uvloop's for a closed one
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()
    if looking is not None:
        await ended(looking)


class _Calls:
    """What the client tells of its connection; `bus` is there once there is one, and until it is closed."""

    def __init__(self, url: str) -> None:
        self.bus: NatsBus | None = None
        self._url = url
        self._waiting = True
        self._said = -SAID_EVERY

    def opened(self, bus: NatsBus) -> None:
        self._waiting, self.bus = False, bus

    async def reconnected(self) -> None:
        log.info("reconnected", extra={"broker": self._url})
        for callback in self.bus.reconnected if self.bus else ():
            callback()

    async def disconnected(self) -> None:
        if self.bus:
            log.warning("disconnected", extra={"broker": self._url})

    async def failed(self, error: Exception) -> None:
        if self._waiting and time.monotonic() - self._said >= SAID_EVERY:
            self._said = time.monotonic()
            log.warning("waiting for the broker", extra={"broker": self._url, "error": repr(error)})
        else:
            log.debug("connection error", extra={"error": repr(error)})


async def _connect(broker: NatsBroker, url: str) -> Client:
    while True:
        try:
            return await broker.connect()
        except (OSError, NatsError, TimeoutError) as error:
            log.warning("waiting for the broker", extra={"broker": url, "error": repr(error)})
            await asyncio.sleep(0.3)


def _login(settings: NatsSettings) -> dict[str, Any]:
    login: dict[str, Any] = {}
    if settings.user and settings.password:
        login["security"] = SASLPlaintext(
            username=settings.user,
            password=settings.password.get_secret_value(),
            use_ssl=settings.url.startswith("tls"),
        )
    if settings.credentials:
        login["user_credentials"] = str(settings.credentials.expanduser())
    return login
