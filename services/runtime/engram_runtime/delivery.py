"""The delivery policy: what becomes of a message after a try. One place for all stages.

Done is acknowledged. Later is given back with a delay. Never, and worn out, is written to the dead letters
first and only then acknowledged, so a message is always done, on its way, or buried. What was cancelled, or is past
its deadline, ends where it is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, Protocol

from nats.aio.msg import Msg

from engram_contracts.errors import Cancelled, EngramError, Expired, Failure
from engram_contracts.retry import Retry
from engram_contracts.topology import due_subject

DEAD_HISTORY = "Engram-Dead-History"
"""Header of a replayed message and of its next dead letter: its earlier failures, as JSON."""

ATTEMPTS, FIRST_AT, FIRST_ID = "Engram-Attempts", "Engram-First-At", "Engram-First-Id"
"""Headers of a message that waited outside of its stream: its tries so far, since when, and its first id."""

LONGEST_IN_HAND = 60.0
LONGEST = 86_400.0
"""Longer than a day nothing waits for its next try, whatever was advised."""


@dataclass(frozen=True, slots=True)
class Done:
    """The effect is stored; acknowledge."""


@dataclass(frozen=True, slots=True)
class Later:
    """Try again after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Postpone:
    """Try again after `delay` seconds, which are too many to hold a place among the messages in hand."""

    delay: float


@dataclass(frozen=True, slots=True)
class Bury:
    """No further try: `why` is `never` (it cannot succeed) or `worn out` (it had all its tries)."""

    why: str


@dataclass(frozen=True, slots=True)
class End:
    """No further try, and nothing to bury: it is not wanted any more."""

    state: Literal["cancelled", "expired"]


Decision = Done | Later | Postpone | Bury | End


def decide(outcome: Exception | None, *, attempt: int, retry: Retry, chance: float | None = None) -> Decision:
    """What to do after try number `attempt` ended with `outcome`; reads the advice on the error itself."""
    if outcome is None:
        return Done()
    if isinstance(outcome, (Cancelled, Expired)):
        return End("cancelled" if isinstance(outcome, Cancelled) else "expired")
    if isinstance(outcome, EngramError) and outcome.retry == "never":
        return Bury("never")
    if retry.worn_out(attempt):
        return Bury("worn out")
    advised = outcome.retry_after if isinstance(outcome, EngramError) else None
    luck = random.random() if chance is None else chance  # noqa: S311 (jitter, not a secret)
    delay = retry.delay(attempt, chance=luck, advised=advised)
    return Later(delay) if delay <= LONGEST_IN_HAND else Postpone(min(delay, LONGEST))


class Receipt(NamedTuple):
    """What the server says about one delivery, read from its reply subject.

    `delivered` counts deliveries of this message, `consumer_sequence` all deliveries of the consumer.
    """

    delivered: int
    sequence: int
    consumer_sequence: int
    at: datetime

    @classmethod
    def of(cls, message: Msg) -> Receipt:
        """The receipt of a message. Format: ADR-15 (`$JS.ACK...`), with and without domain and account."""
        tokens = message.reply.split(".")
        start = 4 if len(tokens) < 11 else 6
        delivered, sequence, consumer_sequence, nanoseconds = map(int, tokens[start : start + 4])
        return cls(delivered, sequence, consumer_sequence, _EPOCH + timedelta(microseconds=nanoseconds // 1000))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Sent(Protocol):
    """What a burial needs to know of a message: one in hand, or one that lies on a stream."""

    @property
    def subject(self) -> str:
        """Where it was sent."""

    @property
    def headers(self) -> Mapping[str, str] | None:
        """What was sent with it."""


def burial_headers(
    message: Sent, *, stage: str, stream: str, receipt: Receipt, attempt: int, why: str, error: Exception
) -> dict[str, str]:
    """What a dead letter says beside the original bytes: where, why, how often, since when.

    The failures that a replayed message had before stay with it, as they are.
    """
    failure = Failure.of(error)
    original = dict(message.headers or {})
    original.pop(ATTEMPTS, None)
    first_at = original.pop(FIRST_AT, receipt.at.isoformat())
    history = {DEAD_HISTORY: original.pop(DEAD_HISTORY)} if DEAD_HISTORY in original else {}
    headers = {f"Engram-Original-{name}": value for name, value in original.items()}
    return {
        **headers,
        **history,
        "Engram-Dead-Subject": message.subject,
        "Engram-Dead-Stream": stream,
        "Engram-Dead-Sequence": str(receipt.sequence),
        "Engram-Dead-Stage": stage,
        "Engram-Dead-Why": why,
        "Engram-Dead-Code": failure.code,
        "Engram-Dead-Error": type(error).__name__,
        "Engram-Dead-Reason": bounded(failure.message),
        "Engram-Dead-Attempts": str(attempt),
        "Engram-Dead-First": first_at,
        "Engram-Dead-Last": datetime.now(UTC).isoformat(),
    }


def bounded(text: str, limit: int = 500) -> str:
    """The text on one line, cut to what a header may hold."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def waiting_headers(message: Msg, *, receipt: Receipt, attempt: int, at: datetime) -> dict[str, str]:
    """Headers under which a message waits until `at` (ADR-51), and with which it comes back."""
    original = dict(message.headers or {})
    own = {name: value for name, value in original.items() if not name.lower().startswith("nats-")}
    first = own.get(FIRST_ID) or original.get("Nats-Msg-Id")
    return {
        **own,
        **({FIRST_ID: first} if first else {}),
        ATTEMPTS: str(attempt),
        FIRST_AT: own.get(FIRST_AT, receipt.at.isoformat()),
        "Nats-Schedule": f"@at {at.astimezone(UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')}",
        "Nats-Schedule-Target": due_subject(message.subject),
    }
