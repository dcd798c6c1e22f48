"""Fusing what the legs found: properties of any ranking, and what a few plain ones look like."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_vectors.points import chunk_of, head_of
from engram_vectors.ports import Candidates
from engram_vectors.ranking import rank
from engram_vectors.weights import Weights

HEADS = [head_of("acme", str(n)) for n in range(12)]
POINTS = [chunk_of(head, n) for head in HEADS for n in range(3)]

scores = st.floats(-1e6, 1e6, allow_nan=False).map(lambda score: round(score, 3))
legs = st.dictionaries(st.sampled_from(POINTS), scores, max_size=20).map(
    lambda found: tuple(sorted(found.items(), key=lambda scored: -scored[1]))
)
candidates = st.builds(Candidates, dense=legs, sparse=legs)
activations = st.dictionaries(st.sampled_from(HEADS), st.floats(0, 1e3), max_size=8)
weightings = st.builds(Weights, dense=st.floats(0, 1), graph=st.floats(0, 1))


def scored(*scores: float) -> tuple[tuple[str, float], ...]:
    return tuple(zip(HEADS, scores, strict=False))


@settings(max_examples=300)
@given(found=candidates, graph=activations, weights=weightings, limit=st.integers(1, 15))
def test_every_score_is_a_share_and_the_sum_of_its_parts(
    found: Candidates, graph: dict[str, float], weights: Weights, limit: int
) -> None:
    for each in rank(found, graph, weights, limit):
        assert 0 <= each.score <= 1
        assert sum(each.parts.values()) == pytest.approx(each.score, abs=1e-9)
        assert set(each.parts) <= set(each.raw) == set(each.ranks) == set(each.normalised)


@settings(max_examples=300)
@given(found=candidates, graph=activations, weights=weightings, limit=st.integers(1, 15))
def test_the_order_is_by_score_then_id_and_each_memory_comes_once(
    found: Candidates, graph: dict[str, float], weights: Weights, limit: int
) -> None:
    ranked = rank(found, graph, weights, limit)
    everyone = rank(found, graph, weights, 1_000)

    assert [(-each.score, each.head) for each in everyone] == sorted((-each.score, each.head) for each in everyone)
    assert ranked == everyone[:limit]
    assert len({each.head for each in everyone}) == len(everyone)


@given(found=candidates, graph=activations, seed=st.randoms())
def test_the_order_the_legs_come_in_does_not_matter(found: Candidates, graph: dict[str, float], seed: object) -> None:
    shuffled = Candidates(dense=tuple(reversed(found.dense)), sparse=tuple(reversed(found.sparse)))

    first, second = (rank(each, graph, Weights(), 20) for each in (found, shuffled))

    assert [(each.head, each.score, each.raw) for each in first] == [
        (each.head, each.score, each.raw) for each in second
    ]


@given(found=legs, weights=weightings)
def test_a_leg_alone_keeps_its_order_and_spans_all_scores(
    found: tuple[tuple[str, float], ...], weights: Weights
) -> None:
    ranked = rank(Candidates(dense=found), {}, weights, 100)

    raw = [each.raw["dense"] for each in ranked]
    assert raw == sorted(raw, reverse=True)
    assert not ranked or ranked[0].score == 1.0


def test_each_leg_counts_from_its_floor_to_its_best() -> None:
    found = Candidates(dense=scored(0.9, 0.5, 0.1), sparse=scored(10, 30, 20))

    ranked = rank(found, {}, Weights(dense=0.5), 3)

    assert [(each.head, each.score) for each in ranked] == [
        (HEADS[1], pytest.approx(0.25 + 0.5)),
        (HEADS[0], pytest.approx(0.5 + 0.5 / 3)),
        (HEADS[2], pytest.approx(1 / 3)),
    ]
    assert ranked[0].parts == {"dense": pytest.approx(0.25), "sparse": pytest.approx(0.5)}
    assert ranked[0].raw == {"dense": 0.5, "sparse": 30}
    assert ranked[0].ranks == {"dense": 2, "sparse": 1}


def test_a_memory_stands_for_its_best_chunk() -> None:
    chunks = [chunk_of(HEADS[0], n) for n in range(3)]
    found = Candidates(dense=((chunks[2], 0.9), (HEADS[1], 0.5), (chunks[0], 0.1)), sparse=((HEADS[1], 1.0),))

    ranked = rank(found, {}, Weights(dense=0.7), 5)

    assert [(each.head, each.chunk) for each in ranked] == [(HEADS[0], 2), (HEADS[1], 0)]
    assert ranked[0].raw == {"dense": 0.9}


def test_the_graph_adds_a_little_and_alone_it_decides() -> None:
    found, graph = Candidates(dense=scored(0.9, 0.8, 0.1)), {HEADS[1]: 4.0, HEADS[5]: 2.0}

    fused = rank(found, graph, Weights(graph=0.2), 5)
    alone = rank(Candidates(), graph, Weights(graph=0.2), 5)

    assert [each.head for each in fused] == [HEADS[1], HEADS[0], HEADS[5], HEADS[2]]
    assert fused[0].score == pytest.approx(0.8 * 0.875 + 0.2)
    assert fused[2].parts == {"graph": pytest.approx(0.1)}
    assert [(each.head, each.score) for each in alone] == [(HEADS[1], 1.0), (HEADS[5], 0.5)]


def test_nothing_found_is_an_empty_ranking() -> None:
    assert rank(Candidates(), {}, Weights(), 10) == []
