"""The door's own Prometheus metrics. Routes are templates, never paths as sent."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from engram_runtime.telemetry import BUCKETS

REQUESTS = Counter("engram_requests_total", "Requests answered.", ["route", "method", "status"])
SECONDS = Histogram("engram_request_seconds", "Time from request head to answer.", ["route"], buckets=BUCKETS)
AUTH_FAILURES = Counter("engram_auth_failures_total", "Requests without a key that counts, or not allowed.", ["code"])
RATE_LIMITED = Counter("engram_rate_limited_total", "Requests refused with 429.", ["route"])
QUOTA_EXCEEDED = Counter("engram_quota_exceeded_total", "Requests refused with 402.", ["metric"])
USAGE_FAILURES = Counter("engram_usage_flush_failures_total", "Usage batches that could not be written.")
UNRECORDED = Counter(
    "engram_idempotency_unrecorded_total",
    "Requests served without their idempotency record, because the records are full.",
)
LIVE = Gauge("engram_live_connections", "Open WebSockets and streams of events.", ["kind"])
LIVE_CLOSED = Counter("engram_live_closed_total", "WebSockets and streams that ended.", ["kind", "reason"])
LIVE_EVENTS = Counter("engram_live_events_total", "Events of tenants read for their listeners.")

UNMATCHED = "unmatched"
