"""What ranking makes of conversations: neighbours lend, answers gain, speakers and times count, all explained."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_vectors.looks import Look, fingerprint, look_of, read_look
from engram_vectors.places import Places
from engram_vectors.points import head_of
from engram_vectors.ports import Candidates
from engram_vectors.ranking import Hints, rank
from engram_vectors.weights import Weights
from support.memories import memory

HEADS = [head_of("acme", str(n)) for n in range(8)]
SESSION = 7 << 20


def turns(*speakers: str, **odd: Any) -> dict[str, Look]:
    """Turns of one session in order, by these speakers."""
    return {HEADS[n]: Look(SESSION + n + 1, speaker=who, **odd) for n, who in enumerate(speakers)}


def found(looks: Mapping[str, Look], **scores: float) -> Candidates:
    """Candidates of the sparse leg, by number of their turn (`t0=1.0`)."""
    return Candidates(sparse=[(HEADS[int(name[1:])], score) for name, score in scores.items()], looks=looks)


ONLY_NEIGHBOURS = Weights(speaker=0, statement=0, date=0)


def test_a_turn_without_a_word_of_the_question_is_found_beside_one_that_has_them() -> None:
    ranked = rank(found(turns("ann", "bob", "ann"), t0=1.0), {}, ONLY_NEIGHBOURS, 5)

    assert [each.head for each in ranked] == HEADS[:3]
    assert ranked[1].parts == {"neighbours": pytest.approx(0.3)}
    assert ranked[1].raw == {}


def test_the_answer_to_a_question_takes_more_than_what_another_turn_takes() -> None:
    looks = turns("ann", "bob")
    asking = {**looks, HEADS[0]: looks[HEADS[0]]._replace(inquires=True)}

    plain, answered = (rank(found(each, t0=1.0), {}, ONLY_NEIGHBOURS, 5)[1].score for each in (looks, asking))

    assert (plain, answered) == (pytest.approx(0.3), pytest.approx(0.6))


def test_memories_that_nobody_said_or_of_other_sessions_lend_nothing() -> None:
    silent = turns("", "")
    elsewhere = {HEADS[0]: Look(SESSION + 1, speaker="ann"), HEADS[1]: Look((8 << 20) + 2, speaker="bob")}

    for looks in (silent, elsewhere):
        assert [each.head for each in rank(found(looks, t0=1.0), {}, ONLY_NEIGHBOURS, 5)] == HEADS[:1]


def test_what_the_named_speaker_said_comes_first() -> None:
    looks = {HEADS[0]: Look(speaker="bob"), HEADS[1]: Look(speaker="ann smith")}

    ranked = rank(found(looks, t0=1.0, t1=0.9), {}, Weights(), 2, Hints(speakers=frozenset({"ann"})))

    assert [each.head for each in ranked] == [HEADS[1], HEADS[0]]
    assert ranked[0].parts["speaker"] == pytest.approx(0.35 / 1.35)


def test_what_happened_at_the_named_time_and_what_is_no_question_gain() -> None:
    looks = {HEADS[0]: Look(at=5, asks=True), HEADS[1]: Look(at=15)}

    ranked = rank(found(looks, t0=1.0, t1=1.0), {}, Weights(), 2, Hints(times=((10, 20),)))

    assert set(ranked[0].parts) == {"sparse", "statement", "date"}
    assert ranked[0].score == pytest.approx(1.0)
    assert set(ranked[1].parts) == {"sparse"}


looks = st.builds(
    Look,
    place=st.integers(SESSION, SESSION + 6),
    at=st.integers(0, 30),
    asks=st.booleans(),
    inquires=st.booleans(),
    importance=st.floats(0, 1),
    confidence=st.floats(0, 1),
    words=st.integers(0, 2**32 - 1),
    speaker=st.sampled_from(["", "ann", "bob"]),
    feedback=st.floats(-1, 1),
)
shares = st.floats(0, 1)
weightings = st.builds(
    Weights, dense=shares, neighbours=shares, speaker=shares, statement=shares, date=shares, graph=shares,
    recency=shares, importance=shares, confidence=shares, feedback=shares,
    fusion=st.sampled_from(["min-max", "rrf"]),
)  # fmt: skip
legs = st.dictionaries(st.sampled_from(HEADS), st.floats(-1, 30), max_size=8).map(lambda leg: tuple(leg.items()))
hints = st.builds(
    Hints,
    speakers=st.sampled_from([frozenset(), frozenset({"ann"})]),
    times=st.sampled_from([(), ((10, 20),)]),
    now=st.just(40),
    walked=st.dictionaries(st.sampled_from(HEADS), st.floats(1e-6, 1), max_size=4),
)


@given(dense=legs, sparse=legs, seen=st.dictionaries(st.sampled_from(HEADS), looks), weights=weightings, hint=hints)
def test_every_score_lies_between_0_and_1_and_is_the_sum_of_its_parts(
    dense: Any, sparse: Any, seen: dict[str, Look], weights: Weights, hint: Hints
) -> None:
    ranked = rank(Candidates(dense, sparse, seen), {HEADS[0]: 1.0}, weights, 10, hint)

    scores = [each.score for each in ranked]
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)
    assert all(before >= after - 1e-9 for before, after in pairwise(scores))
    assert all(sum(each.parts.values()) == pytest.approx(each.score, abs=1e-9) for each in ranked)


def test_a_look_is_read_as_it_was_written() -> None:
    what = memory(3, "And you?  ", speaker="Ann Lee", importance=0.25)

    look = read_look(look_of(what, SESSION))

    assert look == Look(SESSION, look.at, True, True, 0.25, 1.0, fingerprint(what.content), "ann lee")


async def test_places_go_on_where_the_index_stands_and_differ_between_sessions() -> None:
    async def count(tenant: str, session: str) -> int:
        return {"s1": 4}.get(session, 0)

    places = Places(count)
    await places.learn([("acme", "s1"), ("acme", "s2"), ("acme", "s1")])

    first, second, other = places.next(("acme", "s1")), places.next(("acme", "s1")), places.next(("acme", "s2"))

    assert (first % 2**20, second - first, other % 2**20) == (5, 1, 1)
    assert first >> 20 != other >> 20
    assert max(first, other) < 2**53


def test_a_memory_that_says_the_query_word_for_word_comes_first_whatever_others_gain() -> None:
    query = "Wow, Ann, that looks amazing!  What inspired it?"
    said = Look(speaker="bob", asks=True, words=fingerprint("wow, ann, that looks amazing! what inspired it?"))
    looks = {HEADS[0]: said, HEADS[1]: Look(speaker="ann")}
    hints = Hints(speakers=frozenset({"ann"}), words=fingerprint(query))

    ranked = rank(found(looks, t0=0.2, t1=1.0), {}, Weights(), 2, hints)

    assert [each.head for each in ranked] == [HEADS[0], HEADS[1]]
    assert ranked[0].score == pytest.approx(sum(ranked[0].parts.values()))
