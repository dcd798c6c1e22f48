"""Spans by the OpenTelemetry SDK: to a collector, and to the broker for a while. Imported only where tracing is on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engram_contracts.topology import trace_subject
from engram_contracts.tracing import Kind, SpanBatch, SpanRecord
from engram_runtime.bus import Bus, Entry
from engram_runtime.settings import TelemetrySettings
from engram_runtime.tracing import TRACEPARENT, Attributes, Span, using

log = logging.getLogger(__name__)

KEPT = 4_096
"""So many spans wait for the broker; of more, the oldest are let go."""
TOGETHER = 200
FLUSH_SECONDS = 1.0
EXPORT_SECONDS = 5
KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_CONTEXT = TraceContextTextMapPropagator()


class OtelSpan:
    """See `Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, trace.set_span_in_context(span))
        self.traceparent = carrier[TRACEPARENT]

    def set(self, attributes: Attributes) -> None:
        """See `Span.set`."""
        self._span.set_attributes(dict(attributes))

    def fail(self, error: str) -> None:
        """See `Span.fail`."""
        self._span.set_attribute("error.type", error)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """See `Span.end`."""
        self._span.end()


class OtelTracer:
    """See `Tracer`. Who has no parent is sampled at the rate; else the parent's choice counts."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(
        self, name: str, kind: Kind, parent: str | None, attributes: Attributes, at: datetime | None = None
    ) -> Span | None:
        """See `Tracer.begin`."""
        context = _CONTEXT.extract({TRACEPARENT: parent} if parent else {})
        since = int(at.timestamp() * 1e9) if at is not None else None
        span = self._tracer.start_span(name, context, KINDS[kind], dict(attributes), start_time=since)
        return OtelSpan(span) if span.get_span_context().trace_flags.sampled else None


class Kept(SpanProcessor):
    """Spans that ended and are still to be put on the broker; filled from any thread."""

    def __init__(self) -> None:
        self._spans: deque[ReadableSpan] = deque(maxlen=KEPT)

    def on_end(self, span: ReadableSpan) -> None:
        """Note it."""
        self._spans.append(span)

    def take(self) -> list[ReadableSpan]:
        """Those that came since the last time."""
        taken: list[ReadableSpan] = []
        while self._spans:
            taken.append(self._spans.popleft())
        return taken


@contextlib.asynccontextmanager
async def tracing(service: str, bus: Bus, instance: str, settings: TelemetrySettings) -> AsyncIterator[None]:
    """Trace this process while the context is open; what is not sent on by then is sent at its end."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a collector that is away is nobody's emergency
    kept = Kept()
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.sample_rate)),
        resource=Resource.create(_about(service, instance)),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(kept)
    if settings.otlp_endpoint != "off":
        exporter = OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    keeping = asyncio.create_task(_keep(bus, kept, service, instance))
    try:
        with using(OtelTracer(provider.get_tracer("engram", version("engram-runtime")))):
            yield
    finally:
        keeping.cancel()
        await _put(bus, kept.take(), service, instance)
        await asyncio.to_thread(provider.shutdown)


def _about(service: str, instance: str) -> dict[str, str]:
    return {
        "service.namespace": "engram",
        "service.name": f"engram-{service}",
        "service.instance.id": instance,
        "service.version": version("engram-runtime"),
    }


async def _keep(bus: Bus, kept: Kept, service: str, instance: str) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        await _put(bus, kept.take(), service, instance)


async def _put(bus: Bus, spans: Iterable[ReadableSpan], service: str, instance: str) -> None:
    """Append them, those of a trace together. What the broker does not take is let go: a trace is not worth a wait."""
    by_trace: defaultdict[str, list[SpanRecord]] = defaultdict(list)
    for span in spans:
        record = recorded(span, service, instance)
        by_trace[record.trace_id].append(record)
    entries = [
        Entry(subject=trace_subject(name), body=SpanBatch(spans=tuple(part)).encode(), id=part[0].span_id)
        for name, records in by_trace.items()
        for part in (records[start : start + TOGETHER] for start in range(0, len(records), TOGETHER))
    ]
    outcomes = await bus.append(entries, within=FLUSH_SECONDS)
    if lost := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
        log.warning("spans not kept", extra={"batches": len(lost), "error": repr(lost[0])})


def recorded(span: ReadableSpan, service: str, instance: str) -> SpanRecord:
    """A span as it is kept."""
    context, attributes = span.get_span_context(), dict(span.attributes or {})
    assert context is not None
    error = attributes.pop("error.type", None)
    return SpanRecord(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else None,
        name=span.name,
        kind=_NAMES[span.kind],
        service=service,
        instance=instance,
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        error=str(error) if error is not None else None,
        attributes={name: value for name, value in attributes.items() if isinstance(value, (str, bool, int, float))},
    )


_NAMES: dict[SpanKind, Kind] = {kind: name for name, kind in KINDS.items()}
