"""Answers given again: the same while nothing changes, and never one that a change has overtaken."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engram_contracts.questions import Hit, Recall
from engram_vectors.points import Changes, Relabel, head_of
from engram_vectors.recent import GOOD_SECONDS, Lately, Recent
from engram_vectors.told import Told
from support.memories import memory

NOW = datetime(2026, 5, 1, tzinfo=UTC)
ASKED = Recall(tenant="acme", query="who?")


def answer(**fields: Any) -> Told:
    hit = Hit(memory=memory(1, **fields), score=1.0, legs=("dense",))
    return Told(hits=(hit.encode(),), until=hit.memory.expires_at)


def change(tenant: str) -> Changes:
    return Changes(relabel=[Relabel([head_of(tenant, "1")], {"tenant": tenant})])


def kept(what: Told, question: Recall = ASKED) -> Recent:
    recent = Recent(10)
    recent.keep(question, what, version=recent.version("acme"))
    return recent


def test_the_same_question_gets_the_same_answer_another_does_not() -> None:
    recent = kept(answer())

    assert recent.of(Recall(tenant="acme", query="who?"), now=NOW) == answer()
    for other in (
        Recall(tenant="other", query="who?"),
        Recall(tenant="acme", query="who"),
        Recall(tenant="acme", query="who?", limit=3),
        Recall(tenant="acme", query="who?", explain=True),
    ):
        assert recent.of(other, now=NOW) is None


@pytest.mark.parametrize(
    ("changes", "still"), [(change("acme"), False), (change("other"), True), (Changes([1]), False)]
)
def test_what_changes_in_a_tenant_ends_its_answers(changes: Changes, still: bool) -> None:
    recent = kept(answer())

    recent.change(changes)

    assert (recent.of(ASKED, now=NOW) is not None) == still


def test_an_answer_that_a_change_overtook_is_not_kept() -> None:
    recent = Recent(10)
    version = recent.version("acme")
    recent.change(change("acme"))

    recent.keep(ASKED, answer(), version=version)

    assert recent.of(ASKED, now=NOW) is None


def test_a_memory_that_expired_is_in_no_answer() -> None:
    recent = kept(answer(expires_at=NOW))

    assert recent.of(ASKED, now=NOW - timedelta(seconds=1)) is not None
    assert recent.of(ASKED, now=NOW) is None


def test_an_answer_is_good_for_a_minute() -> None:
    clock = [0.0]
    recent = Recent(10, clock=lambda: clock[0])
    recent.keep(ASKED, answer(), version=recent.version("acme"))

    clock[0] = GOOD_SECONDS + 1

    assert recent.of(ASKED, now=NOW) is None


@pytest.mark.parametrize("lesser", [{"degraded": ("graph: away",)}, {"mode": "multi-hop"}])
def test_what_may_be_better_next_time_is_not_kept(lesser: dict[str, Any]) -> None:
    assert kept(replace(answer(), **lesser)).of(ASKED, now=NOW) is None


def test_where_others_write_too_nothing_is_kept() -> None:
    recent = Recent(0)

    recent.keep(ASKED, answer(), version=recent.version("acme"))

    assert recent.of(ASKED, now=NOW) is None


def test_what_was_used_longest_ago_makes_room() -> None:
    lately: Lately[str, int] = Lately(2)
    lately.put("a", 1)
    lately.put("b", 2)
    assert lately.get("a") == 1

    lately.put("c", 3)

    assert [lately.get(key) for key in "abc"] == [1, None, 3]
