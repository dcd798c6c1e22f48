from datetime import UTC, datetime, timedelta

import pytest

from engram_api.jobs import job
from engram_api.whereabouts import Sighting
from engram_contracts.events import CancelMark, JobTrouble, JobTry
from engram_contracts.facts import Thought
from engram_contracts.ids import new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import IndexedMemory, JobRecord
from engram_contracts.topology import work_subject
from engram_runtime.bus import Stored

T0 = datetime(2026, 1, 1, tzinfo=UTC)
COMMAND = new_id()


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def waiting() -> Stored:
    return Stored(subject=work_subject("acme", "remember"), body=b"{}", id=COMMAND, at=at(0))


def record(memory_id: str | None = COMMAND, **fields) -> JobRecord:
    return JobRecord(memory_id=memory_id, accepted_at=at(0), embedded_at=at(1), linked_at=at(3), **fields)


def indexed(command: str = COMMAND, *, memory_id: str = COMMAND, updated: float = 1) -> IndexedMemory:
    memory = Memory(id=memory_id, content="x", created_at=at(1), updated_at=at(updated))
    return IndexedMemory(memory=memory, indexed_at=at(2), command=command)


def trouble(state: str) -> JobTrouble:
    return JobTrouble(
        state=state, stage="embedder", attempt=3, reason="no model", code="UNAVAILABLE", at=at(2),
        next_at=at(9), dead_sequence=7 if state == "dead" else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "state", "stages"),
    [
        (Sighting(waiting=waiting()), "accepted", ["accepted"]),
        (Sighting(), "embedded", ["accepted", "embedded"]),
        (Sighting(degraded=("work",)), "accepted", ["accepted"]),
        (Sighting(indexed=indexed()), "indexed", ["accepted", "embedded", "indexed"]),
        (Sighting(record=record()), "linked", ["accepted", "embedded", "linked"]),
        (Sighting(record=record(), indexed=indexed()), "done", ["accepted", "embedded", "indexed", "linked", "done"]),
        (Sighting(record=record(), forgotten=True), "done", ["accepted", "embedded", "linked", "done"]),
        (Sighting(record=record(None)), "done", ["accepted", "embedded", "linked", "done"]),
        (Sighting(waiting=waiting(), trouble=trouble("retrying")), "retrying", ["accepted"]),
        (Sighting(trouble=trouble("retrying")), "embedded", ["accepted", "embedded"]),
        (Sighting(trouble=trouble("dead")), "dead", ["accepted"]),
        (Sighting(trouble=trouble("dead"), record=record()), "dead", ["accepted", "embedded", "linked"]),
        (Sighting(trouble=trouble("cancelled")), "cancelled", ["accepted"]),
        (Sighting(trouble=trouble("expired")), "expired", ["accepted"]),
    ],
)
def test_the_state_is_the_last_stage_that_can_be_shown(seen: Sighting, state: str, stages: list[str]) -> None:
    told = job("job_1", COMMAND, seen)

    assert told.state == state
    assert [reached.stage for reached in told.stages] == stages


def test_what_was_replayed_after_its_death_is_done() -> None:
    told = job("job_1", COMMAND, Sighting(trouble=trouble("dead"), record=record(), indexed=indexed()))

    assert (told.state, told.dead) == ("done", None)


def test_a_change_is_not_done_while_the_index_shows_the_version_before() -> None:
    change = new_id()
    before = indexed("the first command", memory_id="m", updated=-5)
    after = indexed("a later command", memory_id="m", updated=8)

    assert job("job_1", change, Sighting(record=record("m"), indexed=before)).state == "linked"
    assert job("job_1", change, Sighting(record=record("m"), indexed=after)).state == "done"


def test_a_retried_job_says_when_and_why() -> None:
    told = job("job_1", COMMAND, Sighting(waiting=waiting(), trouble=trouble("retrying")))

    assert (told.attempt, told.next_at, told.reason) == (3, at(9), "no model")


def test_a_dead_job_says_where_it_lies() -> None:
    told = job("job_1", COMMAND, Sighting(trouble=trouble("dead")))

    assert told.dead is not None and (told.dead.stage, told.dead.sequence) == ("embedder", 7)


def test_a_timeline_tells_each_step_and_each_failed_try_in_order() -> None:
    tries = tuple(
        JobTry(stage="embedder", attempt=n, at=at(n / 10), code="UNAVAILABLE", reason=f"no model, {n}") for n in (1, 2)
    )
    retried = trouble("retrying").model_copy(update={"tries": tries})
    dead = trouble("dead").model_copy(update={"tries": tries})

    done = job("job_1", COMMAND, Sighting(record=record(), indexed=indexed(), trouble=retried)).timeline
    buried = job("job_1", COMMAND, Sighting(trouble=dead)).timeline

    assert [(step.stage, step.attempt) for step in done] == [
        ("accepted", None), ("embedder", 1), ("embedder", 2), ("embedded", None), ("indexed", None),
        ("linked", None), ("done", None),
    ]  # fmt: skip
    assert [(step.stage, step.attempt, step.reason) for step in buried] == [
        ("accepted", None, None), ("embedder", 1, "no model, 1"), ("embedder", 2, "no model, 2"),
        ("dead", 3, "no model"),
    ]  # fmt: skip


def test_a_job_that_was_asked_to_end_is_cancelling_until_it_ended_or_is_done() -> None:
    mark = CancelMark(at=at(1), actor="key1")

    asked = job("job_1", COMMAND, Sighting(waiting=waiting(), cancel=mark))
    ended = job("job_1", COMMAND, Sighting(trouble=trouble("cancelled"), cancel=mark))
    late = job("job_1", COMMAND, Sighting(record=record(), indexed=indexed(), cancel=mark))

    assert [(one.state, one.cancelling) for one in (asked, ended, late)] == [
        ("accepted", True), ("cancelled", False), ("done", False),
    ]  # fmt: skip
    assert ended.reason == "no model" and ended.dead is None


def test_times_are_those_of_the_parts() -> None:
    told = job("job_1", COMMAND, Sighting(record=record(), indexed=indexed()))

    assert [reached.at for reached in told.stages] == [at(0), at(1), at(2), at(3), at(3)]


def test_the_job_of_a_question_holds_its_answer() -> None:
    thought = Thought(command=COMMAND, accepted_at=at(0), at=at(1), question="?", answer="42", mode="extractive")

    told = job("job_1", COMMAND, Sighting(record=record(None, thought=thought)))

    assert told.thought is not None and told.thought.answer == "42"
