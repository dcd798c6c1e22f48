"""What a handler gets and gives: requests and answers without a word of HTTP libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from engram_api.access import Caller
from engram_api.lines import Outlet
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

    `deadline` is when its client has no use for it any more. `streamed` says that it wants events as they happen.
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
    streamed: bool = False
    after: int | None = None
    """The last event its client has seen, where it comes back to a stream."""


class Stream(Protocol):
    """What is sent behind an answer, as it happens."""

    async def play(self, outlet: Outlet) -> None:
        """Send it all; returns when it has ended. Raises `EndError` when its client is not there any more."""

    async def close(self) -> None:
        """Let go of what it holds, played or not."""


@dataclass(frozen=True, slots=True)
class Page:
    """An answer that is no JSON envelope."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back. `meta` is what helps beside the data, `stream` what follows for who wants it streamed.

    The status is the operation's own unless given; `settled` says that the effect was waited for, which has its own.
    """

    data: Message | Mapping[str, Any] | Page
    status: int | None = None
    settled: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: Stream | None = None
