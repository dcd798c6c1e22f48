"""Erasing a tenant, or one user of a tenant, from everything that is kept; and exporting what is kept before.

An erasure is a command on WORK, so it outlives the worker that runs it. It travels under the installation's own name
(`engram.work.<lane>.erase._system`), so that emptying a tenant's subjects does not take it along. Questions go to
`engram.rpc.recovery.<verb>`; the stores answer what only they can do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from engram_contracts.commands import Command, CommandId
from engram_contracts.memory import Judgement, Memory, MemoryVersion, Scope
from engram_contracts.messages import Message, Moment, Tenant
from engram_contracts.questions import Question
from engram_contracts.recovery import TenantOrSystem

MOST_NAMED = 500
"""So many memories one question to a store names."""

MemoryId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ErasureState = Literal["queued", "running", "done"]


class Erase(Command):
    """Erase a tenant, or one user of it. `id` is the erasure's; a repeat of the same command erases nothing twice.

    Sent to `engram.work.<lane>.erase._system`. A tenant that is to go must have been closed at every door before.
    """

    op, permission = "erase", "data:erase"
    tenant: Tenant
    user_id: Scope | None = None


class Erasure(Message):
    """What was removed, and what was looked at afterwards: the part of a report that is signed.

    `removed` counts by place (`record.memories`, `index.points`, `log.facts`, ...), `left` what was still found in
    each place when it was looked through again; an erasure is done when nothing is. `remains` says in words what
    is kept on purpose.
    """

    id: str
    tenant: Tenant
    user_id: str | None = None
    actor: str | None = None
    accepted_at: Moment
    ended_at: Moment
    removed: dict[str, int]
    left: dict[str, int]
    remains: tuple[str, ...] = ()


class ErasureReport(Message):
    """A signed report. `signature` is Ed25519 over the bytes of `text`, which is the erasure as JSON.

    All three are needed to check it: the text, the signature (hex) and the installation's public key (hex), which
    does not change while its pepper is the same.
    """

    text: str
    signature: str
    public_key: str


class ErasureStatus(Message):
    """How far an erasure is. `step` names what is being done, `waiting` why it stands still."""

    id: str
    tenant: Tenant
    user_id: str | None = None
    actor: str | None = None
    state: ErasureState = "queued"
    step: str = ""
    waiting: str | None = None
    removed: dict[str, int] = Field(default_factory=dict)
    accepted_at: Moment
    updated_at: Moment
    ended_at: Moment | None = None
    report: ErasureReport | None = None


class ErasureRecord(ErasureStatus):
    """What is kept of an erasure."""

    def status(self) -> ErasureStatus:
        """What may be told of it."""
        return ErasureStatus.model_validate(self.model_dump())


class StartErasure(Question[ErasureStatus]):
    """Put an erasure to work; the reply says where it stands. Answered by recovery.

    A repeat with the same `id` answers with the erasure that there is. Without `user_id` the whole tenant is erased;
    who asks has closed it before (`TenantRecord.status`), and takes its records out of the control plane after.
    """

    service, verb, Reply = "recovery", "start-erasure", ErasureStatus
    tenant: Tenant
    user_id: Scope | None = None
    id: CommandId | None = None
    actor: str | None = None


class StatusErasure(Question[ErasureStatus]):
    """How far an erasure is; `NotFound` when there is none of that id for this tenant. Answered by recovery."""

    service, verb, Reply = "recovery", "status-erasure", ErasureStatus
    tenant: TenantOrSystem
    id: CommandId


class ErasurePage(Message):
    """Erasures, newest first."""

    erasures: tuple[ErasureStatus, ...]


class ListErasures(Question[ErasurePage]):
    """Erasures of the last 30 days; for `_system` those of all tenants. Answered by recovery."""

    service, verb, Reply = "recovery", "list-erasures", ErasurePage
    tenant: TenantOrSystem
    limit: int = Field(default=50, ge=1, le=200)


# --- what each store does for it ------------------------------------------------------------------------------


class Erased(Message):
    """What a store took out, by name. A repeat takes out nothing."""

    removed: dict[str, int] = Field(default_factory=dict)


class OfMemories(Question[Erased]):
    """Base of what is asked of a store: all it keeps of these memories, or of the tenant where they are not given."""

    service, verb, Reply = "", "", Erased
    tenant: Tenant
    memory_ids: tuple[MemoryId, ...] | None = Field(default=None, max_length=MOST_NAMED)


class EraseIndexed(OfMemories):
    """Take points out of the index, tombstones included. Answered by vectors."""

    service, verb, Reply = "vectors", "erase", Erased


class EraseRecorded(OfMemories):
    """Take rows out of the record: versions, feedback, jobs, mentions and evidence with them. Answered by the graph."""

    service, verb, Reply = "graph", "erase", Erased


class EraseMetered(OfMemories):
    """Take details out of the ledger; their sums stay, by day and meter, because bills rest on them.

    `commands` are those that the memories came from, by which they were charged. Answered by metering.
    """

    service, verb, Reply = "metering", "erase", Erased
    commands: tuple[CommandId, ...] = Field(default=(), max_length=MOST_NAMED)


class Compacted(Message):
    """Bytes of the file before and after it was written anew without what had been taken out."""

    before: int = 0
    after: int = 0


class CompactRecorded(Question[Compacted]):
    """Write a partition's file anew, so that nothing of what was taken out is left in it. Answered by the graph."""

    service, verb, Reply = "graph", "compact", Compacted
    tenant: Tenant


class CompactIndexed(Question[Compacted]):
    """Have the index write away what was taken out. Answered by vectors."""

    service, verb, Reply = "vectors", "compact", Compacted
    tenant: Tenant


class NamesPage(Message):
    """Ids of memories, in the order they were recorded."""

    names: tuple[str, ...]
    after: str | None = None


class ListOfUser(Question[NamesPage]):
    """Memories accepted up to a moment that are, or in any version were, of a user. Answered by the graph."""

    service, verb, Reply = "graph", "of-user", NamesPage
    tenant: Tenant
    user_id: Scope
    until: Moment
    after: str | None = None
    limit: int = Field(default=MOST_NAMED, ge=1, le=MOST_NAMED)


# --- export ---------------------------------------------------------------------------------------------------


class ExportedMemory(Message):
    """A memory with everything that is kept of it."""

    type: Literal["memory"] = "memory"
    memory: Memory
    versions: tuple[MemoryVersion, ...] = ()
    feedback: tuple[Judgement, ...] = ()


class ExportedNode(Message):
    """A node of the graph."""

    type: Literal["node"] = "node"
    id: str
    attributes: dict[str, Any] = Field(default_factory=dict)


class ExportedEdge(Message):
    """An edge of the graph."""

    type: Literal["edge"] = "edge"
    source: str
    edge: str
    target: str
    weight: float
    valid_from: Moment | None = None
    valid_to: Moment | None = None


class ExportedAnswer(Message):
    """A question that was answered."""

    type: Literal["answer"] = "answer"
    job: str
    question: str
    answer: str
    at: Moment


Exported = Annotated[ExportedMemory | ExportedNode | ExportedEdge | ExportedAnswer, Field(discriminator="type")]


class ExportPage(Message):
    """A page of what is kept; `after` continues it."""

    records: tuple[Exported, ...]
    after: str | None = None


class ExportRecorded(Question[ExportPage]):
    """What the record keeps of a tenant, or of one of its users (then memories alone), page by page.

    What is written meanwhile may be on a later page or on none. Answered by the graph.
    """

    service, verb, Reply = "graph", "export", ExportPage
    tenant: Tenant
    user_id: Scope | None = None
    after: str | None = None
    limit: int = Field(default=200, ge=1, le=MOST_NAMED)


QUESTIONS: tuple[type[Question[Any]], ...] = (
    StartErasure, StatusErasure, ListErasures, EraseIndexed, EraseRecorded, EraseMetered, CompactRecorded,
    CompactIndexed, ListOfUser, ExportRecorded,
)  # fmt: skip
