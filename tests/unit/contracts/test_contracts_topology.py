"""The topology hangs together: every command has one owner, no two consumers of a work queue overlap."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_contracts.commands import COMMANDS
from engram_contracts.facts import FACTS
from engram_contracts.ids import PARTITIONS, partition_of
from engram_contracts.questions import QUESTIONS
from engram_contracts.topology import (
    CONSUMERS,
    LANES,
    STREAMS,
    WORK,
    LogSubject,
    WorkSubject,
    lane_of,
    log_subject,
    work_subject,
)  # fmt: skip

tenants = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


def matches(pattern: str, subject: str) -> bool:
    wanted, tokens = pattern.split("."), subject.split(".")
    for n, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > n
        if n >= len(tokens) or token not in ("*", tokens[n]):
            return False
    return len(wanted) == len(tokens)


@pytest.mark.parametrize("op", sorted(COMMANDS))
@pytest.mark.parametrize("urgency", list(LANES))
def test_every_command_of_every_lane_has_exactly_one_consumer(op, urgency):
    subject = work_subject("acme", op, urgency)

    owners = [c.name for c in CONSUMERS if c.stream is WORK and any(matches(f, subject) for f in c.filters)]

    assert len(owners) == 1, owners


def test_consumer_names_are_unique_within_their_stream():
    names = [(c.stream.name, c.name) for c in CONSUMERS]

    assert len(names) == len(set(names))


def test_no_two_streams_take_the_same_subject():
    for one, other in itertools.combinations(STREAMS, 2):
        assert not any(matches(pattern, subject) for pattern in one.subjects for subject in other.subjects)


@given(tenants, st.sampled_from(sorted(COMMANDS)), st.sampled_from(list(LANES)))
def test_a_work_subject_says_what_it_was_made_of(tenant, op, urgency):
    parsed = WorkSubject.parse(work_subject(tenant, op, urgency))

    assert parsed == WorkSubject(lane_of(tenant, urgency), op, tenant)


@given(tenants, st.sampled_from(sorted(FACTS)))
def test_a_log_subject_says_what_it_was_made_of(tenant, event):
    parsed = LogSubject.parse(log_subject(tenant, event))

    assert parsed == LogSubject(partition_of(tenant), tenant, event)
    assert 0 <= parsed.partition < PARTITIONS


def test_tenants_spread_over_all_lanes_and_partitions():
    names = [f"tenant-{n}" for n in range(2_000)]

    assert {lane_of(name) for name in names} == set(LANES["interactive"])
    assert {partition_of(name) for name in names} == set(range(PARTITIONS))


def test_questions_have_subjects_of_their_own():
    subjects = [(question.service, question.verb) for question in QUESTIONS]

    assert len(subjects) == len(set(subjects))
