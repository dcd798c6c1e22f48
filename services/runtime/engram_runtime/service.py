"""What a service is to the host: the questions it answers, the work it takes, the log it follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from engram_contracts.commands import Command
from engram_contracts.errors import Conflict
from engram_contracts.facts import Fact
from engram_contracts.messages import Message
from engram_contracts.questions import Check, Question
from engram_contracts.topology import Consumer

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Generic[M]):
    """One message of a stream in a handler's hands.

    `sequence` and `at` are the stream's; `event` is the last subject token that names the message's type (the op of
    a command, the event of a fact). `trace` is the traceparent it came with. Which try it is, the delivery policy
    knows and handlers need not.
    """

    tenant: str
    event: str
    message: M
    sequence: int
    at: datetime
    correlation: str | None
    trace: str | None = None


class OutOfTurn(Conflict):
    """What a message has to go behind is not done yet: it is put aside for a moment, which is no try."""


Outcome = Exception | None
"""What became of one delivery: `None` when done, else the error, whose class decides what happens next."""


class Reply(Protocol):
    """What answers a question: a message, or what writes itself as one."""

    def encode(self) -> bytes:
        """The message as JSON."""


Answer = Callable[[Any], Awaitable[Reply]]
Work = Callable[[Sequence[Delivery[Command]]], Awaitable[Sequence[Outcome]]]
Follow = Callable[[Sequence[Delivery[Fact]]], Awaitable[Sequence[Outcome]]]
Probe = Callable[[], Awaitable[Check]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """Work taken from a WORK consumer.

    The handler gets a batch and answers one outcome per delivery, in order. Raising stands for that error on
    each of them. Effects must be there before it returns, and must be harmless when repeated.
    """

    consumer: Consumer
    handler: Work
    commands: tuple[type[Command], ...]


async def _unknown() -> None:
    """Nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """A log that is followed strictly in order, from one past `position` on.

    `position` answers the stream sequence whose effects are already stored (0 for none), and is asked again
    after every interruption. The handler stores the effects and the new position together; an outcome that is
    an error sends that one message to the dead letters, raising repeats the whole batch later. `facts` names
    the types the handler understands; others are skipped, but still move the position with their batch.

    `appended` answers when the message at the position was appended to the log (`Delivery.at`), if that is known. With
    it, a log that lost what was applied is noticed, also when it has grown beyond the position since; `rewind` then
    sets the stored position back to where both agree.
    """

    consumer: Consumer
    handler: Follow
    position: Callable[[], Awaitable[int]]
    messages: dict[str, type[Message]]
    appended: Callable[[], Awaitable[datetime | None]] = _unknown
    rewind: Callable[[int], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service, as its composition root hands it to the host.

    `returns` are consumers of what waited outside of its stream, and is sent back there. `draining` is called once
    when the process is about to stop, for handlers that would work on for long.
    """

    name: str
    answers: dict[type[Question[Any]], Answer] = field(default_factory=dict)
    takes: tuple[Taking, ...] = ()
    follows: tuple[Following, ...] = ()
    returns: tuple[Consumer, ...] = ()
    checks: dict[str, Probe] = field(default_factory=dict)
    draining: Callable[[], None] = lambda: None
