"""A dead letter: what its headers say, whether a filter means it, and the message it becomes when sent again. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from engram_contracts.errors import Rejected
from engram_contracts.ids import derived_id
from engram_contracts.messages import in_utc
from engram_contracts.recovery import DeadFailure, DeadFilter, DeadLetter
from engram_runtime.bus import Entry, Stored
from engram_runtime.delivery import DEAD_HISTORY, bounded

ORIGINAL = "Engram-Original-"
REPLAY, REPLAY_OF, FIRST_ID = "Engram-Replay", "Engram-Replay-Of", "Engram-First-Id"
MOST_FAILURES = 10
"""So many earlier failures travel with a message; older ones are forgotten."""
SHORT_REASON = 200

_FAILURES = TypeAdapter(tuple[DeadFailure, ...])


@dataclass(frozen=True, slots=True)
class Buried:
    """A dead letter with its body and the headers that its message had."""

    letter: DeadLetter
    body: bytes
    headers: Mapping[str, str]
    history: tuple[DeadFailure, ...]

    @classmethod
    def of(cls, stored: Stored) -> Buried:
        """What the stream holds, understood."""
        headers = {name[len(ORIGINAL) :]: value for name, value in stored.headers.items() if name.startswith(ORIGINAL)}
        return cls(summary(stored), stored.body, headers, history(stored.headers))


def summary(stored: Stored) -> DeadLetter:
    """What the headers say. What they do not say, or not well, is left blank: anyone's bytes may lie there."""

    def said(name: str) -> str:
        return stored.headers.get(f"Engram-Dead-{name}", "")

    _, _, stage, tenant = stored.subject.split(".", 3)
    return DeadLetter(
        sequence=stored.sequence,
        stage=stage,
        tenant=tenant,
        subject=said("Subject"),
        op=_op(said("Subject")),
        command=stored.headers.get(f"{ORIGINAL}{FIRST_ID}") or stored.headers.get(f"{ORIGINAL}Nats-Msg-Id"),
        why=said("Why"),
        code=said("Code"),
        error=said("Error"),
        reason=said("Reason"),
        attempts=int(said("Attempts")) if said("Attempts").isdecimal() else 0,
        first_at=_moment(said("First"), stored.at),
        last_at=_moment(said("Last"), stored.at),
        buried_at=stored.at,
        size=stored.size,
        replays=len(history(stored.headers)),
    )


def history(headers: Mapping[str, str]) -> tuple[DeadFailure, ...]:
    """The failures before this one, oldest first; none where the header does not hold them."""
    if DEAD_HISTORY not in headers:
        return ()
    try:
        return _FAILURES.validate_json(headers[DEAD_HISTORY])
    except ValidationError:
        return ()


def matches(letter: DeadLetter, wanted: DeadFilter) -> bool:
    """Whether every condition of the filter holds."""
    equal = ("tenant", "stage", "code", "error")
    return (
        all(getattr(wanted, name) in (None, getattr(letter, name)) for name in equal)
        and (wanted.since is None or letter.buried_at >= wanted.since)
        and (wanted.until is None or letter.buried_at < wanted.until)
        and (wanted.text is None or wanted.text.casefold() in letter.reason.casefold())
    )


def message_id(replay: str, salt: str, sequence: int) -> str:
    """The id under which a replay sends a dead letter: the same each time, and nobody else's."""
    return derived_id("replay", replay, salt, str(sequence))


def sent_again(buried: Buried, *, replay: str, salt: str, body: bytes | None = None) -> Entry:
    """The message to send: the original one, or with another body, under a fresh id and with its failures.

    Headers of the broker's own (`Nats-...`: id, batch, schedule) were for the first sending and are left out. Raises
    `Rejected` when the dead letter does not say where it belongs, or names a place of another tenant.
    """
    letter = buried.letter
    if addressee(letter.subject) != letter.tenant:
        raise Rejected(f"its subject {letter.subject!r} is not one of tenant {letter.tenant!r}")
    failures = (*buried.history, _failure(letter, replay))[-MOST_FAILURES:]
    own = {name: value for name, value in buried.headers.items() if not name.lower().startswith("nats-")}
    return Entry(
        subject=letter.subject,
        body=buried.body if body is None else body,
        id=message_id(replay, salt, letter.sequence),
        headers={
            **({FIRST_ID: letter.command} if letter.command else {}),
            **own,
            REPLAY: replay,
            REPLAY_OF: str(letter.sequence),
            DEAD_HISTORY: json.dumps([failure.model_dump(mode="json", exclude_none=True) for failure in failures]),
        },
    )


def is_ours(stored: Stored, *, replay: str, sequence: int) -> bool:
    """Whether a message on a stream is what this replay made of this dead letter."""
    return stored.headers.get(REPLAY) == replay and stored.headers.get(REPLAY_OF) == str(sequence)


def addressee(subject: str) -> str | None:
    """The tenant of a message's subject, or `None` where it is not one that dead letters come from."""
    match subject.split("."):
        case ["engram", "work", _, _, tenant] | ["engram", "log", _, tenant, _] | ["engram", "usage", tenant]:
            return tenant
    return None


def as_json(body: bytes) -> Any:
    """What the body says as JSON; `None` where it is none."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def _failure(letter: DeadLetter, replay: str) -> DeadFailure:
    return DeadFailure(
        stage=letter.stage,
        code=letter.code,
        error=letter.error,
        reason=bounded(letter.reason, SHORT_REASON),
        attempts=letter.attempts,
        first_at=letter.first_at,
        last_at=letter.last_at,
        sequence=letter.sequence,
        replay=replay,
    )


def _op(subject: str) -> str:
    match subject.split("."):
        case ["engram", "work", _, op, _]:
            return op
        case ["engram", "log", _, _, event]:
            return event
        case ["engram", kind, *_]:
            return kind
    return ""


def _moment(text: str, otherwise: datetime) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        return otherwise
