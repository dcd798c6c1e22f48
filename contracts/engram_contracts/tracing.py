"""Spans of traced requests, as they are kept for a while so that a trace can be looked at without a collector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engram_contracts.messages import Message

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Value = str | bool | int | float


class SpanRecord(Message):
    """One step of a traced request. Times are nanoseconds since 1970; `parent_id` is `None` for the first step.

    `error` is the kind of what went wrong, never its words. Attributes hold names, ids and numbers, never what a
    memory says.
    """

    trace_id: str
    span_id: str
    parent_id: str | None = None
    name: str
    kind: Kind = "internal"
    service: str
    instance: str
    start_ns: int
    end_ns: int
    error: str | None = None
    attributes: dict[str, Value] = Field(default_factory=dict)


class SpanBatch(Message):
    """Spans of one trace that ended in one process within a second or so. A repeat shows a span twice, by its id."""

    spans: tuple[SpanRecord, ...]
