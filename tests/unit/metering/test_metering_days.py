from __future__ import annotations

from datetime import date

import pytest

from engram_contracts.errors import Rejected
from engram_metering.days import day_range


def test_both_ends_are_inclusive_and_may_be_the_same_day() -> None:
    assert day_range("2026-11-01", "2026-11-01") == (date(2026, 11, 1), date(2026, 11, 1))


def test_an_end_that_is_not_given_is_open() -> None:
    assert day_range(None, None) == (date.min, date.max)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-02-30", "20261101", "2026-W01-1", "2026-11-1"])
@pytest.mark.parametrize("field", ["since", "until"])
def test_what_is_no_date_is_refused_by_name(field: str, text: str) -> None:
    with pytest.raises(Rejected, match="YYYY-MM-DD") as refused:
        day_range(**{"since": None, "until": None, field: text})

    assert refused.value.field == field


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(Rejected) as refused:
        day_range("2026-11-02", "2026-11-01")

    assert refused.value.field == "until"
