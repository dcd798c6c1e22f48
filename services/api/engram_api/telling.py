"""What a client that follows a command is told of the events that reach the door. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from engram_api.jobs import thoughts
from engram_contracts.answers import Refusal
from engram_contracts.errors import Conflict
from engram_contracts.events import JobTrouble, Progress, Said, Thinking
from engram_contracts.facts import Thought
from engram_contracts.live import Citations, Missed, Reached, Retrying, Token
from engram_contracts.messages import Message

BEGUN_ANEW = "the answer was begun anew"


@dataclass(frozen=True, slots=True)
class Frame:
    """One event for the client."""

    event: str
    data: Message


class Pieces:
    """The pieces of an answer, of one try at a time, in their order.

    Two tries may run at once when one was taken for lost: the later one counts, which its id tells, being time-ordered.
    """

    def __init__(self) -> None:
        self._stream = ""
        self._next = 0
        self._failed = ""

    def take(self, said: Said) -> list[Frame]:
        """What to tell of a piece."""
        if said.stream < self._stream or said.stream <= self._failed:
            return []
        frames = self._begin(said) if said.stream > self._stream else []
        if said.number < self._next:
            return frames
        if said.number > self._next:
            frames.append(Frame("missed", Missed(pieces=said.number - self._next)))
        self._next = said.number + 1
        if said.text:
            frames.append(Frame("token", Token(text=said.text, index=said.number)))
        return frames

    def _begin(self, said: Said) -> list[Frame]:
        unsaid = self._stream > self._failed
        self._stream, self._next = said.stream, 0
        return [Frame("retry", Retrying(reason=BEGUN_ANEW))] if unsaid else []

    def through(self, thinking: Thinking) -> bool:
        """Whether all pieces of an answer were taken, or those of a later try."""
        return not thinking.pieces or (self._stream, self._next) >= (thinking.stream, thinking.pieces)

    def fail(self, progress: Progress) -> list[Frame]:
        """What to tell of a try that failed."""
        self._failed = self._stream
        retrying = Retrying(reason=progress.reason or "", attempt=progress.attempt, next_at=progress.next_at)
        return [Frame("retry", retrying)]


def reached(progress: Progress) -> Frame:
    """What to tell of a stage."""
    return Frame("progress", Reached(stage=progress.stage, at=progress.at))


def rests_on(thought: Thought) -> list[Frame]:
    """What an answer rests on, and what it cost."""
    return [Frame("citations", Citations(citations=thought.citations)), Frame("usage", thought.use)]


def answered(job_id: str, question: str | None, thought: Thought) -> list[Frame]:
    """The end of a question that was answered."""
    if question is not None and thought.question != question:
        refusal = Refusal(code=Conflict.code, message="another question was asked under this Idempotency-Key")
        return [Frame("error", refusal)]
    return [*rests_on(thought), Frame("done", thoughts(job_id, thought))]


def ended(trouble: JobTrouble) -> list[Frame]:
    """The end of a question that will not be answered."""
    return [Frame("error", Refusal(code=trouble.code, message=trouble.reason))]
