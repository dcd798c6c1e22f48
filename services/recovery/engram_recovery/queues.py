"""What Prometheus is told of everything that waits: how much for each stage, and since when the oldest of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from prometheus_client import Gauge

from engram_contracts.topology import CONSUMERS, Consumer, Stream
from engram_runtime.bus import Backlog, Bus

DEPTH = Gauge("engram_queue_depth", "Messages that wait for a stage, or are in its hands.", ["stream", "stage"])
OLDEST = Gauge("engram_queue_oldest_seconds", "Age of the oldest message that waits for a stage.", ["stream", "stage"])
MESSAGES = Gauge("engram_stream_messages", "Messages that a stream holds.", ["stream"])


class Queue(NamedTuple):
    """A stage's share of a stream."""

    stream: str
    stage: str


def stage_of(consumer: Consumer) -> str:
    """The stage that a consumer belongs to, by the first part of its name."""
    return consumer.name.partition("-")[0]


async def measure(bus: Bus, streams: Sequence[Stream], *, now: datetime | None = None) -> None:
    """Bring the gauges up to date. Raises `Unavailable` where the broker does not tell."""
    for stream in streams:
        MESSAGES.labels(stream.name).set((await bus.archive(stream).extent()).messages)
        backlogs = await bus.backlogs(stream)
        for queue, depth in depths(stream, backlogs).items():
            DEPTH.labels(*queue).set(depth)
        since = await _oldest(bus, stream, backlogs)
        for queue in depths(stream, backlogs):
            began = since.get(queue)
            OLDEST.labels(*queue).set(((now or datetime.now(UTC)) - began).total_seconds() if began else 0.0)


def depths(stream: Stream, backlogs: Mapping[str, Backlog]) -> dict[Queue, int]:
    """Messages before each stage, over all its consumers of a stream."""
    found: defaultdict[Queue, int] = defaultdict(int)
    for consumer in _of(stream):
        if (backlog := backlogs.get(consumer.name)) is not None:
            found[Queue(stream.name, stage_of(consumer))] += backlog.depth
    return dict(found)


async def _oldest(bus: Bus, stream: Stream, backlogs: Mapping[str, Backlog]) -> dict[Queue, datetime]:
    busy = [each for each in _of(stream) if each.name in backlogs and backlogs[each.name].depth]
    times = await asyncio.gather(*(_since(bus, consumer, backlogs[consumer.name].floor) for consumer in busy))
    found: dict[Queue, datetime] = {}
    for consumer, at in zip(busy, times, strict=True):
        queue = Queue(stream.name, stage_of(consumer))
        if at is not None and at < found.get(queue, datetime.max.replace(tzinfo=UTC)):
            found[queue] = at
    return found


async def _since(bus: Bus, consumer: Consumer, floor: int) -> datetime | None:
    """When the first message behind what a consumer has settled came to the stream."""
    archive = bus.archive(consumer.stream)
    found = [await archive.read(floor + 1, pattern=pattern, limit=1) for pattern in consumer.filters]
    return min((first.at for part in found for first in part), default=None)


def _of(stream: Stream) -> list[Consumer]:
    return [consumer for consumer in CONSUMERS if consumer.stream.name == stream.name]
