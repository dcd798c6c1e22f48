from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from engram_reasoner.citations import resolve
from engram_reasoner.context import pack
from support.recalled import hits

SOURCES = pack(hits(), budget=10_000).sources
IDS = {source.memory.id for source in SOURCES}


def test_marks_become_citations_in_the_order_of_first_mention() -> None:
    text, citations = resolve("Tom has a dog [4]. Ines makes pottery [1], as Tom knows [4].", SOURCES)

    assert text == "Tom has a dog [4]. Ines makes pottery [1], as Tom knows [4]."
    assert [citation.memory_id for citation in citations] == ["m3", "m0"]
    assert citations[0].score == SOURCES[3].score


def test_marks_out_of_range_vanish_from_the_text() -> None:
    text, citations = resolve("Known [1]. Invented [13] and [0], mixed [2, 99].", SOURCES)

    assert text == "Known [1]. Invented and, mixed [2]."
    assert [citation.memory_id for citation in citations] == ["m0", "m1"]


@pytest.mark.parametrize("mark", ["[1, 3]", "[1;3]", "[ 1 , 3 ]", "【1, 3】", "[memories 1, 3]", "[1][3]"])
def test_several_numbers_are_understood_however_they_are_written(mark: str) -> None:
    text, citations = resolve(f"So it is {mark}.", SOURCES)

    assert text == "So it is [1][3]."
    assert [citation.memory_id for citation in citations] == ["m0", "m2"]


def test_a_quote_is_the_sentence_that_the_claim_rests_on() -> None:
    _, citations = resolve("They raised 400 euros for the shelter [6].", SOURCES)

    assert citations[0].quote == "We raised 400 euros for the shelter."


def test_a_mark_behind_the_full_stop_belongs_to_its_sentence() -> None:
    _, citations = resolve("Her grandmother Marta had a kiln. [3] Nothing else is known.", SOURCES)

    assert citations[0].quote == "My grandmother Marta had a kiln in her garden in Porto."


def test_an_answer_without_marks_cites_nothing() -> None:
    assert resolve("The memories do not say.", SOURCES) == ("The memories do not say.", ())


@given(some.lists(some.one_of(some.text(max_size=20), some.integers(-5, 10**6).map(lambda n: f"[{n}]"))).map(" ".join))
def test_whatever_a_model_writes_only_recalled_memories_are_cited(answer: str) -> None:
    text, citations = resolve(answer, SOURCES)

    assert {citation.memory_id for citation in citations} <= IDS
    assert len({citation.memory_id for citation in citations}) == len(citations)
    assert resolve(text, SOURCES) == (text, citations)
