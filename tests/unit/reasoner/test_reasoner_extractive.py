"""Answers without a model, over a conversation of three sessions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from engram_contracts.facts import Citation
from engram_reasoner.context import pack
from engram_reasoner.extractive import NOTHING, REMOTE, compose
from support.recalled import CONVERSATION, hits, memory


def ask(question: str, *, best: Sequence[int] = ()) -> tuple[str, tuple[Citation, ...]]:
    return compose(question, pack(hits(best=best), budget=10_000).sources)


@pytest.mark.parametrize(
    ("question", "memory_id", "words"),
    [
        ("What is the name of Tom's dog?", "m3", "Juno"),
        ("How much money was raised in the charity race?", "m5", "400 euros"),
        ("Where did Ines' grandmother have her kiln?", "m2", "Porto"),
        ("Who does Ines open the ceramics studio with?", "m8", "Paulo"),
        ("What did the doctor tell Tom about his knee?", "m11", "swim"),
        ("What happened to the bowls that were fired?", "m4", "cracked"),
        ("Which street is the studio in?", "m10", "Rua das Flores"),
        ("Where did Tom take his carpentry course?", "m9", "Bremen"),
    ],
)
def test_the_sentence_that_answers_comes_first(question: str, memory_id: str, words: str) -> None:
    answer, citations = ask(question)

    assert citations[0].memory_id == memory_id
    assert words in answer.splitlines()[0]


def test_when_is_answered_with_the_day_a_memory_speaks_from() -> None:
    answer, citations = ask("When did Tom run the charity race?")

    assert answer.splitlines()[0].startswith("Tom, 21 March 2026: “Juno and I ran")
    assert citations[0].memory_id == "m5"


def test_who_is_answered_with_the_speaker() -> None:
    answer, _ = ask("Who handed in their notice at the bank?")

    assert answer.startswith("Ines: “I handed in my notice at the bank!")


def test_a_question_in_the_memories_is_no_answer() -> None:
    answer, citations = ask("How long has Ines wanted to do pottery?", best=[1])

    assert citations[0].memory_id != "m1"
    assert not answer.splitlines()[0].split("”")[0].endswith("?")


def test_every_line_is_cited_and_there_are_at_most_four() -> None:
    answer, citations = ask("What do Tom and Ines do: pottery, race, studio, bank, dog, shelter?")

    lines = answer.splitlines()
    assert 1 <= len(lines) <= 4
    assert all(re.search(r"\[\d+\]$", line) for line in lines)
    assert len(citations) == len(lines)


def test_quotes_are_the_memories_own_words() -> None:
    contents = {memory.id: memory.content for memory in CONVERSATION}

    _, citations = ask("What is Ines' studio like, and what of the bank?")

    assert citations
    assert all(citation.quote in contents[citation.memory_id] for citation in citations)


def test_where_nothing_shares_a_word_with_the_question_it_says_so() -> None:
    answer, citations = ask("Quel âge a Zoé?", best=[6])

    assert answer.startswith(REMOTE)
    assert [citation.memory_id for citation in citations] == ["m6"]


def test_where_nothing_was_recalled_it_says_so() -> None:
    assert compose("Anything?", ()) == (NOTHING, ())


def test_memories_without_speaker_or_date_stand_as_they_are() -> None:
    sources = pack(hits([memory(1, "The build runs with make check.")]), budget=1_000).sources

    answer, _ = compose("When does the build run?", sources)

    assert answer == "The build runs with make check. [1]"


@pytest.mark.parametrize("content", ["…", "???", "   x", "\n\n.\n", "日本語の文。もう一つの文。", "a" * 10_000])
def test_odd_texts_make_an_answer_as_well(content: str) -> None:
    answer, citations = compose("What?", pack(hits([memory(1, content)]), budget=4_000).sources)

    assert answer.endswith("[1]")
    assert len(answer) < 600
    assert citations[0].memory_id == "m1"
