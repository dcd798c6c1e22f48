"""Commands: work asked for, one owner each, carried by the WORK stream.

The subject names the tenant (`engram.work.<lane>.<op>.<tenant>`), so no body repeats it and none can
contradict it. `id` is the command's own: it is the job, the `Nats-Msg-Id`, and what makes a repeat harmless.
Producers outside Engram publish the same bodies to the same subjects.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints

from engram_contracts.memory import Filters, MemoryChanges, MemoryFields, Owner, Verdict
from engram_contracts.messages import Moment, Versioned
from engram_contracts.permissions import Permission

NodeId = Annotated[
    str,
    StringConstraints(max_length=320, pattern=r"^[a-z][a-z0-9_-]{0,31}:[^\x00-\x1f\x7f]+$"),
    Field(examples=["person:Joel", "name:Ghent"]),
]
"""`type:name`, for example `person:Ann`; type is lower case, the name is kept as written."""

CommandId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
WorkSequence = Annotated[int, Field(ge=1, lt=2**63)]
"""A place that a stream can have."""
QueryText = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
EdgeType = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$"), Field(examples=["lives_in"])]


class Command(Versioned):
    """Base of all commands. `accepted_at` is when the door, or whoever publishes, took responsibility.

    `permission` is what its sender needs: the door asks for it by route, the broker by who may publish to a subject.
    """

    op: ClassVar[str]
    permission: ClassVar[Permission]
    id: CommandId
    accepted_at: Moment
    actor: str | None = None
    """Who asked: the id of the key or the subject of the token; for the audit, never for access."""
    deadline: Moment | None = None
    """When it is of no use any more; work that has not begun, or is a single long one, then ends without effect."""


class Remember(Command):
    """Keep a memory. A repeat with the same `memory_id` changes nothing."""

    op, permission = "remember", "memories:write"
    memory_id: str
    memory: MemoryFields


class Revise(Command):
    """Change fields of a memory; the record gains a version. A repeat of the same command changes nothing."""

    op, permission = "revise", "memories:write"
    memory_id: str
    owner: Owner | None = None
    """Of the memory, where the sender knows it; for who follows events."""
    behind: WorkSequence | None = None
    """The sequence, on the work stream, of the command that makes the memory: this one waits until that one is done."""
    changes: dict[str, Any]
    """Names and JSON values of the fields that were sent; read them with `edit`."""

    def edit(self) -> MemoryChanges:
        """The changes, validated. Raises pydantic's `ValidationError` when they are not a valid edit."""
        return MemoryChanges.model_validate(self.changes)


class Forget(Command):
    """Delete a memory's text everywhere; a tombstone with its id stays. A repeat changes nothing."""

    op, permission = "forget", "memories:write"
    memory_id: str
    owner: Owner | None = None
    """Of the memory, where the sender knows it; for who follows events."""
    behind: WorkSequence | None = None
    """As that of `Revise`."""


class Think(Command):
    """Answer a question from memories. A repeat of the same command gives the first answer again."""

    op, permission = "think", "think"
    question: QueryText
    limit: int = Field(default=10, ge=1, le=100)
    filters: Filters = Filters()
    model: str | None = None


class PutNode(Command):
    """Create a node, or merge attributes into it. A repeat changes nothing."""

    op, permission = "put-node", "graph:write"
    node: NodeId
    attributes: dict[str, Any] = Field(default_factory=dict, max_length=64)


class DropNode(Command):
    """Remove a node with its edges and mentions. A repeat changes nothing."""

    op, permission = "drop-node", "graph:write"
    node: NodeId


class PutEdge(Command):
    """Create an edge, or set its weight and validity. Missing end nodes are created. A repeat changes nothing."""

    op, permission = "put-edge", "graph:write"
    source: NodeId
    type: EdgeType
    target: NodeId
    weight: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    evidence: tuple[str, ...] = Field(default=(), max_length=100)


class DropEdge(Command):
    """Remove an edge. A repeat changes nothing."""

    op, permission = "drop-edge", "graph:write"
    source: NodeId
    type: EdgeType
    target: NodeId


class Judge(Command):
    """Say how a recalled memory served. A repeat of the same command counts once; a forgotten memory takes none."""

    op, permission = "judge", "memories:write"
    memory_id: str
    owner: Owner | None = None
    """Of the memory, where the sender knows it; for who follows events."""
    verdict: Verdict
    query: QueryText | None = None
    note: Annotated[str, StringConstraints(max_length=1_000)] | None = None


INGEST: tuple[type[Command], ...] = (Remember, Revise, Forget)
"""What the embedder turns into facts."""

GRAPH: tuple[type[Command], ...] = (PutNode, DropNode, PutEdge, DropEdge, Judge)
"""What the graph turns into facts."""

ALL: tuple[type[Command], ...] = (*INGEST, *GRAPH, Think)

COMMANDS: dict[str, type[Command]] = {kind.op: kind for kind in ALL}
