"""What two looks at the metrics of all processes say about the time between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
ADDED = ("_total", "_bucket")
"""Endings of samples that add up over processes; of others the largest counts, since each tells of the same thing."""


@dataclass
class Look:
    """All samples of all processes at one moment. `at` is in seconds of any clock."""

    at: float
    samples: defaultdict[str, dict[Labels, float]] = field(default_factory=lambda: defaultdict(dict))

    @classmethod
    def of(cls, at: float, pages: Iterable[str]) -> Look:
        """A look at the metrics pages of the processes."""
        look = cls(at)
        for page in pages:
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    look._add(sample.name, frozenset(sample.labels.items()), sample.value)
        return look

    def _add(self, name: str, labels: Labels, value: float) -> None:
        known = self.samples[name].get(labels)
        if known is None:
            self.samples[name][labels] = value
        else:
            self.samples[name][labels] = known + value if name.endswith(ADDED) else max(known, value)

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        wanted = set(labels.items())
        return sum(value for found, value in self.samples.get(name, {}).items() if wanted <= found)

    def values(self, name: str, label: str) -> set[str]:
        """Every value that a label has."""
        return {value for found in self.samples.get(name, {}) for key, value in found if key == label}


def grown(before: Look, after: Look, name: str, **labels: str) -> float:
    """How much a counter grew; a process that was started anew begins at 0, which counts as nothing."""
    return max(after.total(name, **labels) - before.total(name, **labels), 0.0)


def quantile(before: Look, after: Look, name: str, share: float, **labels: str) -> float | None:
    """The value under which this share of a histogram's new observations lies; `None` without any.

    Between two bounds the values are taken to lie evenly, as Prometheus does.
    """
    bounds = sorted((float(bound), bound) for bound in after.values(f"{name}_bucket", "le"))
    counts = [(bound, grown(before, after, f"{name}_bucket", le=text, **labels)) for bound, text in bounds]
    if not counts or not counts[-1][1]:
        return None
    wanted, below, low = share * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            return low if bound == float("inf") else low + (bound - low) * (wanted - below) / (count - below or 1.0)
        below, low = count, bound
    return low


def compared(before: Look, after: Look, waiting: Mapping[str, int]) -> dict[str, Any]:
    """Requests and stages: rates a second, what waits and how long, the 95th percentile in milliseconds."""
    seconds = max(after.at - before.at, 1e-9)
    stages = sorted(waiting.keys() | after.values("engram_batch_seconds_bucket", "stage"))
    return {
        "seconds": round(seconds, 3),
        "requests": _requests(before, after, seconds),
        "stages": [_stage(before, after, seconds, stage, waiting.get(stage, 0)) for stage in stages],
    }


def _requests(before: Look, after: Look, seconds: float) -> dict[str, Any]:
    statuses = after.values("engram_requests_total", "status")
    failed = sum(grown(before, after, "engram_requests_total", status=each) for each in statuses if each >= "500")
    refused = grown(before, after, "engram_requests_total", status="429")
    return {
        "per_second": round(grown(before, after, "engram_requests_total") / seconds, 2),
        "failed_per_second": round(failed / seconds, 2),
        "refused_per_second": round(refused / seconds, 2),
        "p95_ms": _milliseconds(quantile(before, after, "engram_request_seconds", 0.95)),
    }


def _stage(before: Look, after: Look, seconds: float, stage: str, waiting: int) -> dict[str, Any]:
    oldest = [
        value for labels, value in after.samples["engram_queue_oldest_seconds"].items() if ("stage", stage) in labels
    ]
    return {
        "stage": stage,
        "per_second": round(grown(before, after, "engram_messages_handled_total", stage=stage) / seconds, 2),
        "waiting": waiting,
        "oldest_s": round(max(oldest, default=0.0), 3),
        "retries_per_second": round(grown(before, after, "engram_messages_retried_total", stage=stage) / seconds, 2),
        "dead": int(after.total("engram_dead_letters", stage=stage)),
        "p95_wait_ms": _milliseconds(quantile(before, after, "engram_wait_seconds", 0.95, stage=stage)),
        "p95_handling_ms": _milliseconds(quantile(before, after, "engram_batch_seconds", 0.95, stage=stage)),
        "held": after.total("engram_breaker_open", stage=stage) > 0,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
