"""Live events on core NATS: seen by who listens now, never stored. Whoever missed some reads the LOG.

Subjects are `engram.event.<tenant>.<event>`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from engram_contracts.facts import Thought
from engram_contracts.messages import Message, Moment


class Event(Message):
    """Base of all live events."""

    event: ClassVar[str]


class Progress(Event):
    """Commands reached a stage together. `commands` and `memory_ids` run in parallel."""

    event = "progress"
    stage: Literal["embedded", "indexed", "linked", "retrying", "dead"]
    commands: tuple[str, ...]
    memory_ids: tuple[str, ...] = ()
    at: Moment
    reason: str | None = None


class Thinking(Event):
    """A question was answered: the answer, ahead of its place on the log."""

    event = "thought"
    thought: Thought


class JobTrouble(Message):
    """Why a command is not done yet: kept in the jobs bucket while it is retried or dead."""

    state: Literal["retrying", "dead"]
    stage: str
    attempt: int
    reason: str
    code: str
    at: Moment
    next_at: Moment | None = None
    dead_sequence: int | None = None
    work_sequence: int | None = None
    """Where the command lies, or last lay, in the WORK stream; a replay moves it."""
    waits_outside: bool = False
    """Whether it has left the WORK stream, to come back to it when its next try is due."""
