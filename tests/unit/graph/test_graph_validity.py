"""Stretches of validity of one edge."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from engram_graph.validity import Stretch, put

START = datetime(2020, 1, 1, tzinfo=UTC)


def day(number: int) -> datetime:
    return START + timedelta(days=number)


def test_a_later_beginning_closes_the_older_stretch() -> None:
    stretches = put([Stretch(weight=1, valid_from=day(0))], Stretch(weight=2, valid_from=day(5)))

    assert stretches == [Stretch(weight=1, valid_from=day(0), valid_to=day(5)), Stretch(weight=2, valid_from=day(5))]


def test_the_same_beginning_corrects_weight_and_end() -> None:
    stretches = put([Stretch(weight=1, valid_from=day(0))], Stretch(weight=2, valid_from=day(0), valid_to=day(3)))

    assert stretches == [Stretch(weight=2, valid_from=day(0), valid_to=day(3))]


def test_one_without_bounds_replaces_all() -> None:
    old = put([Stretch(weight=1, valid_to=day(3))], Stretch(weight=2, valid_from=day(5)))

    assert put(old, Stretch(weight=9)) == [Stretch(weight=9)]


moments = st.none() | st.integers(0, 9).map(day)
whole = st.builds(
    lambda weight, ends: Stretch(weight=weight, valid_from=ends[0], valid_to=ends[1]),
    st.floats(1, 9),
    st.tuples(moments, moments).filter(lambda ends: None in ends or ends[0] < ends[1]),
)


@given(st.lists(whole, max_size=8), whole)
def test_at_no_moment_do_two_stretches_hold(earlier: list[Stretch], last: Stretch) -> None:
    stretches: list[Stretch] = []
    for each in [*earlier, last]:
        stretches = put(stretches, each)

    for half_days in range(-1, 21):
        at = START + timedelta(hours=12 * half_days)
        holding = [each for each in stretches if each.holds(at)]
        assert len(holding) <= 1
        if last.holds(at):
            assert holding == [last]
