"""Filters as neutral conditions, and the tokens they are compared with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_contracts.memory import Filters, Memory
from engram_vectors.filters import AT, EXPIRES, TERMS, Match, Within, as_token, comparable, microseconds, terms, wanted
from support.memories import START, memory

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_every_field_becomes_a_condition() -> None:
    filters = Filters(
        user_id="ann", agent_id="bot", session_id="s1", speaker="Bob", kind=("fact", "note"), tags=("x", "y"),
        after=START, before=NOW, metadata={"city": "Rome", "n": 2},
    )  # fmt: skip

    found = wanted("acme", filters, now=NOW)

    assert found.tenant == "acme"
    assert set(found.must) == {
        Match(TERMS, ("user_id=ann",)),
        Match(TERMS, ("agent_id=bot",)),
        Match(TERMS, ("session_id=s1",)),
        Match(TERMS, ("speaker=Bob",)),
        Match(TERMS, ("kind=fact", "kind=note")),
        Match(TERMS, ("tag=x",)),
        Match(TERMS, ("tag=y",)),
        Match(TERMS, ('meta.city="Rome"',)),
        Match(TERMS, ("meta.n=2",)),
        Within(AT, at_least=microseconds(START), below=microseconds(NOW)),
    }
    assert found.must_not == (Within(EXPIRES, below=microseconds(NOW) + 1),)


def test_no_filters_leave_tenant_and_expiry() -> None:
    found = wanted("acme", Filters(), now=NOW)

    assert (found.must, len(found.must_not)) == ((), 1)


def test_a_memory_has_a_token_for_each_thing_that_can_be_asked() -> None:
    what = memory(
        1, user_id="Ann Lee", session_id="s1", speaker="Ann", kind="fact", tags=("a b", "c"),
        metadata={"n": 1.0, "on": True, "list": [1, 2], "text": "x y"},
    )  # fmt: skip

    assert terms(what).split(" ") == [
        "user_id=Ann%20;Lee", "session_id=s1", "speaker=Ann", "kind=fact", "said=ann", "tag=a%20;b", "tag=c",
        "meta.n=1", "meta.on=true", 'meta.text="x%20;y"',
    ]  # fmt: skip


@given(st.text(max_size=30), st.text(max_size=30))
def test_tokens_are_one_word_and_different_for_different_texts(one: str, other: str) -> None:
    assert len(as_token(f"x{one}").split()) == 1
    assert (as_token(one) == as_token(other)) == (one == other)


keys = st.text(min_size=1, max_size=8)
values = st.one_of(
    st.text(max_size=8), st.integers(-5, 5), st.booleans(), st.floats(-5, 5), st.sampled_from(["=", '"', 'a="x"', "1"])
)


@given(keys, values, keys, values)
def test_metadata_tokens_are_equal_exactly_where_key_and_value_are(
    key: str, value: Any, other_key: str, other: Any
) -> None:
    stored = set(terms(memory(1, metadata={key: value})).split(" "))
    asked = wanted("acme", Filters(metadata={other_key: other}), now=NOW).must[0]

    same = key == other_key and value == other and isinstance(value, bool) == isinstance(other, bool)
    assert isinstance(asked, Match)
    assert (asked.any_of[0] in stored) == same


@pytest.mark.parametrize("field", ["user_id", "agent_id", "session_id", "speaker"])
def test_a_value_of_one_field_is_never_taken_for_another(field: str) -> None:
    what: Memory = memory(1, tags=(f"{field}=x", f"tag={field}=x"), metadata={f"{field}": "x"})

    condition = wanted("acme", Filters.model_validate({field: "x"}), now=NOW).must[0]

    assert isinstance(condition, Match)
    assert condition.any_of[0] not in terms(what).split(" ")


def test_time_is_compared_in_utc_to_the_microsecond() -> None:
    east = datetime.fromisoformat("2026-01-01T05:00:00.000001+05:00")

    (condition,) = wanted("acme", Filters(after=east), now=NOW).must

    assert condition == Within(AT, at_least=microseconds(START) + 1)
    assert microseconds(START + timedelta(microseconds=1)) == microseconds(START) + 1


def test_a_blank_at_the_end_of_a_name_is_part_of_it() -> None:
    assert terms(memory(1, user_id="ann ")).split() == ["user_id=ann%20;", "kind=note"]


@pytest.mark.parametrize(
    ("value", "numbers", "moments"),
    [
        (3, {"a_20_b": 3.0}, {}),
        (True, {}, {}),
        ([3], {}, {}),
        ("3", {}, {}),
        (10**400, {}, {}),
        ("1970-01-02", {}, {"a_20_b": 86_400_000_000}),
        ("1970-01-01T01:00:00.5+01:00", {}, {"a_20_b": 500_000}),
        ("1970-02-30", {}, {}),
        ("9999-12-31T23:59:59-01:00", {}, {}),
    ],
)
def test_numbers_dates_and_times_of_metadata_can_be_compared(value: Any, numbers: Any, moments: Any) -> None:
    assert comparable({"a b": value}) == (numbers, moments)
