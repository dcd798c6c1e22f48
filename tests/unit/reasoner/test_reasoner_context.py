from __future__ import annotations

from datetime import timedelta

from engram_contracts.questions import Hit
from engram_reasoner.context import WRAPPING_TOKENS, estimate, pack, text_of
from support.recalled import STORED, hits, memory


def hit(number: int, content: str, score: float, **about: object) -> Hit:
    return Hit(memory=memory(number, content, **about), score=score, legs=("dense",))  # type: ignore[arg-type]


def test_sources_are_numbered_from_the_most_relevant_on() -> None:
    packed = pack([hit(1, "weak", 0.2), hit(2, "strong", 0.9), hit(3, "middling", 0.5)], budget=1_000)

    assert [(source.number, source.memory.id) for source in packed.sources] == [(1, "m2"), (2, "m3"), (3, "m1")]


def test_of_equally_relevant_memories_the_newest_comes_first() -> None:
    old, new = STORED, STORED + timedelta(days=1)

    packed = pack([hit(1, "old", 0.5, at=old), hit(2, "new", 0.5, at=new)], budget=1_000)

    assert [source.memory.id for source in packed.sources] == ["m2", "m1"]


def test_what_is_said_twice_is_read_once() -> None:
    twice = [hit(1, "I  like Tea", 0.5, speaker="Ann"), hit(2, "i like tea", 0.9, speaker="Ann")]

    packed = pack([*twice, hit(2, "i like tea", 0.9, speaker="Ann")], budget=1_000)

    assert [source.memory.id for source in packed.sources] == ["m2"]


def test_the_same_words_of_another_speaker_stay() -> None:
    packed = pack([hit(1, "I like tea", 0.5, speaker="Ann"), hit(2, "I like tea", 0.9, speaker="Ben")], budget=1_000)

    assert len(packed.sources) == 2


def test_the_budget_is_kept_and_what_finds_no_room_is_counted() -> None:
    packed = pack(hits(), budget=300)

    assert packed.tokens <= 300
    assert sum(estimate(source.text) + WRAPPING_TOKENS for source in packed.sources) == packed.tokens
    assert len(packed.sources) + packed.left_out == len(hits())
    assert packed.left_out > 0


def test_a_memory_too_long_for_the_room_gives_way_to_shorter_ones() -> None:
    packed = pack([hit(1, "first", 0.9), hit(2, "long " * 500, 0.8), hit(3, "short", 0.7)], budget=100)

    assert [source.memory.id for source in packed.sources] == ["m1", "m3"]


def test_a_long_memory_gives_the_stretch_that_matched() -> None:
    long = hit(1, "long " * 2_000, 0.9).model_copy(update={"excerpt": "the stretch"})

    packed = pack([long], budget=100)

    assert packed.sources[0].text == "the stretch"


def test_the_best_memory_is_cut_rather_than_left_out() -> None:
    packed = pack([hit(1, "long " * 2_000, 0.9)], budget=100)

    assert packed.sources[0].text.startswith("long long")
    assert packed.tokens <= 100


def test_a_recall_without_hits_packs_nothing() -> None:
    assert pack([], budget=100).sources == ()


def test_the_newest_come_first_where_that_is_asked_for() -> None:
    days = [STORED + timedelta(days=number) for number in range(3)]

    packed = pack([hit(n, f"said {n}", 0.9 - n / 10, at=at) for n, at in enumerate(days)], budget=1_000, order="recent")

    assert [source.memory.id for source in packed.sources] == ["m2", "m1", "m0"]


def test_a_balanced_context_lets_conversations_take_turns() -> None:
    def of(number: int, session: str, score: float) -> Hit:
        plain = hit(number, f"said {number}", score)
        return plain.model_copy(update={"memory": plain.memory.model_copy(update={"session_id": session})})

    found = [of(1, "a", 0.9), of(2, "a", 0.8), of(3, "a", 0.7), of(4, "b", 0.6), of(5, "c", 0.5), of(6, "b", 0.4)]

    packed = pack(found, budget=1_000, order="balanced")

    assert [source.memory.id for source in packed.sources] == ["m1", "m4", "m5", "m2", "m6", "m3"]


def test_a_context_reads_as_a_line_for_each_source() -> None:
    packed = pack([hit(1, "I like\ntea", 0.9, speaker="Ann", at=STORED), hit(2, "Rain", 0.5)], budget=1_000)

    assert text_of(packed).splitlines() == ["[1] (2026-06-01, Ann) I like tea", "[2] (2026-06-01) Rain"]
