"""Structured logs and Prometheus metrics of one process."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache

from prometheus_client import Counter, Gauge, Histogram

from engram_runtime.context import correlation
from engram_runtime.tracing import trace_id

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

HANDLED = Counter("engram_messages_handled_total", "Messages whose effect is stored.", ["stage"])
RETRIED = Counter("engram_messages_retried_total", "Tries that failed and will be repeated.", ["stage"])
ENDED = Counter("engram_messages_ended_total", "Messages cancelled, or past their deadline.", ["stage", "state"])
BURIED = Counter("engram_dead_letters_total", "Messages written to the dead letters.", ["stage"])
HELD = Gauge("engram_breaker_open", "1 while work is held because a dependency is away.", ["stage"])
STANDING = Gauge("engram_follower_standing_still", "1 while a follower of a log cannot go on.", ["stage", "consumer"])
OPEN_FAILURES = Counter("engram_store_open_failures_total", "Times that a store could not be opened.", ["store"])
WAITED = Histogram(
    "engram_wait_seconds", "Time the first message of a batch waited for its handling.", ["stage"], buckets=BUCKETS
)
HANDLING = Histogram("engram_batch_seconds", "Time a handler took for a batch.", ["stage"], buckets=BUCKETS)
ANSWERING = Histogram(
    "engram_answer_seconds", "Time an answer to a question took.", ["service", "verb"], buckets=BUCKETS
)


class Capped:
    """Keeps a label from growing without end: of the values seen, the first `most` have a series each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, value: str) -> str:
        """The value, or `other` past the bound."""
        if value in self._known or len(self._known) < self._most:
            self._known.add(value)
            return value
        return "other"


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, service, event, correlation id and the fields given as `extra`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
            **({"correlation_id": correlation.get()} if correlation.get() else {}),
            **({"trace_id": trace} if (trace := trace_id()) else {}),
            **fields,
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def waited(stage: str, since: datetime) -> None:
    """Note how long the first message of a batch waited; clocks of two machines may differ a little."""
    _waited(stage).observe(max((datetime.now(UTC) - since).total_seconds(), 0.0))


@lru_cache(maxsize=64)
def _waited(stage: str) -> Histogram:
    return WAITED.labels(stage)


def log_to_stderr(service: str, level: str) -> None:
    """Send this process's logs to stderr as JSON lines; libraries below warning stay silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    for name in ("engram_runtime", f"engram_{service}", "engram"):
        logging.getLogger(name).setLevel(level.upper())
