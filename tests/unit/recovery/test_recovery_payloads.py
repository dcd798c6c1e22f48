"""An edited payload fits the contract of its subject, knows no other fields, and is about the same command."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from engram_contracts.commands import Forget, Revise
from engram_contracts.errors import Rejected
from engram_contracts.facts import Forgotten
from engram_contracts.ids import new_id
from engram_contracts.topology import dead_subject, log_subject, usage_subject, work_subject
from engram_recovery.letters import Buried
from engram_recovery.payloads import edited
from engram_runtime.bus import Stored

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def buried(subject: str, body: bytes) -> Buried:
    headers = {"Engram-Dead-Subject": subject}
    return Buried.of(Stored(subject=dead_subject("graph", "acme"), body=body, id=None, at=NOW, headers=headers))


def test_an_edit_may_change_everything_but_the_command():
    before = Forget(id=new_id(), accepted_at=NOW, memory_id="m-1")

    body = edited(
        buried(work_subject("acme", "forget"), before.encode()), {**json.loads(before.encode()), "memory_id": "m-2"}
    )

    assert Forget.model_validate_json(body) == before.model_copy(update={"memory_id": "m-2"})


def test_what_was_no_command_at_all_may_become_one():
    after = Forget(id=new_id(), accepted_at=NOW, memory_id="m-1")

    body = edited(buried(work_subject("acme", "forget"), b"{rubbish"), json.loads(after.encode()))

    assert Forget.model_validate_json(body) == after


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"content": ""}, "payload.changes.content"), ({"colour": "red"}, "payload.changes.colour")],
)
def test_the_changes_of_a_revision_are_checked_too(changes, field):
    before = Revise(id=new_id(), accepted_at=NOW, memory_id="m-1", changes={"content": "x"})

    with pytest.raises(Rejected) as refused:
        edited(
            buried(work_subject("acme", "revise"), before.encode()), {**json.loads(before.encode()), "changes": changes}
        )

    assert refused.value.field == field


def test_a_fact_keeps_the_command_it_came_of():
    fact = Forgotten(command=new_id(), accepted_at=NOW, at=NOW, memory_id="m-1")
    letter = buried(log_subject("acme", "forgotten"), fact.encode())

    with pytest.raises(Rejected) as refused:
        edited(letter, {**json.loads(fact.encode()), "command": new_id()})

    assert refused.value.field == "payload.command"


def test_usage_is_checked_against_its_own_contract():
    with pytest.raises(Rejected) as refused:
        edited(buried(usage_subject("door"), b"{}"), {"events": [{"request_id": "r"}]})

    assert refused.value.field == "payload.events.0.tenant"


@pytest.mark.parametrize("subject", ["engram.work.i0.dance.acme", "engram.log.0.acme.danced", "elsewhere", ""])
def test_what_no_contract_is_known_for_cannot_be_edited(subject):
    with pytest.raises(Rejected, match="cannot be edited"):
        edited(buried(subject, b"{}"), {})
