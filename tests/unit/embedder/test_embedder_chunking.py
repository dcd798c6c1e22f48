from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_embedder.chunking import MOST, OVERLAP, Span, spans

texts = st.text(st.sampled_from("ab é。.!? \n\t日本語🎉"), max_size=400)


@given(texts)
def test_spans_cover_the_text_without_a_gap(text: str) -> None:
    found = spans(text, most=40, overlap=10)

    assert found[0].start == 0
    assert found[-1].end == len(text)
    assert all(later.start <= earlier.end for earlier, later in itertools.pairwise(found))


@given(texts)
def test_spans_are_bounded_and_move_on(text: str) -> None:
    found = spans(text, most=40, overlap=10)

    assert all(span.end - span.start <= 40 for span in found)
    assert all(a.start < b.start and a.end < b.end for a, b in itertools.pairwise(found))


@given(texts)
def test_neighbours_share_no_more_than_the_overlap(text: str) -> None:
    found = spans(text, most=40, overlap=10)

    assert all(a.end - b.start <= 10 for a, b in itertools.pairwise(found))


def test_a_text_of_ordinary_length_is_one_span() -> None:
    text = "word " * (MOST // 5)

    assert spans(text) == [Span(0, len(text))]


def test_the_longest_memory_is_some_ten_spans() -> None:
    assert 9 <= len(spans("a few words. " * 770)) <= 20


def test_a_cut_prefers_the_end_of_a_paragraph() -> None:
    text = "One. Two. Three.\n\nFour. Five six seven"

    first, *_ = spans(text, most=30, overlap=5)

    assert text[: first.end] == "One. Two. Three.\n\n"


def test_a_cut_prefers_the_end_of_a_sentence_to_that_of_a_word() -> None:
    text = "Some words here. And then more words that go on"

    first, *_ = spans(text, most=30, overlap=5)

    assert text[: first.end] == "Some words here. "


def test_a_cut_falls_between_words_where_there_is_no_sentence() -> None:
    text = "alpha beta gamma delta epsilon zeta eta theta"

    for span in spans(text, most=20, overlap=6):
        assert set(text[span.start : span.end].split()) <= set(text.split())


def test_chinese_is_cut_at_its_full_stop() -> None:
    text = "这是第一句话。" * 10

    assert all(text[span.end - 1] == "。" for span in spans(text, most=30, overlap=8))


def test_a_word_that_is_too_long_is_cut_anyway() -> None:
    assert [span.end - span.start for span in spans("x" * 100, most=40, overlap=10)] == [40, 40, 40]


def test_an_overlap_that_would_not_move_on_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        spans("text", most=100, overlap=50)


def test_the_settings_in_use_fit_together() -> None:
    assert OVERLAP * 2 < MOST
