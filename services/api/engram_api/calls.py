"""What a handler gets and gives: requests and answers without a word of HTTP libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from engram_api.access import Caller
from engram_contracts.messages import Message

B = TypeVar("B")
Q = TypeVar("Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefer:
    """What the client would rather have (RFC 7240): `wait` so many seconds, or an answer at once."""

    wait: float | None = None
    respond_async: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[B, Q]):
    """One request, known and validated. `request_id` is its own, `correlation` its client's.

    `deadline` is when its client has no use for it any more.
    """

    caller: Caller
    body: B
    query: Q
    path: Mapping[str, str]
    request_id: str
    correlation: str
    idempotency_key: str | None
    prefer: Prefer
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """An answer that is no JSON envelope."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back. `meta` is what helps beside the data.

    The status is the operation's own unless given; `settled` says that the effect was waited for, which has its own.
    """

    data: Message | Mapping[str, Any] | Page
    status: int | None = None
    settled: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
