from datetime import UTC, datetime

import pytest
from multidict import CIMultiDict

from engram_api.calls import Prefer
from engram_api.incoming import correlation_id, deadline, idempotency_key, preferences
from engram_contracts.errors import Rejected


@pytest.mark.parametrize(
    ("given", "known_as"),
    [
        (None, "mine"),
        ("abc-1.2:3/4", "abc-1.2:3/4"),
        ("a b\tc{}", "abc"),
        ('"><script>', "script"),
        ("{}", "mine"),
        ("x" * 500, "x" * 128),
    ],
)
def test_a_correlation_id_is_taken_cut_and_cleaned(given: str | None, known_as: str) -> None:
    headers = CIMultiDict({"x-correlation-id": given} if given else {})

    assert correlation_id(headers, "mine") == known_as


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ([], Prefer()),
        (["wait=5"], Prefer(wait=5.0)),
        (["respond-async, wait=10"], Prefer(wait=10.0, respond_async=True)),
        (['Wait = "7"', "respond-async"], Prefer(wait=7.0, respond_async=True)),
        (["wait=soon"], Prefer()),
        (["wait=-1"], Prefer()),
        (["wait=²"], Prefer()),
        (["handling=lenient; x=y, return=minimal"], Prefer()),
        (["wait=1, wait=2"], Prefer(wait=1.0)),
    ],
)
def test_preferences_are_read_and_what_is_not_understood_passed_over(given: list[str], understood: Prefer) -> None:
    assert preferences(CIMultiDict([("Prefer", value) for value in given])) == understood


@pytest.mark.parametrize("keys", [[""], ["a b"], ["é"], ["x" * 256], ["a", "a"]])
def test_a_bad_idempotency_key_is_refused(keys: list[str]) -> None:
    with pytest.raises(Rejected) as caught:
        idempotency_key(CIMultiDict([("Idempotency-Key", key) for key in keys]))

    assert caught.value.field == "Idempotency-Key"


def test_a_deadline_is_a_time_in_utc_where_it_names_no_zone() -> None:
    assert deadline(CIMultiDict()) is None
    given = [
        deadline(CIMultiDict({"engram-deadline": text})) for text in ("2026-01-31T13:00:00+01:00", "2026-01-31T12:00")
    ]
    assert given == [datetime(2026, 1, 31, 12, tzinfo=UTC)] * 2


@pytest.mark.parametrize("given", [["soon"], ["5000"], ["2026-01-31", "2026-01-31"]])
def test_what_is_no_time_is_no_deadline(given: list[str]) -> None:
    with pytest.raises(Rejected) as caught:
        deadline(CIMultiDict([("Engram-Deadline", text) for text in given]))

    assert caught.value.field == "Engram-Deadline"
