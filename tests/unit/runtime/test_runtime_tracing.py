"""Steps of a trace: whose they are, what is told onward, and that nothing happens where nobody traces."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from engram_contracts.errors import NotFound
from engram_contracts.topology import trace_subject
from engram_contracts.tracing import Kind, SpanBatch
from engram_runtime import tracing
from engram_runtime.appending import _headers
from engram_runtime.bus import Appended, Entry
from engram_runtime.settings import TelemetrySettings
from engram_runtime.telemetry import Capped
from engram_runtime.tracer_otel import tracing as tracing_by_otel
from engram_runtime.tracing import Attributes, Span

ONE, TWO = "a" * 32, "b" * 32


@dataclass
class Kept:
    """A span that remembers all of its life."""

    name: str
    kind: Kind
    parent: str | None
    traceparent: str
    attributes: dict[str, object]
    error: str | None = None
    ended: bool = False

    def set(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def fail(self, error: str) -> None:
        self.error = error

    def end(self) -> None:
        self.ended = True


@dataclass
class Keeping:
    """A tracer that keeps its spans; who has no parent begins trace ONE."""

    spans: list[Kept] = field(default_factory=list)

    def begin(
        self, name: str, kind: Kind, parent: str | None, attributes: Attributes, at: datetime | None = None
    ) -> Span | None:
        trace = parent.split("-")[1] if parent else ONE
        self.spans.append(Kept(name, kind, parent, f"00-{trace}-{len(self.spans) + 1:016x}-01", dict(attributes)))
        return self.spans[-1]


@dataclass(frozen=True)
class Came:
    """A message as it lies in a worker's hands."""

    trace: str | None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


def sampled(trace: str) -> str:
    return f"00-{trace}-{'c' * 16}-01"


@pytest.fixture
def tracer() -> AsyncIterator[Keeping]:
    """Traces this test."""
    keeping = Keeping()
    with tracing.using(keeping):
        yield keeping  # type: ignore[misc]  # a plain generator fixture


def test_a_step_belongs_to_what_is_under_way(tracer: Keeping) -> None:
    with tracing.entered("request", None, dict), tracing.step("inner", "client", {"rows": 3}):
        assert tracing.trace_id() == ONE

    outer, inner = tracer.spans
    assert inner.parent == outer.traceparent and inner.attributes == {"rows": 3}
    assert outer.ended and inner.ended and tracing.trace_id() is None


def test_an_error_is_told_by_its_kind_and_not_by_its_words(tracer: Keeping) -> None:
    with pytest.raises(NotFound), tracing.entered("request", None, dict):
        raise NotFound("there is no memory 'my secret'")

    assert tracer.spans[0].error == "NOT_FOUND"


def test_each_message_of_a_batch_keeps_its_own_trace(tracer: Keeping) -> None:
    batch = [Came(sampled(ONE)), Came(None), Came(sampled(TWO))]

    with tracing.processing("embedder", "embedder-i1", "ENGRAM_WORK", batch) as step, tracing.step("embed"):
        told = [tracing.onward(each.trace) for each in batch]
        step.came_to([None, None, NotFound("gone")])

    embeds = {span.traceparent for span in tracer.spans if span.name == "embed"}
    processed = [span for span in tracer.spans if span.name == "process ENGRAM_WORK"]
    assert {told[0], told[2]} == embeds and told[1] is None
    assert [span.error for span in processed] == [None, "NOT_FOUND"]
    assert [span.name for span in tracer.spans].count("wait ENGRAM_WORK") == 2


def test_what_follows_carries_the_trace_in_its_headers(tracer: Keeping) -> None:
    entry = Entry(subject="engram.log.1.acme.remembered", body=b"{}", id="1", trace=sampled(TWO))

    assert _headers(entry)["traceparent"] == sampled(TWO)
    with tracing.processing("embedder", "embedder-i1", "ENGRAM_WORK", [Came(sampled(TWO))]):
        assert _headers(entry)["traceparent"] == tracer.spans[-1].traceparent


@pytest.mark.parametrize(
    "given",
    [None, "", "00-" + "0" * 32 + "-" + "c" * 16 + "-01", sampled(ONE)[:-2] + "00", sampled(ONE).upper(), "x" * 9_000],
)
def test_what_is_no_sampled_traceparent_is_not_followed(tracer: Keeping, given: str | None) -> None:
    with tracing.answering("vectors", "recall", given), tracing.processing("s", "c", "ENGRAM_LOG", [Came(given)]):
        assert tracing.traceparent() is None

    assert tracer.spans == []


async def test_where_nobody_traces_nothing_happens() -> None:
    @tracing.traced("step")
    async def act(number: int) -> int:
        return number + 1

    with tracing.entered("request", sampled(ONE), dict), tracing.publishing("engram.work.i1.remember.acme"):
        assert await act(1) == 2
        assert tracing.traceparent() is None and tracing.onward(sampled(ONE)) == sampled(ONE)


def test_a_process_that_does_not_trace_does_not_load_the_sdk() -> None:
    """It would cost each process 12 MB."""
    look = "import sys, engram_runtime.host; sys.exit('opentelemetry.sdk' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_a_label_with_a_bound_ends_in_other() -> None:
    label = Capped(2).label

    assert [label("a"), label("b"), label("c"), label("a")] == ["a", "b", "other", "a"]


@dataclass
class Appending:
    """A bus that keeps what is appended."""

    entries: list[Entry] = field(default_factory=list)

    async def append(self, entries: Sequence[Entry], *, within: float = 1.0) -> list[Appended | Exception]:
        self.entries += entries
        return [Appended(sequence=n, duplicate=False) for n, _ in enumerate(entries, 1)]


async def test_spans_reach_a_collector_and_the_broker_and_rates_are_kept() -> None:
    got: list[ExportTraceServiceRequest] = []

    async def take(request: web.Request) -> web.Response:
        got.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    bus = Appending()
    settings = TelemetrySettings(
        enabled=True, sample_rate=0.0, otlp_endpoint=f"http://127.0.0.1:{runner.addresses[0][1]}"
    )
    async with tracing_by_otel("vectors", bus, "one", settings):  # type: ignore[arg-type]  # what of a bus it needs
        with tracing.entered("request", None, dict):
            pass
        with tracing.entered("request", sampled(ONE), lambda: {"engram.operation": "recall"}), tracing.step("inner"):
            await asyncio.sleep(0)
    await runner.cleanup()

    exported = [
        span for each in got for whole in each.resource_spans for part in whole.scope_spans for span in part.spans
    ]
    assert {span.name for span in exported} == {"request", "inner"}
    assert {span.trace_id.hex() for span in exported} == {ONE}
    kept = SpanBatch.model_validate_json(bus.entries[0].body).spans
    assert bus.entries[0].subject == trace_subject(ONE)
    assert {(span.name, span.service) for span in kept} == {("request", "vectors"), ("inner", "vectors")}
