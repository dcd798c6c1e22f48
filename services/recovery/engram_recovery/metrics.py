"""What Prometheus is told of the dead letters, and of what waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterator

from prometheus_client import REGISTRY, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engram_contracts.errors import Unavailable
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import DEAD, STREAMS, dead_pattern
from engram_recovery.queues import measure
from engram_runtime.bus import Bus

REPLAYS_ENDED = Counter("engram_replays_total", "Replays that ended.", ["state"])


class DeadLetterGauge(Collector):
    """How many dead letters of each stage lie there now.

    A collector, because the client library takes a gauge for a namesake of the counter `engram_dead_letters_total`.
    """

    def __init__(self) -> None:
        self.by_stage: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        """The gauge `engram_dead_letters`."""
        gauge = GaugeMetricFamily("engram_dead_letters", "Dead letters that lie there now.", labels=["stage"])
        for stage, count in self.by_stage.items():
            gauge.add_metric([stage], count)
        yield gauge

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that no names are compared."""
        yield from ()


@contextlib.asynccontextmanager
async def counting(bus: Bus, *, every: float) -> AsyncIterator[None]:
    """Keep the gauges up to date while the context is open."""
    gauge = DeadLetterGauge()
    REGISTRY.register(gauge)
    task = asyncio.create_task(_count(bus, gauge, every))
    try:
        yield
    finally:
        task.cancel()
        REGISTRY.unregister(gauge)


async def _count(bus: Bus, gauge: DeadLetterGauge, every: float) -> None:
    archive = bus.archive(DEAD)
    while True:
        with contextlib.suppress(Unavailable):
            await measure(bus, STREAMS)
            gauge.by_stage = counted(await archive.subjects(dead_pattern(SYSTEM)), gauge.by_stage)
        await asyncio.sleep(every)


def counted(subjects: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """Dead letters by stage; a stage that has none any more stays, with 0."""
    tally = Tally(dict.fromkeys(before, 0))
    for subject, count in subjects.items():
        tally[subject.split(".")[2]] += count
    return dict(tally)
