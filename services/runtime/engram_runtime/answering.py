"""Answering questions: one task per question, bounded, with the error family as the answer to a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from faststream.middlewares import AckPolicy
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from pydantic import ValidationError

from engram_contracts.errors import EngramError, Failure, Overloaded, Rejected
from engram_contracts.questions import Question
from engram_contracts.topology import rpc_subject
from engram_runtime.appending import CORRELATION
from engram_runtime.context import correlation
from engram_runtime.nats_bus import FAILED
from engram_runtime.service import Answer
from engram_runtime.telemetry import ANSWERING
from engram_runtime.tracing import TRACEPARENT, answering

log = logging.getLogger(__name__)

MOST_AT_ONCE = 256


class Answerer:
    """Answers one service's questions; past `MOST_AT_ONCE` under way, further ones are refused at once."""

    def __init__(self, client: Client, service: str) -> None:
        self._client = client
        self._service = service
        self._running: set[asyncio.Task[None]] = set()
        self._subscribers: list[Any] = []

    def declare(self, broker: NatsBroker, kind: type[Question[Any]], answer: Answer) -> None:
        """Take questions of this kind, together with all other instances of the service."""

        async def take(message: Msg) -> None:
            self._begin(message, kind, answer)

        subscriber = broker.subscriber(
            rpc_subject(self._service, kind.verb),
            queue=self._service,
            no_reply=True,
            ack_policy=AckPolicy.MANUAL,
            title=f"{self._service}.{kind.verb}",
        )
        self._subscribers.append(subscriber)
        subscriber(take)
        subscriber.consume = take  # type: ignore[assignment]  # FastStream's way to a handler costs 130 us a question

    async def finish(self, *, within: float) -> None:
        """Take no more questions, and answer those that came; the server gives what follows to another instance."""
        subscriptions = [each.subscription for each in self._subscribers if each.subscription is not None]
        await asyncio.gather(*(_drained(subscription) for subscription in subscriptions))
        for subscriber in self._subscribers:
            subscriber.subscription = None
        if self._running:
            await asyncio.wait(self._running, timeout=within)
        with contextlib.suppress(NatsError, TimeoutError):
            await self._client.flush()

    def _begin(self, message: Msg, kind: type[Question[Any]], answer: Answer) -> None:
        if len(self._running) >= MOST_AT_ONCE:
            answer = _refuse
        task = asyncio.create_task(self._answer(message, kind, answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, message: Msg, kind: type[Question[Any]], answer: Answer) -> None:
        headers = message.headers or {}
        correlation.set(headers.get(CORRELATION))
        step = answering(self._service, kind.verb, headers.get(TRACEPARENT))
        try:
            with ANSWERING.labels(self._service, kind.verb).time(), step:
                reply = await answer(_decode(kind, message.data))
        except Exception as error:
            if not isinstance(error, EngramError):
                log.exception("answer failed", extra={"service": self._service, "verb": kind.verb})
            await self._client.publish(message.reply, Failure.of(error).encode(), headers={FAILED: "1"})
        else:
            await self._client.publish(message.reply, reply.encode())


async def _drained(subscription: Subscription) -> None:
    with contextlib.suppress(NatsError, TimeoutError):
        await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped


def _decode(kind: type[Question[Any]], body: bytes) -> Question[Any]:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        raise Rejected(f"{kind.__name__}.{where}: {problem['msg']}", field=where) from error


async def _refuse(_: Any) -> Any:
    raise Overloaded("too many questions at once; try again", retry_after=0.5)
