"""Facts folded into changes: what each does, what a repeat and a replay do."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_contracts.errors import NotFound, Rejected
from engram_contracts.facts import Fact, SparseVector
from engram_runtime.service import Delivery, Outcome
from engram_vectors.changes import Fold, dimension_of, memories_of
from engram_vectors.places import Places
from engram_vectors.points import Entry, head_of
from support.memories import (
    MODEL,
    START,
    chunk,
    delivered,
    embedding,
    forgotten,
    memory,
    memory_id,
    remembered,
    revised,
)
from support.toy_index import ToyIndex

NOW = START + timedelta(days=2)


async def nothing_there(tenant: str, session: str) -> int:
    return 0


def apply(index: ToyIndex, *batch: Delivery[Fact], model: str | None = MODEL) -> list[Outcome]:
    """One batch, as the follower applies it."""
    heads = {head_of(each.tenant, name) for each in batch for name in memories_of(each.message)}
    known = {head: index.payloads[head]["record"] for head in heads if head in index.payloads}
    entries = {head: Entry.model_validate_json(record) for head, record in known.items()}
    fold = Fold(entries, model=model, places=Places(nothing_there), now=NOW)
    outcomes = [fold.take(delivery) for delivery in batch]
    index.apply(fold.changes())
    return outcomes


def entry(index: ToyIndex, number: int, tenant: str = "acme") -> Entry:
    return Entry.model_validate_json(index.payloads[head_of(tenant, memory_id(number))]["record"])


def test_remembered_puts_one_point_per_chunk_and_the_record_on_the_first() -> None:
    index = ToyIndex()

    outcomes = apply(index, remembered(1, memory(1), embedding(chunk(0, end=6), chunk(1, start=5, end=11))))

    assert outcomes == [None]
    assert len(index.payloads) == 2
    assert entry(index, 1).memory == memory(1)
    assert entry(index, 1).spans == ((0, 6), (5, 11))
    assert sum("record" in payload for payload in index.payloads.values()) == 1


def test_a_run_of_facts_becomes_one_write() -> None:
    index = ToyIndex()

    apply(index, *(remembered(n, memory(n)) for n in range(1, 65)))

    assert (index.writes, len(index.payloads)) == (1, 64)


def test_revised_merges_the_changes_and_adds_a_version() -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1, tags=("x",), speaker="Ann")))
    change = revised(2, 1, {"tags": ["y"], "speaker": None, "importance": 0.9})

    outcomes = apply(index, change)

    kept = entry(index, 1).memory
    assert outcomes == [None]
    assert kept is not None
    assert (kept.tags, kept.speaker, kept.importance, kept.version) == (("y",), None, 0.9, 2)
    assert (kept.content, kept.created_at, kept.updated_at) == ("hello world", memory(1).created_at, change.message.at)


def test_revised_without_embedding_leaves_the_vectors() -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1), embedding(chunk(3), chunk(4))))
    before = dict(index.vectors)

    apply(index, revised(2, 1, {"kind": "fact"}))

    assert index.vectors == before
    assert all("kind=fact" in payload["terms"] for payload in index.payloads.values())


def test_revised_with_embedding_replaces_all_chunks() -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1), embedding(chunk(0), chunk(1), chunk(2))))

    apply(index, revised(2, 1, {"content": "other"}, embedding(chunk(5))))

    head = head_of("acme", memory_id(1))
    assert list(index.vectors) == [head]
    assert index.vectors[head][0] == chunk(5).floats()
    assert entry(index, 1).spans == ()


def test_a_memory_remembered_and_revised_in_one_batch_has_both() -> None:
    index = ToyIndex()

    apply(index, remembered(1, memory(1), embedding(chunk(3))), revised(2, 1, {"kind": "fact"}))

    assert entry(index, 1).memory == memory(1, kind="fact", version=2, updated_at=revised(2, 1, {}).message.at)
    assert [dense for dense, _ in index.vectors.values()] == [chunk(3).floats()]


def test_revised_for_an_unknown_or_forgotten_memory_is_not_found() -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1)), forgotten(2, 1))

    outcomes = apply(index, revised(3, 1, {"kind": "fact"}), revised(4, 2, {"kind": "fact"}))

    assert [type(outcome) for outcome in outcomes] == [NotFound, NotFound]


def test_revised_with_changes_that_are_no_edit_is_refused_and_changes_nothing() -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1)))
    before = dict(index.payloads)

    outcomes = apply(index, revised(2, 1, {"content": None}, embedding(chunk(7))))

    assert isinstance(outcomes[0], Rejected)
    assert index.payloads == before
    assert index.vectors == {head_of("acme", memory_id(1)): (chunk().floats(), chunk().sparse)}


def test_forgotten_leaves_no_text_and_no_vectors() -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1, "a secret"), embedding(chunk(0), chunk(1))))

    outcomes = apply(index, forgotten(2, 1))

    assert outcomes == [None]
    assert "secret" not in repr(index.payloads)
    assert list(index.vectors.values()) == [(None, None)]


def test_forgotten_for_an_unknown_memory_is_done_and_keeps_a_late_remember_out() -> None:
    index = ToyIndex()

    outcomes = apply(index, forgotten(1, 1)) + apply(index, remembered(2, memory(1)))

    assert outcomes == [None, None]
    assert entry(index, 1).memory is None


@pytest.mark.parametrize(
    "repeat",
    [
        remembered(9, memory(1, "other"), embedding(chunk(7))),
        revised(9, 1, {"kind": "plan"}, embedding(chunk(7)), command="edit"),
        remembered(9, memory(1, "other"), command="edit"),
    ],
    ids=["remember", "revise", "remember-same-command"],
)
def test_a_repeat_of_a_command_changes_nothing(repeat: Delivery[Fact]) -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1)), revised(2, 1, {"kind": "fact"}, command="edit"))
    before = (dict(index.payloads), dict(index.vectors))

    outcomes = apply(index, repeat)

    assert outcomes == [None]
    assert (index.payloads, index.vectors) == before


def test_tenants_with_the_same_memory_id_do_not_meet() -> None:
    index = ToyIndex()

    apply(index, remembered(1, memory(1, "mine"), tenant="a"), remembered(2, memory(1, "theirs"), tenant="b"))
    apply(index, forgotten(3, 1, tenant="b"))

    kept = entry(index, 1, "a").memory
    assert kept is not None
    assert kept.content == "mine"


def test_another_models_embedding_is_refused_with_what_to_do() -> None:
    index = ToyIndex()
    apply(index, remembered(1, memory(1)))
    other = embedding(chunk(), model="big@8")

    outcomes = apply(index, remembered(2, memory(2), other), revised(3, 1, {"content": "x"}, other))

    for outcome in outcomes:
        assert isinstance(outcome, Rejected)
        assert re.search(r"'big@8'.*'toy@8'.*set the embedder back", outcome.message)
    assert len(index.payloads) == 1


def unsound() -> list[Any]:
    ok = chunk()
    return [
        ok.model_copy(update={"dense": ok.dense[:-2]}),
        ok.model_copy(update={"sparse": SparseVector(indices=(1, 2), values=(1.0,))}),
        ok.model_copy(update={"sparse": SparseVector(indices=(2, 1), values=(1.0, 1.0))}),
        ok.model_copy(update={"sparse": SparseVector(indices=(1, 1), values=(1.0, 1.0))}),
        ok.model_copy(update={"sparse": SparseVector(indices=(-1,), values=(1.0,))}),
        ok.model_copy(update={"sparse": SparseVector(indices=(2**32,), values=(1.0,))}),
    ]


@pytest.mark.parametrize("chunks", [*([each] for each in unsound()), []])
def test_vectors_an_engine_would_choke_on_are_refused(chunks: list[Any]) -> None:
    broken = embedding().model_copy(update={"chunks": tuple(chunks)})

    outcomes = apply(ToyIndex(), remembered(1, memory(1), broken))

    assert isinstance(outcomes[0], Rejected)


@pytest.mark.parametrize("model", ["toy", "toy@", "toy@0", "toy@x", "@-1", "toy@99999999"])
def test_a_model_must_name_its_dimension(model: str) -> None:
    with pytest.raises(Rejected, match="name@dimension"):
        dimension_of(model)


# --- any history, any crash -------------------------------------------------------------------------

CHANGES: Sequence[dict[str, Any]] = ({"kind": "plan"}, {"tags": ["a"]}, {"expires_at": None}, {"content": None})


@st.composite
def histories(draw: st.DrawFn) -> list[Delivery[Fact]]:
    """Facts of two memories in the order of the log; one in three repeats an earlier fact under a new sequence."""
    facts: list[Delivery[Fact]] = []
    for sequence in range(1, draw(st.integers(3, 14)) + 1):
        if facts and draw(st.integers(0, 2)) == 0:
            earlier = draw(st.sampled_from(facts))
            facts.append(delivered(sequence, earlier.message))
        else:
            facts.append(draw(new_facts(sequence)))
    return facts


@st.composite
def new_facts(draw: st.DrawFn, sequence: int) -> Delivery[Fact]:
    number = draw(st.integers(1, 2))
    chunks = [chunk(sequence + n, [sequence]) for n in range(draw(st.integers(1, 3)))]
    kind = draw(st.sampled_from("rrvvvvf"))
    if kind == "r":
        expiry = {"expires_at": NOW} if draw(st.booleans()) else {}
        return remembered(sequence, memory(number, **expiry), embedding(*chunks))
    if kind == "v":
        vectors = embedding(*chunks) if draw(st.booleans()) else None
        return revised(sequence, number, draw(st.sampled_from(CHANGES)), vectors)
    return forgotten(sequence, number)


def in_batches(facts: Sequence[Delivery[Fact]], chance: random.Random) -> list[list[Delivery[Fact]]]:
    batches: list[list[Delivery[Fact]]] = []
    for fact in facts:
        if batches and chance.random() < 0.6:
            batches[-1].append(fact)
        else:
            batches.append([fact])
    return batches


@settings(max_examples=400, deadline=None)
@given(facts=histories(), seed=st.integers(0, 2**32))
def test_any_batching_and_any_number_of_torn_crashes_end_in_the_same_index(
    facts: list[Delivery[Fact]], seed: int
) -> None:
    chance = random.Random(seed)
    straight, crashed = ToyIndex(), ToyIndex()
    for fact in facts:
        apply(straight, fact)

    position = applied = 0
    for _ in range(3):
        until = chance.randint(applied, len(facts))
        for batch in in_batches(facts[applied:until], chance):
            apply(crashed, *batch)
            applied += len(batch)
            if chance.random() < 0.4:
                crashed.flushed, crashed.history, position = crashed._copy(), [], applied
        crashed.crash(chance)
        applied = position
    for batch in in_batches(facts[applied:], chance):
        apply(crashed, *batch)

    assert comparable(crashed) == comparable(straight)
    assert crashed.vectors == straight.vectors


def test_a_repeat_that_is_met_again_after_a_crash_does_not_bring_back_its_vectors() -> None:
    index = ToyIndex()
    first = revised(2, 1, {"kind": "plan"}, embedding(chunk(2, [2])))
    later = revised(3, 1, {"tags": ["a"]}, embedding(chunk(3, [3])))
    repeat, last = delivered(4, first.message), revised(5, 1, {"importance": 0.9})
    apply(index, remembered(1, memory(1)), first, later)
    before = dict(index.vectors)
    apply(index, repeat, last)

    apply(index, repeat, last)

    assert index.vectors == before
    assert entry(index, 1).embedded_by == later.message.command


def comparable(index: ToyIndex) -> dict[str, dict[str, Any]]:
    """Payloads, where a field that was cleared is a field that was never there."""
    return {
        point: {name: value for name, value in payload.items() if value is not None}
        for point, payload in index.payloads.items()
    }


def test_a_fact_on_the_number_of_a_lost_one_is_newer_than_what_the_index_shows() -> None:
    index = ToyIndex()
    apply(index, remembered(7, memory(1)), revised(9, 1, {"tags": ["lost"]}))
    later = replace(revised(6, 1, {"tags": ["new"]}), at=NOW + timedelta(seconds=1))

    outcomes = apply(index, later, replace(revised(8, 1, {"importance": 0.9}), at=later.at))

    shown = entry(index, 1)
    assert outcomes == [None, None]
    assert shown.memory is not None
    assert (shown.memory.tags, shown.memory.importance) == (("new",), 0.9)
    assert (shown.born, shown.log_sequence) == (6, 8)
