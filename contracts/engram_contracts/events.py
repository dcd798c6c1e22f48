"""Live events on core NATS: seen by who listens now, never stored. Whoever missed some reads the LOG.

Subjects are `engram.event.<tenant>.<event>`; those of one command alone end in its id.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from engram_contracts.facts import Thought
from engram_contracts.messages import Message, Moment


class Event(Message):
    """Base of all live events."""

    event: ClassVar[str]

    @property
    def about(self) -> str | None:
        """The one command that it is about, where its subject names that."""
        return None


class Progress(Event):
    """Commands reached a stage together. `commands` and `memory_ids` run in parallel.

    `attempt` and `next_at` are there with `retrying`: the how manieth try failed, and when the next is due.
    """

    event = "progress"
    stage: Literal["embedded", "indexed", "linked", "retrying", "dead", "cancelled", "expired"]
    commands: tuple[str, ...]
    memory_ids: tuple[str, ...] = ()
    at: Moment
    reason: str | None = None
    attempt: int | None = None
    next_at: Moment | None = None


class Said(Event):
    """A piece of an answer, as the model made it: from the reasoner, for who waits at a door.

    Each try to answer is a `stream` of its own, in which `number` counts the pieces from 0; the `last` one says that
    the stream is over. A piece that was missed is not sent again, the whole answer comes with `Thinking`.
    """

    event = "said"
    command: str
    stream: str
    number: int
    text: str
    last: bool = False

    @property
    def about(self) -> str | None:
        """The question's command."""
        return self.command


class Thinking(Event):
    """A question was answered: the answer, ahead of its place on the log.

    It was said in so many `pieces` of one `stream`, see `Said`; in none where it was found instead of made.
    """

    event = "thought"
    thought: Thought
    stream: str = ""
    pieces: int = 0


class Served(Event):
    """People are being served: from each door, a few times a second while it answers what somebody waits for.

    It goes to `_system`. `tenants` are those served last, two at most, which is enough to know whether a tenant is
    alone; meanwhile a tenant's bulk work is worked off at `share` memories a second. Missing some does no harm.
    """

    event = "served"
    tenants: tuple[str, ...]
    share: float


class JobTry(Message):
    """A try that failed: at which stage, the how manieth it was, when and why."""

    stage: str
    attempt: int
    at: Moment
    code: str
    reason: str


class JobTrouble(Message):
    """Why a command is not done yet, or never will be: kept in the jobs bucket.

    It is retried or dead, or it ended without effect because it was cancelled or its deadline passed.
    """

    state: Literal["retrying", "dead", "cancelled", "expired"]
    stage: str
    attempt: int
    reason: str
    code: str
    at: Moment
    next_at: Moment | None = None
    dead_sequence: int | None = None
    work_sequence: int | None = None
    """Where the command lies, or last lay, in the WORK stream; a replay moves it."""
    tries: tuple[JobTry, ...] = ()
    """The last tries that failed, oldest first."""
    waits_outside: bool = False
    """Whether it has left the WORK stream, to come back to it when its next try is due."""
    unanswered: int = 0
    """So many tries of its own, in a row, have begun and not ended."""


class CancelMark(Message):
    """Says that a command is to be called off: kept under tenant and command id, and honoured before it is handled."""

    at: Moment
    actor: str | None = None
