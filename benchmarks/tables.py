"""From measurements to the tables of a report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.figures import Raw, Report, Row, at_least, at_most, number, p
from benchmarks.machine import Footprint, Spent
from benchmarks.raw_edge import RawEdge, RawSearch
from benchmarks.raw_jetstream import RawPublish
from benchmarks.stages import GENERATOR, Done
from engram_runtime.settings import Durability

SEARCHABLE = {"process": at_least(2_500), "power": at_least(1_000)}
RECALL = {10_000: (at_most(3.0), at_most(15.0)), 100_000: (None, at_most(30.0))}
"""Targets of p50 and p95 by the memories recalled among."""


@dataclass(frozen=True, slots=True)
class Writes:
    """Everything measured of writing at one durability."""

    durability: Durability
    bulk: Done
    singles: Done
    paced: Done
    waited: Done


@dataclass(frozen=True, slots=True)
class Recalls:
    """Recalls among so many memories (before and after), while `rate` memories a second came in."""

    before: int
    after: int
    where: str
    rate: int
    done: Done


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from starting `engram serve` to its readiness, with so many memories stored."""

    memories: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Idle:
    """What a system that is ready and left alone takes: memory and processor."""

    footprint: Footprint
    spent: Spent


@dataclass
class Results:
    """Everything a run measured."""

    publishes: Mapping[Durability, RawPublish]
    edge: RawEdge
    writes: list[Writes] = field(default_factory=list)
    recalls: list[Recalls] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    idle: Idle | None = None
    loaded: Footprint | None = None
    again: Done | None = None
    thought: Done | None = None
    fill: Done | None = None


def report(results: Results) -> str:
    """The tables of a run, as Markdown."""
    made = Report()
    for writes in results.writes:
        rows = list(_written(writes, results.publishes[writes.durability], results.edge))
        made.rows(f"Writing, durability `{writes.durability}`", rows, WRITING if writes is results.writes[0] else "")
    made.rows("Recall over HTTP, 10 results", list(_recalled(results)), RECALLING)
    made.rows("Think, start, memory", list(_others(results)), "")
    made.table("Cost by process", COSTS, list(_costs(results)), COSTING)
    return made.text()


WRITING = (
    "Accepted: from the first request to the last 202. Searchable: from the first request to the last `indexed` event, "
    "checked afterwards by counting index and record. Accepted to searchable: from the moment the client has read its "
    "202 to the moment its process has read the `indexed` event, over NATS, so both ends are the client's own clock. "
    "Latencies of paced writes count from when each was due. JetStream alone: the same bodies, from one Python client."
)
RECALLING = (
    "Idle recalls follow one another, each asked for the first time; under ingest 50 a second are due, whatever became "
    "of those before, and count from when they were due. Edge alone: the same hybrid query in process, embedded "
    "beforehand, the same tenants."
)
COSTING = (
    "Processor: user and system milliseconds, until everything that follows was done: memories indexed, linked and "
    "metered. Idle: percent of a core. RSS counts shared pages in every process, PSS a share of them, so only PSS adds "
    "up. MiB."
)
COSTS = (
    "process", "a memory of 100", "a single memory", "a recall", "a think", "idle", "RSS idle", "PSS idle",
    "RSS loaded", "PSS loaded",
)  # fmt: skip


def _written(writes: Writes, raw: RawPublish, edge: RawEdge) -> Iterator[Row]:
    publish = Raw(raw.in_flight_per_s, "JetStream, 64 in flight")
    grouped = Raw(raw.batches_per_s, "JetStream, batches of 100") if writes.durability == "power" else publish
    upsert = Raw(edge.upserted_per_s, "Edge upsert, batches of 64")
    yield Row("accepted, requests of 100", writes.bulk.accepted_per_s, "/s", raw=grouped)
    target = SEARCHABLE.get(writes.durability)
    yield Row("searchable, requests of 100", writes.bulk.searchable_per_s, "/s", target, upsert)
    yield Row("linked in the graph, requests of 100", writes.bulk.linked_per_s, "/s")
    yield Row("accepted, single writes", writes.singles.accepted_per_s, "/s", raw=publish)
    yield Row("searchable, single writes", writes.singles.searchable_per_s, "/s", raw=upsert)
    yield from _at_200(writes, Raw(raw.alone_p50_ms, "JetStream publish with ack"))
    everything = (writes.bulk, writes.singles, writes.paced, writes.waited)
    refused = sum(done.outcome.busy for done in everything)
    yield Row("refused for a while (429, 503) and sent again", refused, "requests")
    yield Row("kept busy by other programs meanwhile", _elsewhere(everything), "cores")


def _at_200(writes: Writes, alone: Raw) -> Iterator[Row]:
    answered, searchable = writes.paced.outcome.answer_ms, writes.paced.outcome.searchable_ms
    waited = writes.waited.outcome.answer_ms
    yield Row("request to 202 at 200/s, p50", p(50, answered), "ms", raw=alone)
    yield Row("request to 202 at 200/s, p95", p(95, answered), "ms", at_most(10))
    yield Row("accepted to searchable at 200/s, p50", p(50, searchable), "ms")
    yield Row("accepted to searchable at 200/s, p95", p(95, searchable), "ms", at_most(50))
    yield Row("accepted to searchable at 200/s, p99", p(99, searchable), "ms")
    yield Row("request to 201 with `?wait=indexed` at 200/s, p50", p(50, waited), "ms")
    yield Row("request to 201 with `?wait=indexed` at 200/s, p95", p(95, waited), "ms")


def _recalled(results: Results) -> Iterator[Row]:
    for recalls in results.recalls:
        size = 100_000 if recalls.before >= 90_000 else 10_000
        raw = _raw_search(results.edge, size, recalls.where)
        took = recalls.done.outcome.answer_ms
        half, most = RECALL[size]
        yield Row(f"{_named(recalls)}, p50", p(50, took), "ms", half, Raw(raw.p50_ms, "Edge hybrid search"))
        yield Row(f"{_named(recalls)}, p95", p(95, took), "ms", most, Raw(raw.p95_ms, "Edge hybrid search"))
    if results.again:
        took = results.again.outcome.answer_ms
        yield Row("asked again, nothing written meanwhile, p50", p(50, took), "ms")
        yield Row("asked again, nothing written meanwhile, p95", p(95, took), "ms")
    yield Row(
        "kept busy by other programs meanwhile",
        _elsewhere([one.done for one in results.recalls if not one.rate]),
        "cores",
    )


def _named(recalls: Recalls) -> str:
    grown = f" growing to {recalls.after:,}" if recalls.after > recalls.before else ""
    load = f"under {recalls.rate:,}/s" if recalls.rate else "idle"
    return f"{load}, {recalls.before:,} memories{grown}, {recalls.where}"


def _raw_search(edge: RawEdge, size: int, where: str) -> RawSearch:
    same = [search for search in edge.searches if search.where == where]
    return min(same, key=lambda search: abs(search.points - size))


def _others(results: Results) -> Iterator[Row]:
    if results.thought:
        yield Row("think over HTTP, extractive, p50", p(50, results.thought.outcome.answer_ms), "ms")
        yield Row("think over HTTP, extractive, p95", p(95, results.thought.outcome.answer_ms), "ms")
    for start in results.starts:
        yield Row(f"`engram serve` to ready, {start.memories:,} memories stored", start.seconds, "s", at_most(6.0))
    if results.idle:
        held = results.idle.footprint
        yield Row("memory idle in all, RSS", sum(held.rss.values()), "MiB", at_most(700))
        yield Row("memory idle in all, PSS", sum(held.pss.values()), "MiB", at_most(700))
    if results.fill:
        more = f"{results.fill.count:,} more"
        yield Row(f"searchable while filling up with {more}", results.fill.searchable_per_s, "/s")
    yield Row("static embedder alone, dense and sparse, one core", results.edge.embedded_per_s, "/s")


def _elsewhere(everything: Sequence[Done]) -> float:
    return max(done.spent.elsewhere_cores for done in everything)


def _costs(results: Results) -> Iterator[tuple[str, ...]]:
    columns = list(_columns(results))
    names = list(dict.fromkeys(name for column in columns for name in column))
    for name in names:
        yield (name, *(number(column[name]) if name in column else "" for column in columns))
    yield ("Engram in all", *(number(_total(column)) for column in columns))


def _columns(results: Results) -> Iterator[Mapping[str, float]]:
    """One column for each of `COSTS`, by process."""
    assert results.thought and results.idle and results.loaded
    writes = results.writes[0]
    for done in (writes.bulk, writes.singles, results.recalls[0].done, results.thought):
        yield done.each_ms()
    idle = results.idle
    yield {name: 100 * used / idle.spent.seconds for name, used in idle.spent.by_process.items()}
    yield from (idle.footprint.rss, idle.footprint.pss, results.loaded.rss, results.loaded.pss)


def _total(column: Mapping[str, float]) -> float:
    return sum(value for name, value in column.items() if name != GENERATOR)
