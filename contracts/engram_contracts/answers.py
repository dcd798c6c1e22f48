"""What the door answers: the `data` of every answer over HTTP that is not itself a message of another module.

Whoever calls the door reads answers with the models that wrote them; a field that is not known is passed over.
"""

from __future__ import annotations

from typing import Literal

from engram_contracts.erasing import Exported
from engram_contracts.facts import Citation, ModelUse
from engram_contracts.memory import Memory
from engram_contracts.messages import Message, Moment
from engram_contracts.questions import Check, Hit, Node, Stage
from engram_contracts.recovery import DeadLetter


class DeadLetterList(Message):
    """Dead letters, newest first."""

    letters: tuple[DeadLetter, ...]


class Accepted(Message):
    """A memory that is safe on the broker, and the job that follows it."""

    id: str
    job: str


class Refusal(Message):
    """Why one of many memories was not taken."""

    code: str
    message: str
    retry_after: float | None = None


class Refused(Message):
    """One of many memories that was not taken."""

    error: Refusal


class AcceptedMany(Message):
    """One outcome per memory, in the order they were sent."""

    memories: tuple[Accepted | Refused, ...]
    accepted: int
    refused: int


class Export(Message):
    """A page of everything that is kept: memories with their versions and feedback, then nodes, edges and answers."""

    records: tuple[Exported, ...]


class AcceptedChange(Message):
    """A change of the graph that is safe on the broker."""

    job: str


class MemoryList(Message):
    """Memories, newest first."""

    memories: tuple[Memory, ...]
    total: int | None = None


class Hits(Message):
    """Recalled memories, best first."""

    hits: tuple[Hit, ...]


class Thoughts(Message):
    """An answer with the memories it rests on. `mode` is `model` or `extractive`."""

    job: str
    answer: str
    mode: str
    citations: tuple[Citation, ...]
    model: str | None = None
    use: ModelUse
    degraded: tuple[str, ...] = ()


class AcceptedQuestion(Message):
    """A question that is being worked on."""

    job: str


class NodeList(Message):
    """Nodes, most mentioned first."""

    nodes: tuple[Node, ...]


class StageReached(Message):
    """A stage of a job, and when it was reached where that is known."""

    stage: Stage
    at: Moment | None = None


class Grave(Message):
    """Where a dead command lies, and why."""

    stage: str
    sequence: int | None = None
    code: str
    reason: str


class Step(Message):
    """Something that happened to a job: a stage it reached, or a try that failed at a service."""

    stage: str
    at: Moment | None = None
    attempt: int | None = None
    reason: str | None = None


class Job(Message):
    """The life of one accepted command, in `timeline` step by step.

    `attempt` and `next_at` are there while it is retried, `reason` also when it was cancelled or expired.
    `cancelling` says that it was asked to end, and no worker has come to it yet.
    """

    id: str
    state: Stage
    stages: tuple[StageReached, ...]
    memory_id: str | None = None
    attempt: int | None = None
    next_at: Moment | None = None
    reason: str | None = None
    dead: Grave | None = None
    thought: Thoughts | None = None
    cancelling: bool = False
    timeline: tuple[Step, ...] = ()


class Alive(Message):
    """This process runs."""

    status: Literal["alive"] = "alive"


class Ready(Message):
    """`ready` when all checks hold, `degraded` when the door can still accept, else `unavailable`."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, Check]
