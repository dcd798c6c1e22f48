"""Dead letters: what they say, what is sent again, what a job's record says then."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter, ValidationError

from engram_contracts.errors import Rejected
from engram_contracts.events import JobTrouble
from engram_contracts.ids import new_id
from engram_contracts.messages import Tenant
from engram_contracts.recovery import SYSTEM, DeadFilter, Replay, Selection
from engram_contracts.topology import CONSUMERS, REPLAY, WORK, dead_pattern, dead_subject, work_subject
from engram_recovery.letters import MOST_FAILURES, Buried, is_ours, sent_again
from engram_recovery.marks import dropped, job_key, replayed
from engram_runtime.bus import Stored
from engram_runtime.delivery import DEAD_HISTORY, burial_headers

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def buried(
    body: bytes = b"{}", *, subject: str | None = None, tenant: str = "acme", sequence: int = 7, **headers: str
) -> Buried:
    said = {
        "Engram-Dead-Subject": subject or work_subject(tenant, "forget"),
        "Engram-Dead-Code": "NOT_FOUND",
        "Engram-Dead-Reason": "x" * 400,
        "Engram-Dead-Last": NOW.isoformat(),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    stored = Stored(
        subject=dead_subject("embedder", tenant), body=body, id="x", at=NOW, sequence=sequence, headers=said, size=2
    )
    return Buried.of(stored)


def test_headers_that_are_the_brokers_own_are_not_sent_again():
    letter = buried(
        **{
            "Engram-Original-Nats-Msg-Id": "old",
            "Engram-Original-Nats-Batch-Id": "b",
            "Engram-Original-Nats-Batch-Commit": "1",
            "Engram-Original-Engram-Correlation": "c-1",
        }
    )

    entry = sent_again(letter, replay="r", salt="s")

    assert not [name for name in entry.headers if name.startswith("Nats-")]
    assert entry.headers["Engram-Correlation"] == "c-1"
    assert entry.id not in ("old", "")


def test_the_message_id_is_the_same_each_time_and_differs_by_replay_salt_and_sequence():
    ids = {
        sent_again(buried(sequence=sequence), replay=replay, salt=salt).id
        for sequence in (1, 2)
        for replay in ("r", "q")
        for salt in ("s", "t")
    }

    assert len(ids) == 8
    assert sent_again(buried(), replay="r", salt="s").id == sent_again(buried(), replay="r", salt="s").id


def test_history_grows_by_one_each_time_keeps_the_latest_and_stays_small():
    headers: dict[str, str] = {}
    for number in range(MOST_FAILURES + 5):
        letter = buried(sequence=number + 1, **headers)
        headers = {DEAD_HISTORY: sent_again(letter, replay=f"r{number}", salt="s").headers[DEAD_HISTORY]}

    last = buried(**headers)

    assert [failure.sequence for failure in last.history] == list(range(6, MOST_FAILURES + 6))
    assert last.letter.replays == MOST_FAILURES
    assert len(headers[DEAD_HISTORY]) < 6_000 and headers[DEAD_HISTORY].isascii()
    assert json.loads(headers[DEAD_HISTORY])[0]["replay"] == "r5"


def test_a_burial_carries_the_history_on_as_it_is():
    message = SimpleNamespace(subject="engram.work.i0.forget.acme", headers={DEAD_HISTORY: "[1]", "Engram-Replay": "r"})
    receipt = SimpleNamespace(sequence=1, at=NOW)

    headers = burial_headers(
        message, stage="embedder", stream="ENGRAM_WORK", receipt=receipt, attempt=1, why="never", error=Rejected("x")
    )

    assert headers[DEAD_HISTORY] == "[1]"
    assert headers["Engram-Original-Engram-Replay"] == "r"
    assert f"Engram-Original-{DEAD_HISTORY}" not in headers


@pytest.mark.parametrize(
    "subject",
    ["engram.work.i0.forget.zeta", "engram.log.0.zeta.forgotten", "engram.usage.zeta", "engram.dead.x.acme", "", "a.b"],
)
def test_what_was_sent_for_somebody_else_or_nowhere_is_not_sent_again(subject):
    with pytest.raises(Rejected):
        sent_again(buried(subject=subject or "-"), replay="r", salt="s")


def test_a_message_is_ours_by_replay_and_sequence():
    entry = sent_again(buried(sequence=7), replay="r", salt="s")
    stored = Stored(subject=entry.subject, body=b"", id=entry.id, at=NOW, headers=entry.headers)

    assert is_ours(stored, replay="r", sequence=7)
    assert not is_ours(stored, replay="r", sequence=8)
    assert not is_ours(stored, replay="q", sequence=7)


@pytest.mark.parametrize(
    ("body", "headers", "key"),
    [
        (b'{"id": "c-1"}', {}, "acme.c-1"),
        (b"rubbish", {"Engram-Original-Nats-Msg-Id": "m-1"}, "acme.m-1"),
        (b"rubbish", {}, None),
        (b'{"id": "*"}', {}, None),
        (b'{"id": "a b"}', {}, None),
        (b'["id"]', {}, None),
    ],
)
def test_a_job_is_found_by_its_command_or_else_its_message(body, headers, key):
    assert job_key(buried(body, **headers)) == key


def trouble(state: str, *, at: datetime = NOW, dead: int | None = None) -> JobTrouble:
    return JobTrouble(state=state, stage="embedder", attempt=8, reason="no", code="X", at=at, dead_sequence=dead)


@pytest.mark.parametrize(
    ("there", "changes"),
    [
        (None, True),
        (trouble("dead", dead=7), True),
        (trouble("dead", dead=3), True),
        (trouble("dead", dead=9), False),
        (trouble("retrying", at=NOW - timedelta(seconds=1)), True),
        (trouble("retrying", at=NOW + timedelta(seconds=1)), False),
    ],
    ids=["none", "this", "an earlier one", "a later one", "before it died", "since it was sent again"],
)
def test_a_jobs_record_is_changed_unless_it_tells_of_something_newer(there, changes):
    letter = buried().letter

    again = replayed(there, letter, 42, NOW)
    gone = dropped(there, letter, "why", NOW)

    assert (again is not None, gone is not None) == (changes, changes)
    if again and gone:
        assert (again.state, again.attempt, again.work_sequence) == ("retrying", 0, 42)
        assert (gone.state, gone.reason) == ("dead", "dropped: why")


def test_the_admins_pseudo_tenant_can_be_nobodys_name():
    with pytest.raises(ValidationError):
        TypeAdapter(Tenant).validate_python(SYSTEM)

    assert dead_pattern(SYSTEM) == "engram.dead.*.*"
    assert dead_pattern("acme", "graph") == "engram.dead.graph.acme"


def test_a_replay_has_one_consumer():
    tokens = work_subject("acme", Replay.op, "bulk").split(".")

    owners = [
        consumer.name
        for consumer in CONSUMERS
        if consumer.stream is WORK
        and any(all(w in ("*", t) for w, t in zip(f.split("."), tokens, strict=True)) for f in consumer.filters)
    ]

    assert owners == [REPLAY.name]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"sequences": [0]},
        {"sequences": [1], "all": True},
        {"filter": {}},
        {"filter": {"stage": "*"}},
        {"filter": {"tenant": "a.b"}},
        {"filter": {"stages": "graph"}},
        {"sequences": list(range(1, 10_002))},
    ],
    ids=str,
)
def test_a_selection_says_one_thing_and_says_it_right(wrong):
    with pytest.raises(ValidationError):
        Selection.model_validate(wrong)


def test_a_replays_command_says_the_same_on_the_other_side_of_the_wire():
    command = Replay(
        id=new_id(), accepted_at=NOW, selection=Selection(filter=DeadFilter(code="NOT_FOUND", since=NOW)), rate=5.0
    )

    assert Replay.model_validate_json(command.encode()) == command
