"""What metering reads of facts and usage: the few fields it counts. Vectors are skipped, never decoded.

What is inside a `Remembered` is a dictionary and not a message: that takes a third off the decoding of each fact.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from engram_contracts.facts import (
    EdgeDropped,
    EdgePut,
    Forgotten,
    Judged,
    Linked,
    NodeDropped,
    NodePut,
    Remembered,
    Revised,
    Thought,
)
from engram_contracts.messages import Message, Moment, Versioned
from engram_contracts.trail import Act, Mark

Amount = Annotated[int, Field(ge=0, le=2**53)]
"""What one event may add to a meter; a ledger of 64-bit integers holds a thousand of the largest."""


class Tokens(TypedDict):
    """Of an embedding: the tokens the model read."""

    tokens: Amount


class ModelTokens(Message):
    """Of a model's use: the tokens that are paid for."""

    prompt_tokens: Amount = 0
    completion_tokens: Amount = 0


class Text(TypedDict):
    """Of a memory: which one, and its content."""

    id: str
    content: str


class ChangedText(Message):
    """Of a memory's changes: the new content, where it changed."""

    content: str | None = None


class Counted(Versioned):
    """Of every fact: which command caused it, when that was accepted, when the fact came to be, and who asked."""

    command: str
    accepted_at: Moment
    at: Moment
    actor: str | None = None


class CountedRemembered(Counted):
    """What counts of `Remembered`."""

    memory: Text
    embedding: Tokens


class CountedRevised(Counted):
    """What counts of `Revised`."""

    memory_id: str
    changes: ChangedText
    embedding: Tokens | None = None


class CountedForgotten(Counted):
    """What counts of `Forgotten`."""

    memory_id: str


class CountedThought(Counted):
    """What counts of `Thought`."""

    use: ModelTokens = ModelTokens()


class CountedLinked(Counted):
    """What counts of `Linked`."""

    memory_id: str
    use: ModelTokens = ModelTokens()


class Noted(Counted):
    """A fact that moves no meter and belongs into the audit trail. A node of the graph has no memory's id."""

    memory_id: str | None = None
    node: str | None = None
    source: str | None = None
    type: str | None = None
    target: str | None = None


class CountedRequest(Message):
    """A `UsageEvent` with its counters in bounds."""

    request_id: str
    tenant: str
    at: Moment
    route: str = ""
    status: int = 0
    counters: dict[str, Amount] = Field(default_factory=dict)
    audit: Mark | None = None


class CountedUsage(Versioned):
    """A `UsageBatch` with its counters in bounds."""

    events: tuple[CountedRequest, ...]
    acts: tuple[Act, ...] = ()


FACTS: dict[str, type[Message]] = {
    Remembered.event: CountedRemembered,
    Revised.event: CountedRevised,
    Forgotten.event: CountedForgotten,
    Thought.event: CountedThought,
    Linked.event: CountedLinked,
}
NOTED: dict[str, type[Message]] = {kind.event: Noted for kind in (Judged, NodePut, NodeDropped, EdgePut, EdgeDropped)}
USAGE: dict[str, type[Message]] = {"usage": CountedUsage}
