"""Dates in texts, absolute and relative."""

from __future__ import annotations

from datetime import date

import pytest

from engram_graph.dates import find_dates

MONDAY = date(2023, 5, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on 2023-05-08 at noon", ["2023-05-08"]),
        ("8 May 2023", ["2023-05-08"]),
        ("1:56 pm on 8 May, 2023", ["2023-05-08"]),
        ("May 8th, 2023", ["2023-05-08"]),
        ("the 3rd of June", ["2023-06-03"]),
        ("on Dec 30", ["2022-12-30"]),
        ("in May 2023", ["2023-05"]),
        ("Sept. 2021", ["2021-09"]),
        ("back in 2019", ["2019"]),
        ("yesterday", ["2023-05-07"]),
        ("last night", ["2023-05-07"]),
        ("tomorrow", ["2023-05-09"]),
        ("last Saturday", ["2023-05-06"]),
        ("last Monday", ["2023-05-01"]),
        ("next Monday", ["2023-05-15"]),
        ("next Fri", ["2023-05-12"]),
        ("two weeks ago", ["2023-04-24"]),
        ("a couple of days ago", ["2023-05-06"]),
        ("3 months ago", ["2023-02"]),
        ("ten years ago", ["2013"]),
        ("last week", ["2023-W18"]),
        ("next month", ["2023-06"]),
        ("last year", ["2022"]),
        ("February 30 2023", []),
        ("2023-13-01", []),
        ("may 8 people come", []),
        ("I may go, and march on", []),
        ("999 years ago and 2000 things", ["1024"]),
    ],
)
def test_dates_are_found(text: str, expected: list[str]) -> None:
    assert list(find_dates(text, MONDAY)) == expected


def test_without_a_moment_only_whole_dates_are_found() -> None:
    assert list(find_dates("yesterday, May 8, and on 9 May 2023", None)) == ["2023-05-09"]


def test_no_moment_breaks_the_calendar() -> None:
    assert list(find_dates("yesterday, two weeks ago, 900 years ago", date(1, 1, 1))) == []
