"""What a query says of whom and when it asks about."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engram_vectors.question import in_first_person, names_in, times_in

NOW = datetime(2026, 11, 18, 15, 30, tzinfo=UTC)  # a Wednesday


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("What did Ann buy?", ["ann"]),
        ("When did Mary-Jane meet Bob Smith?", ["mary-jane", "bob", "smith"]),
        ("Where is it?", []),
        ("", []),
        ("Что купила Анна?", ["что", "анна"]),
        ("😀 你好", []),
    ],
)
def test_capitalised_words_may_be_names(query: str, names: list[str]) -> None:
    assert names_in(query) == names


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("What did Ann buy?", "What did I buy?"),
        ("What is Ann's dog called?", "What is my dog called?"),
        ("What did Ann Smith buy?", "What did I buy?"),
        ("What does Annabel like?", None),
        ("Who paid?", None),
    ],
)
def test_a_speakers_name_is_put_in_the_first_person(query: str, said: str | None) -> None:
    assert in_first_person(query, {"ann", "smith"}) == said
    assert in_first_person(query, set()) is None


@pytest.mark.parametrize(
    ("query", "start", "end"),
    [
        ("what happened on 2026-05-07?", "2026-05-07", "2026-05-08"),
        ("on 7 May 2025", "2025-05-07", "2025-05-08"),
        ("on May 7th", "2026-05-07", "2026-05-08"),
        ("on December 24", "2025-12-24", "2025-12-25"),
        ("last May", "2026-05-01", "2026-06-01"),
        ("in December", "2025-12-01", "2026-01-01"),
        ("in August 2024", "2024-08-01", "2024-09-01"),
        ("in 2023", "2023-01-01", "2024-01-01"),
        ("yesterday", "2026-11-17", "2026-11-18"),
        ("last week", "2026-11-09", "2026-11-16"),
        ("last month", "2026-10-01", "2026-11-01"),
        ("last Wednesday", "2026-11-11", "2026-11-12"),
        ("two weeks ago", "2026-11-02", "2026-11-07"),
        ("3 days ago", "2026-11-15", "2026-11-16"),
    ],
)
def test_times_are_understood_from_a_moment_on(query: str, start: str, end: str) -> None:
    found = times_in(query, NOW)

    assert [(each.start.date().isoformat(), each.end.date().isoformat()) for each in found] == [(start, end)]


@pytest.mark.parametrize("query", ["she may go", "31 February 2024", "99999 weeks ago", "the 2023 model", "march on"])
def test_what_is_no_time_gives_none(query: str) -> None:
    assert times_in(query, NOW) == []


def test_a_query_of_a_million_characters_is_read_quickly() -> None:
    assert len(names_in("Ann " * 250_000)) == 1
    assert len(times_in("in 2023 " * 125_000, NOW)) > 0
