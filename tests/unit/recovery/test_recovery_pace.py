"""The rate of a replay holds over the run, through delays, and without bursts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_recovery.pace import BURST_SECONDS, CATCHING_UP, MOST_AT_ONCE, Pace


def run(pace: Pace, count: int, delays: list[float]) -> list[tuple[float, int]]:
    """When lots go out, and how many in each, where each takes a delay in turn."""
    now, lots, left = 0.0, [], count
    while left > 0:
        now += pace.wait(now)
        lot = min(pace.lot(now), left)
        lots.append((now, lot))
        pace.sent(lot)
        left -= lot
        now += delays[len(lots) % len(delays)]
    return lots


@pytest.mark.parametrize("rate", [0.5, 7.0, 50.0, 200.0, 3_000.0])
@given(delays=st.lists(st.floats(0, 0.02), min_size=1, max_size=20))
def test_the_rate_holds_over_the_run(rate, delays):
    count = max(int(rate * 10), 20)

    lots = run(Pace(rate, 0.0), count, [min(delay, 10 / rate) for delay in delays])

    assert count / (lots[-1][0] + 1 / rate) == pytest.approx(rate, rel=0.1)


def test_a_delay_of_seconds_is_made_up_for():
    rate = 250.0

    lots = run(Pace(rate, 0.0), 10_000, [*([0.001] * 100), 4.0, *([0.001] * 3_000)])

    assert 10_000 / lots[-1][0] == pytest.approx(rate, rel=0.02)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20))
def test_no_stretch_goes_out_much_faster_than_the_rate_and_a_second_of_it(delays):
    rate = 100.0

    lots = run(Pace(rate, 0.0), 600, delays)

    for n, (start, _) in enumerate(lots):
        sent = 0
        for at, lot in lots[n:]:
            sent += lot
            assert sent <= rate * (CATCHING_UP * (at - start) + BURST_SECONDS) + MOST_AT_ONCE / 50


@pytest.mark.parametrize("gap", [0.0, 1.0, 2.0])
def test_the_rate_holds_over_runs_that_were_cut_short(gap):
    rate, count, kills = 25.0, 500, 3
    now, sent = 0.0, 0
    for part in range(1, kills + 2):
        pace = Pace.resumed(rate, now, sent=sent, elapsed=now)
        while sent < count * part / (kills + 1):
            now += pace.wait(now)
            lot = pace.lot(now)
            pace.sent(lot)
            sent += lot
        now += gap

    assert now - gap == pytest.approx(count / rate, rel=0.1)


@given(elapsed=st.floats(-1e6, 1e6), sent=st.integers(0, 10_000))
def test_a_clock_that_went_wrong_neither_stops_a_run_nor_lets_it_rush(elapsed, sent):
    rate = 10.0

    pace = Pace.resumed(rate, 0.0, sent=sent, elapsed=elapsed)

    assert pace.wait(0.0) <= 1 / rate
    assert pace.lot(0.0) <= rate * BURST_SECONDS


def test_without_a_rate_nothing_waits():
    pace = Pace(None, 0.0)

    assert (pace.wait(0.0), pace.lot(0.0)) == (0.0, MOST_AT_ONCE)


def test_the_first_message_of_a_slow_replay_goes_at_once():
    pace = Pace(0.01, 0.0)

    first = pace.wait(0.0)
    pace.sent(1)

    assert (first, pace.wait(0.0)) == (0.0, 100.0)
