"""What says the same comes once, and what nobody knows finds nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engram_contracts.questions import Recollection
from engram_vectors.likeness import rare_words
from support.memories import chunk, embedding, memory, memory_id, remembered
from support.recall_room import Room, open_room


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with open_room(tmp_path) as room:
        yield room


def told(answer: Recollection) -> list[tuple[str, tuple[str, ...]]]:
    return [(hit.memory.id, hit.duplicates) for hit in answer.hits]


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(map(memory_id, numbers))


async def test_the_same_words_of_the_same_speaker_come_once_and_the_list_is_still_filled(room: Room) -> None:
    texts = {1: "Thanks!", 2: "thanks!", 3: "Thanks!", 4: "You are welcome", 5: "See you"}
    speakers = {1: "Ann", 2: "Ann", 3: "Bob", 4: "Bob", 5: "Ann"}
    await room.keep(*(remembered(n, memory(n, texts[n], speaker=speakers[n])) for n in texts))

    one = told(await room.recall(limit=4, fold="same"))
    every = told(await room.recall(limit=4, fold="none"))

    assert len(one) == len(every) == 4
    assert {name: same for name, same in one if same} in ({memory_id(1): ids(2)}, {memory_id(2): ids(1)})
    assert not any(same for _, same in every)


async def test_nearly_the_same_is_folded_where_it_is_asked_for(room: Room) -> None:
    long = "the ferry to ostend leaves at nine from the old pier by the church"
    texts = {1: long, 2: f"{long} today", 3: long.upper(), 4: "something else"}
    await room.keep(*(remembered(n, memory(n, text)) for n, text in texts.items()))

    near = told(await room.recall(limit=2, fold="near"))
    same = told(await room.recall(limit=4, fold="same"))

    assert sorted(len(duplicates) for _, duplicates in near) == [0, 2]
    assert sorted(len(duplicates) for _, duplicates in same) == [0, 0, 1]
    assert {name for name, _ in near} | {each for _, others in near for each in others} == set(ids(1, 2, 3, 4))


async def test_what_nobody_knows_finds_nothing(room: Room) -> None:
    await room.keep(
        remembered(1, memory(1, "Ann bought a bicycle"), embedding(chunk(5, (1,)))),
        remembered(2, memory(2, "We went to Oslo"), embedding(chunk(5, (2,)))),
    )
    room.query_is(0, 1, 2)

    assert len((await room.recall(query="Who went to Oslo?")).hits) == 2
    assert [hit.memory.id for hit in (await room.recall(query="Who went to Oslo?", min_similarity=0.5)).hits] == [
        memory_id(2)
    ]
    assert (await room.recall(query="What does the moon weigh?", min_similarity=0.5)).hits == ()


async def test_what_is_like_the_query_needs_none_of_its_words(room: Room) -> None:
    await room.keep(*(remembered(n, memory(n, f"text {n}"), embedding(chunk(n))) for n in range(1, 4)))
    room.query_is(2, 9)

    found = await room.recall(query="moonlight", min_similarity=0.5, explain=True)

    assert [hit.memory.id for hit in found.hits] == [memory_id(2)]


@pytest.mark.parametrize(
    ("query", "rare"),
    [
        ("Who went to Oslo in 2023?", {"oslo", "2023"}),
        ("what is the capital of Mongolia", {"mongolia"}),
        ("Tell me about pizza", {"pizza"}),
        ("what did you do then", set()),
        ("", set()),
    ],
)
def test_rare_words_are_names_and_numbers_or_else_the_longer_ones(query: str, rare: set[str]) -> None:
    assert rare_words(query) == rare
