"""Messages: strict at the door, tolerant between releases, and the same on both sides of the wire."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engram_contracts.commands import Remember, Revise
from engram_contracts.errors import FAMILY, Failure
from engram_contracts.ids import JobId, derived_id, new_id
from engram_contracts.memory import MemoryChanges, MemoryFields, NewMemory
from engram_contracts.retry import Retry

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def remember(**fields: object) -> Remember:
    return Remember(id=new_id(), accepted_at=NOW, memory_id=new_id(), memory=MemoryFields(content="x", **fields))


def test_the_door_refuses_a_field_it_does_not_know():
    with pytest.raises(ValidationError, match="colour"):
        NewMemory.model_validate_json('{"content": "x", "colour": "red"}')


def test_a_follower_ignores_a_field_of_a_later_release():
    later = remember().encode()[:-1] + b', "mood": "calm"}'

    assert Remember.model_validate_json(later).memory.content == "x"


@pytest.mark.parametrize("content", ["", "   ", "\n\t", "x" * 10_001])
def test_content_must_say_something_within_bounds(content):
    with pytest.raises(ValidationError):
        NewMemory(content=content)


def test_a_time_without_zone_is_utc_and_others_become_utc():
    naive = NewMemory.model_validate_json('{"content": "x", "occurred_at": "2024-05-01T10:00:00"}')
    zoned = NewMemory.model_validate_json('{"content": "x", "occurred_at": "2024-05-01T12:00:00+02:00"}')

    assert naive.occurred_at == zoned.occurred_at == datetime(2024, 5, 1, 10, tzinfo=UTC)


def test_a_change_keeps_apart_what_is_cleared_and_what_is_left_alone():
    changes = MemoryChanges.model_validate_json('{"speaker": null, "importance": 0.9}').changed()
    sent = Revise(id=new_id(), accepted_at=NOW, memory_id=new_id(), changes=changes)

    received = Revise.model_validate_json(sent.encode()).edit()

    assert received.changed() == {"speaker": None, "importance": 0.9}


def test_content_cannot_be_cleared():
    with pytest.raises(ValidationError, match=r"cannot be|cleared"):
        MemoryChanges.model_validate_json('{"content": null}')


@pytest.mark.parametrize("kind", FAMILY.values(), ids=lambda kind: kind.code)
def test_an_error_is_the_same_on_the_other_side_of_the_wire(kind):
    error = kind("what happened", field="content", retry_after=2.5, details={"limit": 3})

    other = Failure.model_validate_json(Failure.of(error).encode()).error()

    assert type(other) is kind
    assert (other.message, other.field, other.retry_after, other.details) == (
        error.message, error.field, error.retry_after, error.details,
    )  # fmt: skip


def test_a_foreign_exception_keeps_its_words_to_itself():
    failure = Failure.of(ValueError("password=hunter2"))

    assert failure.code == "INTERNAL_ERROR"
    assert "hunter2" not in failure.message


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_derived_ids_differ_where_their_parts_differ(a, b, c):
    assert derived_id(a, b, c) == derived_id(a, b, c)
    assert derived_id(a, b + c) != derived_id(a, b, c)
    assert (derived_id(a, b) == derived_id(b, a)) is (a == b)


def test_new_ids_are_ordered_by_time():
    ids = [new_id() for _ in range(100)]

    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)
    assert len(set(ids)) == 100


@given(st.integers(min_value=1, max_value=2**63), st.uuids(), st.binary(min_size=16, max_size=32))
def test_a_job_id_opens_only_for_its_tenant(sequence, command, pepper):
    job = JobId(sequence, str(command))
    text = job.text("acme", pepper)

    assert JobId.parse(text, "acme", pepper) == job
    assert JobId.parse(text, "other", pepper) is None
    assert JobId.parse(text[:-1] + ("0" if text[-1] != "0" else "1"), "acme", pepper) is None


@given(st.text(max_size=200))
def test_junk_is_no_job_id(text):
    assert JobId.parse(text, "acme", b"pepper") is None


@given(st.integers(1, 50), st.floats(0, 1), st.none() | st.floats(0, 10_000))
def test_a_retry_delay_is_bounded_spread_and_honours_advice(attempt, chance, advised):
    retry = Retry()

    delay = retry.delay(attempt, chance=chance, advised=advised)

    assert delay >= (advised or 0)
    assert delay <= max(retry.most * (1 + retry.jitter), advised or 0)
    assert retry.delay(attempt, chance=0.0) <= retry.delay(attempt, chance=1.0)


def test_a_trusted_message_is_the_validated_one():
    checked = remember(tags=("a",), importance=0.25)

    trusted = Remember.trusted(dict(checked))

    assert trusted == checked
    assert trusted.encode() == checked.encode()
    assert Remember.model_validate_json(trusted.encode()) == checked
    with pytest.raises(ValidationError, match="frozen"):
        trusted.memory_id = "another"
