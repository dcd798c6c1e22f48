"""Which pieces of an answer are told: of one try at a time, in order, gaps named."""

from __future__ import annotations

from datetime import UTC, datetime

from engram_api.telling import Frame, Pieces
from engram_contracts.events import Progress, Said, Thinking
from engram_contracts.facts import Thought

NOW = datetime.now(UTC)
THOUGHT = Thought(command="c", accepted_at=NOW, at=NOW, question="Who?", answer="Juno.", mode="model")


def said(stream: str, number: int, text: str = "x", *, last: bool = False) -> Said:
    return Said(command="c", stream=stream, number=number, text=text, last=last)


def failed() -> Progress:
    return Progress(stage="retrying", commands=("c",), at=datetime.now(UTC), reason="busy", attempt=1)


def names(frames: list[Frame]) -> list[str]:
    return [frame.event for frame in frames]


def test_pieces_of_a_try_are_told_once_and_in_order() -> None:
    pieces = Pieces()

    told = [names(pieces.take(said("a", number))) for number in (0, 1, 1, 0, 2)]

    assert told == [["token"], ["token"], [], [], ["token"]]
    assert pieces.take(said("a", 3, "", last=True)) == []


def test_pieces_that_were_missed_are_named() -> None:
    pieces = Pieces()

    late = pieces.take(said("a", 3))

    assert names(late) == ["missed", "token"] and late[0].data.model_dump() == {"pieces": 3}


def test_a_later_try_takes_the_place_of_an_earlier_one_that_goes_on() -> None:
    pieces = Pieces()
    pieces.take(said("a", 0))

    assert names(pieces.take(said("b", 0))) == ["retry", "token"]
    assert pieces.take(said("a", 1)) == []
    assert names(pieces.take(said("b", 1))) == ["token"]


def test_an_answer_is_through_when_all_it_was_said_in_was_taken() -> None:
    answered = Thinking(thought=THOUGHT, stream="b", pieces=2)
    pieces = Pieces()
    told = [pieces.through(answered)]
    for piece in (said("a", 0), said("a", 1), said("a", 2), said("b", 0), said("b", 1, last=True)):
        pieces.take(piece)
        told.append(pieces.through(answered))

    assert told == [False, False, False, False, False, True]
    assert Pieces().through(Thinking(thought=THOUGHT))
    assert Pieces().through(Thinking(thought=THOUGHT, stream="b")), "what was not said at all is not waited for"


def test_a_try_that_failed_is_told_once_and_says_no_more() -> None:
    pieces = Pieces()
    pieces.take(said("a", 0))

    assert names(pieces.fail(failed())) == ["retry"]
    assert pieces.take(said("a", 1)) == []
    assert names(pieces.take(said("b", 0))) == ["token"]
