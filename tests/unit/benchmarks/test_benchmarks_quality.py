"""The figures that recall is judged by."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quality.asking import Unexplained, check
from benchmarks.quality.figures import interval, ndcg, recall, reciprocal_rank
from benchmarks.quality.results import keep


def test_figures_of_a_known_order() -> None:
    found, answers = ["x", "a", "y", "b"], {"a", "b", "c"}

    assert recall(found, answers, 2) == pytest.approx(1 / 3)
    assert recall(found, answers, 4) == pytest.approx(2 / 3)
    assert reciprocal_rank(found, answers) == 0.5
    assert reciprocal_rank(["x"], answers) == 0.0
    assert ndcg(["a", "b", "c"], answers) == pytest.approx(1.0)
    assert ndcg(["x", "a"], {"a"}) == pytest.approx(0.6309, abs=1e-4)


def test_an_interval_holds_its_mean_and_repeats_itself() -> None:
    values = [0.0, 1.0, 1.0, 0.5] * 20

    found = interval(values)

    assert found.low < found.mean < found.high
    assert found == interval(values)


def test_a_score_that_is_not_the_sum_of_its_parts_is_found() -> None:
    right = {"score": 0.5, "explain": {"parts": {"dense": 0.3, "sparse": 0.2}}}

    check([right, {"score": 0.2, "explain": {"parts": {"dense": 0.2}}}])

    with pytest.raises(Unexplained):
        check([{**right, "score": 0.51}])
    with pytest.raises(Unexplained):
        check([{"score": 0.2, "explain": {"parts": {"dense": 0.2}}}, right])


def test_a_run_replaces_its_own_tables_alone(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"

    for name, tables in (("one", "1"), ("two", "2"), ("one", "3")):
        keep(name, tables, file=file)

    assert [line for line in file.read_text().splitlines() if line in {"1", "2", "3"}] == ["3", "2"]
