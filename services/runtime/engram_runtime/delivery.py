"""The delivery policy: what becomes of a message after a try. One place for all stages.

Done is acknowledged. Later is given back with a delay. Never, and worn out, is written to the dead letters
first and only then acknowledged, so a message is always done, on its way, or buried.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nats.aio.msg import Msg

from engram_contracts.errors import EngramError, Failure
from engram_contracts.retry import Retry

DEAD_HISTORY = "Engram-Dead-History"
"""Header of a replayed message and of its next dead letter: its earlier failures, as JSON."""


@dataclass(frozen=True, slots=True)
class Done:
    """The effect is stored; acknowledge."""


@dataclass(frozen=True, slots=True)
class Later:
    """Try again after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Bury:
    """No further try: `why` is `never` (it cannot succeed) or `worn out` (it had all its tries)."""

    why: str


Decision = Done | Later | Bury


def decide(outcome: Exception | None, *, attempt: int, retry: Retry, chance: float | None = None) -> Decision:
    """What to do after try number `attempt` ended with `outcome`; reads the advice on the error itself."""
    if outcome is None:
        return Done()
    if isinstance(outcome, EngramError) and outcome.retry == "never":
        return Bury("never")
    if retry.worn_out(attempt):
        return Bury("worn out")
    advised = outcome.retry_after if isinstance(outcome, EngramError) else None
    luck = random.random() if chance is None else chance  # noqa: S311 (jitter, not a secret)
    return Later(retry.delay(attempt, chance=luck, advised=advised))


@dataclass(frozen=True, slots=True)
class Receipt:
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


def burial_headers(
    message: Msg, *, stage: str, stream: str, receipt: Receipt, attempt: int, why: str, error: Exception
) -> dict[str, str]:
    """What a dead letter says beside the original bytes: where, why, how often, since when.

    The failures that a replayed message had before stay with it, as they are.
    """
    failure = Failure.of(error)
    original = dict(message.headers or {})
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
        "Engram-Dead-First": receipt.at.isoformat(),
        "Engram-Dead-Last": datetime.now(UTC).isoformat(),
    }


def bounded(text: str, limit: int = 500) -> str:
    """The text on one line, cut to what a header may hold."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
