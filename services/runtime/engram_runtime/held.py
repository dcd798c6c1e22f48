"""One command in hand: its message, and what it says or why it cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nats.aio.msg import Msg

from engram_contracts.commands import Command
from engram_contracts.errors import EngramError
from engram_contracts.events import JobTry
from engram_contracts.topology import WorkSubject
from engram_runtime.appending import CORRELATION
from engram_runtime.decoding import decode
from engram_runtime.delivery import ATTEMPTS, Receipt
from engram_runtime.service import Delivery
from engram_runtime.tracing import TRACEPARENT


@dataclass(frozen=True, slots=True)
class Held:
    """One message in hand: raw, with its receipt, and decoded or with the reason why not."""

    raw: Msg
    receipt: Receipt
    tenant: str
    job: str
    delivery: Delivery[Command] | None
    broken: EngramError | None = None
    attempt: int = 1
    tries: tuple[JobTry, ...] = ()
    unanswered: int = 0
    """Tries before this one that nobody came back from."""


def taken(message: Msg, types: Mapping[str, type[Command]], opened: Callable[[bytes], bytes]) -> Held:
    """A message as it came, `opened` and decoded as the command its subject names where that can be done."""
    receipt = Receipt.of(message)
    headers = message.headers or {}
    job = headers.get("Nats-Msg-Id") or f"sequence-{receipt.sequence}"
    subject = WorkSubject.parse(message.subject)
    try:
        command = decode(types[subject.op], opened(message.data))
    except EngramError as error:
        return Held(message, receipt, subject.tenant, job, None, error)
    delivery = Delivery(
        tenant=subject.tenant,
        event=subject.op,
        message=command,
        sequence=receipt.sequence,
        at=receipt.at,
        correlation=headers.get(CORRELATION),
        trace=headers.get(TRACEPARENT),
    )
    return Held(message, receipt, subject.tenant, command.id, delivery, attempt=1 + _tries_before(headers))


def _tries_before(headers: Mapping[str, str]) -> int:
    """Tries that a message had before it waited outside of its stream."""
    said = headers.get(ATTEMPTS, "")
    return int(said) if said.isdecimal() else 0
