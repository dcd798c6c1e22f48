"""What those who recalled a memory say of it counts once, and moves it in the order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engram_contracts.memory import Feedback, Verdict
from engram_contracts.questions import RecallWeights
from engram_vectors.looks import look_of, opinion_of, read_look
from engram_vectors.points import head_of
from engram_vectors.ports import Candidates
from engram_vectors.ranking import rank
from engram_vectors.weights import Weights
from support.memories import judged, memory, memory_id, remembered, revised
from support.recall_room import Room, open_room

HEADS = [head_of("acme", memory_id(number)) for number in range(3)]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(tmp_path) as room:
        yield room


def seen(number: int, **feedback: int) -> Candidates:
    """Three memories as good as each other, one of which was judged."""
    told = [memory(n, feedback=Feedback(**feedback) if n == number else None) for n in range(3)]
    looks = {head: read_look(look_of(each, 0)) for head, each in zip(HEADS, told, strict=True)}
    return Candidates(dense=tuple((head, 0.5) for head in HEADS), looks=looks)


def test_an_opinion_lies_between_minus_1_and_1_and_grows_surer_with_every_verdict() -> None:
    once, often = Feedback(useful=1), Feedback(useful=50)

    assert 0 < opinion_of(once) < opinion_of(often) < 1
    assert -1 < opinion_of(Feedback(wrong=9)) < opinion_of(Feedback(wrong=1)) < opinion_of(Feedback(not_useful=1)) < 0
    assert opinion_of(None) == 0


def test_a_look_without_feedback_is_written_as_ever_and_one_with_it_is_read_back() -> None:
    plain = look_of(memory(1, speaker="Ann"), 3)

    assert plain.count("\t") == 6
    assert read_look(plain).feedback == 0
    assert read_look(look_of(memory(1, speaker="Ann", feedback=Feedback(wrong=1)), 3))[-3:-1] == ("ann", -0.8)


@pytest.mark.parametrize(("verdicts", "place"), [({"useful": 2}, 0), ({"not_useful": 1}, 2), ({"wrong": 1}, 2)])
def test_praise_lifts_and_blame_lowers_and_both_are_told(verdicts: dict[str, int], place: int) -> None:
    ranked = rank(seen(1, **verdicts), {}, Weights(), 3)

    assert [each.head for each in ranked].index(HEADS[1]) == place
    assert all(sum(each.parts.values()) == pytest.approx(each.score, abs=1e-9) for each in ranked)
    assert [each.head for each in ranked if "feedback" in each.parts] == [HEADS[1]]


def test_what_is_wrong_loses_most_of_its_score_and_without_weight_nothing() -> None:
    before, wrong, careless = (
        next(each.score for each in rank(found, {}, Weights(feedback=weight), 3) if each.head == HEADS[1])
        for found, weight in ((seen(1), 0.3), (seen(1, wrong=1), 0.3), (seen(1, wrong=1), 0.0))
    )

    assert wrong < before / 3
    assert careless == before


async def test_a_verdict_counts_once_however_often_it_comes(room: Room) -> None:
    wrong = judged(3, 1, "wrong", command="c")

    await room.keep(remembered(1, memory(1)), remembered(2, memory(2)), wrong)
    await room.keep(judged(4, 2, "useful"), judged(5, 1, "not_useful", command="d"), judged(6, 1, "wrong", command="c"))
    await room.keep(wrong)

    hits = (await room.recall(explain=True)).hits
    assert [(hit.memory.id, hit.memory.feedback) for hit in hits] == [
        (memory_id(2), Feedback(useful=1)), (memory_id(1), Feedback(not_useful=1, wrong=1)),
    ]  # fmt: skip
    assert [hit.explain.parts["feedback"] > 0 for hit in hits if hit.explain] == [True, False]
    assert all(sum(hit.explain.parts.values()) == pytest.approx(hit.score, abs=1e-6) for hit in hits if hit.explain)


async def test_verdicts_are_on_the_text_and_go_with_it(room: Room) -> None:
    await room.keep(remembered(1, memory(1)), judged(2, 1, "wrong"), revised(3, 1, {"tags": ("a",)}))
    assert (await room.recall()).hits[0].memory.feedback == Feedback(wrong=1)

    await room.keep(revised(4, 1, {"content": "hello again"}))

    assert (await room.recall()).hits[0].memory.feedback is None


@pytest.mark.parametrize("verdict", ["useful", "wrong"])
async def test_a_request_may_set_what_feedback_counts(room: Room, verdict: Verdict) -> None:
    await room.keep(remembered(1, memory(1)), judged(2, 1, verdict))

    [hit] = (await room.recall(explain=True, weights=RecallWeights(feedback=0.0))).hits

    assert hit.explain is not None
    assert "feedback" not in hit.explain.parts
