"""What two looks at the metrics say about the time between them."""

from __future__ import annotations

import pytest

from engram.rates import Look, compared, grown, quantile

DOOR = """# TYPE engram_requests_total counter
engram_requests_total{{route="/v1/recall",method="POST",status="200"}} {fine}
engram_requests_total{{route="/v1/recall",method="POST",status="503"}} {failed}
engram_requests_total{{route="/v1/recall",method="POST",status="429"}} {refused}
"""
WORKER = """# TYPE engram_messages_handled_total counter
engram_messages_handled_total{{stage="embedder"}} {handled}
# TYPE engram_batch_seconds histogram
engram_batch_seconds_bucket{{stage="embedder",le="0.01"}} {quick}
engram_batch_seconds_bucket{{stage="embedder",le="0.1"}} {all}
engram_batch_seconds_bucket{{stage="embedder",le="+Inf"}} {all}
# TYPE engram_queue_oldest_seconds gauge
engram_queue_oldest_seconds{{stage="embedder",stream="ENGRAM_WORK"}} {oldest}
"""


def look(at: float, scale: int) -> Look:
    door = DOOR.format(fine=10 * scale, failed=2 * scale, refused=scale)
    worker = WORKER.format(handled=8 * scale, quick=50 * scale, all=100 * scale, oldest=1.5)
    return Look.of(at, [door, worker, worker])


def test_counters_of_all_processes_add_up_and_become_rates() -> None:
    told = compared(look(0.0, 1), look(2.0, 2), {"embedder": 7})

    assert told["requests"] == {"per_second": 6.5, "failed_per_second": 1.0, "refused_per_second": 0.5, "p95_ms": None}
    embedder = told["stages"][0]
    assert embedder["per_second"] == 8.0 and embedder["waiting"] == 7 and embedder["oldest_s"] == 1.5


def test_a_share_of_a_histogram_lies_evenly_between_two_bounds() -> None:
    before, after = look(0.0, 1), look(2.0, 2)

    assert quantile(before, after, "engram_batch_seconds", 0.5) == 0.01
    assert quantile(before, after, "engram_batch_seconds", 0.75) == pytest.approx(0.055)
    assert quantile(after, after, "engram_batch_seconds", 0.95) is None


def test_a_process_that_began_anew_counts_as_nothing() -> None:
    assert grown(look(0.0, 5), look(1.0, 1), "engram_messages_handled_total") == 0.0
