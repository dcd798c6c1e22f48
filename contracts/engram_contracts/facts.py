"""Facts: events that happened, many followers each, carried by the LOG stream.

The subject names partition, tenant and event (`engram.log.<partition>.<tenant>.<event>`). Everything of a
tenant is in order. `command` is the id of the command that caused the fact; an effect is applied once per
command, however often the fact is read.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from pydantic import Field

from engram_contracts.commands import EdgeType, NodeId
from engram_contracts.memory import Memory, Owner, Verdict
from engram_contracts.messages import Message, Moment, Versioned
from engram_contracts.trail import Act, Mark


class SparseVector(Message):
    """Term weights for BM25: parallel `indices` (32-bit hashes of stems, ascending) and `values`."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


class Chunk(Message):
    """A stretch of a memory's content, from character `start` to `end`, with its vectors.

    `dense` holds little-endian IEEE half floats; a memory of ordinary length is one chunk.
    """

    start: int
    end: int
    dense: bytes
    sparse: SparseVector

    def floats(self) -> tuple[float, ...]:
        """The dense vector as Python floats."""
        return struct.unpack(f"<{len(self.dense) // 2}e", self.dense)


class Embedding(Message):
    """All chunks of one content, and the model that made them (`name@dimension`)."""

    model: str
    chunks: tuple[Chunk, ...]
    tokens: int
    """Tokens the model read; an estimate where the model does not count."""


class Fact(Versioned):
    """Base of all facts. `accepted_at` is the command's, `at` is when the fact came to be."""

    event: ClassVar[str]
    command: str
    accepted_at: Moment
    at: Moment
    actor: str | None = None


class Remembered(Fact):
    """A memory is to be kept."""

    event = "remembered"
    memory: Memory
    embedding: Embedding


class Revised(Fact):
    """Fields of a memory change; `embedding` is there when the searchable text changed."""

    event = "revised"
    memory_id: str
    owner: Owner | None = None
    changes: dict[str, Any]
    embedding: Embedding | None = None


class Forgotten(Fact):
    """A memory's text is to vanish from every store."""

    event = "forgotten"
    memory_id: str
    owner: Owner | None = None


class Judged(Fact):
    """Somebody said how a memory served."""

    event = "judged"
    memory_id: str
    owner: Owner | None = None
    verdict: Verdict
    query: str | None = None
    note: str | None = None


class Accessed(Fact):
    """Memories were recalled: how often each, by its id. At most 50 in one fact; a count may be lost, never doubled."""

    event = "accessed"
    times: dict[str, int]


class Citation(Message):
    """A memory that an answer rests on. `quote` is the words used, `score` the recall's.

    `number` is the mark in the answer: `[3]` cites the citation with number 3.
    """

    number: int = 0
    memory_id: str
    quote: str
    score: float


class ModelUse(Message):
    """What a model call cost. Tokens are the provider's count, or an estimate when `estimated`.

    `cost` is in the currency of the prices that are set for the model, `None` where none are.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    estimated: bool = False
    cost: float | None = None


class Thought(Fact):
    """A question was answered. `mode` says how: by a `model`, or `extractive` from the memories alone."""

    event = "thought"
    question: str
    answer: str
    mode: str
    model: str | None = None
    citations: tuple[Citation, ...] = ()
    use: ModelUse = ModelUse()
    degraded: tuple[str, ...] = ()


class NodePut(Fact):
    """A node is there, with at least these attributes."""

    event = "node-put"
    node: NodeId
    attributes: dict[str, Any] = Field(default_factory=dict)


class NodeDropped(Fact):
    """A node is gone, with its edges and mentions."""

    event = "node-dropped"
    node: NodeId


class EdgePut(Fact):
    """An edge is there with this weight and validity."""

    event = "edge-put"
    source: NodeId
    type: EdgeType
    target: NodeId
    weight: float = 1.0
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    evidence: tuple[str, ...] = ()


class EdgeDropped(Fact):
    """An edge is gone."""

    event = "edge-dropped"
    source: NodeId
    type: EdgeType
    target: NodeId


class Linked(Fact):
    """Relations a model found in memories: entities mentioned, and edges between them."""

    event = "linked"
    memory_id: str
    nodes: tuple[NodeId, ...] = ()
    edges: tuple[tuple[NodeId, EdgeType, NodeId], ...] = ()
    use: ModelUse = ModelUse()


FACTS: dict[str, type[Fact]] = {
    kind.event: kind
    for kind in (
        Remembered, Revised, Forgotten, Thought, NodePut, NodeDropped, EdgePut, EdgeDropped, Linked, Judged,
        Accessed,
    )
}  # fmt: skip


class UsageEvent(Message):
    """One request at a door, for the ledger. `request_id` makes a repeat harmless.

    `audit` is there when the request belongs into the audit trail.
    """

    request_id: str
    tenant: str
    route: str
    status: int
    at: Moment
    counters: dict[str, int]
    audit: Mark | None = None


class UsageBatch(Versioned):
    """Usage events of one door, written together; and `acts` for the audit trail that are no request of a tenant."""

    events: tuple[UsageEvent, ...]
    acts: tuple[Act, ...] = ()
