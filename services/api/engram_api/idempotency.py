"""What is known of a request under an idempotency key, and what a repeat may do. Pure.

A record is `flying` while a door works on the request; its holder renews it before `until`, so one that is past it
was left behind and may be taken over. It is `done` once the answer that every repeat gets is known, and `open` when
an attempt ended without one: the same request may then try again. Two attempts at once are harmless, because ids
derive from the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Literal

from engram_contracts.errors import EngramError, Rejected
from engram_contracts.messages import Message, Moment

MOST_KEPT = 256 * 1024
"""Bytes of an answer that are kept; a larger one is made anew for each repeat, from the same ids."""

HOW_TO_ANSWER = frozenset({"wait", "timeout"})
"""Query parameters that say how to answer and not what is asked for; a repeat may change them."""

RETRY_SECONDS = 1.0


class Kept(Message):
    """An answer as it went out. Without a body it was too large to keep."""

    status: int
    content_type: str
    headers: dict[str, str]
    body: bytes | None = None


class Record(Message):
    """What is kept under a key. `digest` names the request; it is empty where nothing came of the first one."""

    state: Literal["flying", "open", "done"]
    digest: str
    holder: str
    until: Moment
    answer: Kept | None = None


class InFlight(EngramError):
    """The first request under this key is still being worked on."""

    code, status, retry = "CONFLICT", 409, "later"


@dataclass(frozen=True, slots=True)
class Begin:
    """Nobody works on it: claim it. `anew` when an attempt before this one may have had an effect."""

    anew: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Another works on it."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """It is done: give the same answer."""

    answer: Kept


@dataclass(frozen=True, slots=True)
class Remake:
    """It is done, with an answer that was too large to keep: make it again, which has no further effect."""


View = Begin | Wait | Repeat | Remake


def view(record: Record | None, digest: str, now: datetime) -> View:
    """What a request may do under its key. Raises `Rejected` (422) when the key was used for another request."""
    if record is None or (record.state == "open" and not record.digest):
        return Begin(anew=False)
    if record.digest != digest:
        raise Rejected(
            "this Idempotency-Key was used for another request; send the same request again, or use a new key",
            field="Idempotency-Key",
            status=422,
        )
    if record.state == "done":
        kept = record.answer
        return Repeat(kept) if kept is not None and kept.body is not None else Remake()
    if record.state == "open" or record.until <= now:
        return Begin(anew=True)
    return Wait()


def claimed(digest: str, holder: str, now: datetime, *, lease: float) -> Record:
    """The record of a request that is being worked on; also its renewal."""
    return Record(state="flying", digest=digest, holder=holder, until=now + timedelta(seconds=lease))


def done(record: Record, answer: Kept, *, keep: bool = True) -> Record:
    """The record once the answer is known. An answer that may still get better leaves it open.

    One that is not to be kept, because it holds a secret, is made anew for each repeat.
    """
    if answer.status == HTTPStatus.MULTI_STATUS:
        return record.model_copy(update={"state": "open"})
    if answer.body is not None and (not keep or len(answer.body) > MOST_KEPT):
        answer = answer.model_copy(update={"body": None})
    return record.model_copy(update={"state": "done", "answer": answer})


def failed(record: Record, status: int, *, anew: bool) -> Record:
    """The record after an attempt that ended in an error of this status.

    A refusal for good leaves nothing behind, so the key is free for a corrected request, unless an attempt before
    may have had an effect. After any other error the effect is unknown, and the key stays with its request.
    """
    for_good = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    free = for_good and status != HTTPStatus.TOO_MANY_REQUESTS and not anew
    return record.model_copy(update={"state": "open", "digest": "" if free else record.digest})


def digest(method: str, path: str, query: Iterable[tuple[str, str]], body: bytes) -> str:
    """Names a request by what it asks for: its method, path, query and body."""
    asked = sorted(pair for pair in query if pair[0] not in HOW_TO_ANSWER)
    said = hashlib.blake2b(digest_size=16)
    for part in (method, path, *(text for pair in asked for text in pair)):
        said.update(b"%d:%b" % (len(part.encode()), part.encode()))
    said.update(b"|" + body)
    return said.hexdigest()


def record_key(tenant: str, route: str, key: str) -> str:
    """Where the record of a key lies: each tenant and route has keys of its own."""
    return f"{tenant}.{route}.{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}"
