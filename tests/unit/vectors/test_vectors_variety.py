"""The same thing is not said twice, and what that costs a result is told."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_vectors.ranking import Ranked
from engram_vectors.variety import overlap, varied


def ranked(*scores: float) -> list[Ranked]:
    return [
        Ranked(head=f"h{n}", score=score, parts={"dense": score}, raw={}, normalised={}, ranks={}, chunk=0)
        for n, score in enumerate(scores)
    ]


def test_a_repeat_makes_way_for_something_else() -> None:
    texts = ["Ann bought a kayak", "ann BOUGHT a kayak!", "Bob sold his car"]

    plain = varied(ranked(0.9, 0.8, 0.5), texts, 0.0, 2)
    diverse = varied(ranked(0.9, 0.8, 0.5), texts, 1.0, 3)

    assert [each.head for each in plain] == ["h0", "h1"]
    assert [each.head for each in diverse] == ["h0", "h2", "h1"]
    assert diverse[2].score == 0
    assert diverse[2].parts == {"dense": 0.8, "diversity": -0.8}


words = st.lists(st.sampled_from("abcdef"), max_size=5).map(" ".join)


@given(
    found=st.lists(st.tuples(st.floats(0, 1), words), max_size=8), diversity=st.floats(0, 1), limit=st.integers(1, 9)
)
def test_scores_fall_and_add_up(found: list[tuple[float, str]], diversity: float, limit: int) -> None:
    scores = sorted((score for score, _ in found), reverse=True)

    chosen = varied(ranked(*scores), [text for _, text in found], diversity, limit)

    assert len(chosen) == min(limit, len(found))
    assert all(before.score >= after.score - 1e-9 for before, after in pairwise(chosen))
    assert all(sum(each.parts.values()) == pytest.approx(each.score, abs=1e-9) for each in chosen)
    assert all(-1e-9 <= each.score <= 1 for each in chosen)


def test_texts_without_words_are_like_nothing() -> None:
    assert overlap(set(), set()) == 0.0
