from __future__ import annotations

import pytest

from engram_reasoner.words import best_sentence, sentences, shortened, stem, terms


@pytest.mark.parametrize(
    "family",
    [
        ("hike", "hikes", "hiked", "hiking"),
        ("plan", "plans", "planned", "planning"),
        ("paint", "paints", "painted", "painting", "paintings"),
        ("story", "stories"),
        ("dog", "dogs", "dog's", "dog’s"),
        ("run", "runs", "running"),
        ("class", "class"),
    ],
)
def test_forms_of_a_word_meet(family: tuple[str, ...]) -> None:
    assert len({stem(word) for word in family}) == 1


def test_words_that_say_nothing_are_left_out() -> None:
    assert terms("What did the DOG do there?") == ["dog"]


def test_sentences_end_at_marks_and_lines() -> None:
    assert sentences('One. "Two!" Three?\nFour\n\n 五。六') == ["One.", '"Two!', "Three?", "Four", "五。", "六"]


def test_the_best_sentence_shares_the_most() -> None:
    assert best_sentence("I slept. The dog barked. A dog barked loudly at night.", terms("loud dog at night")) == (
        "A dog barked loudly at night."
    )


def test_long_text_is_cut_at_a_word() -> None:
    assert shortened("one  two\nthree four", 12) == "one two…"
    assert shortened("short", 12) == "short"
