from __future__ import annotations

import pytest

from engram_runtime.redacting import redacted

TEXTS = ("The nightingale sings; the safe opens with 4711.", "Größe é 12")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("Incorrect API key provided: sk-1", "Incorrect API key provided: [key]"),
        ("flagged: 'NIGHTINGALE sings' (4711)", "flagged: '…' (…)"),
        ("größe 12 is off", "… is off"),
        ("nightingales are fine", "nightingales are fine"),
        ("", ""),
    ],
)
def test_neither_the_key_nor_words_of_what_was_sent_are_repeated(words: str, left: str) -> None:
    assert redacted(words, key="sk-1", texts=TEXTS) == left


def test_without_a_key_and_texts_words_stay_as_they_are() -> None:
    assert redacted("try later", key="", texts=()) == "try later"
