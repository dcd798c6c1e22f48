"""Auditing: what each store keeps, told page by page in the order of the store, and how one memory is put right.

The log is the measure; these questions let it be compared with what followed it. They are asked by the operator's
command. A page ends with `after`, from which the next one goes on; the last page has none.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from engram_contracts.facts import Embedding
from engram_contracts.ids import PARTITIONS
from engram_contracts.memory import Memory
from engram_contracts.messages import Message, Moment, Tenant
from engram_contracts.questions import Question

PointName = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}$")]
"""A point of the index: a UUID, with dashes or without."""
Place = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]
"""Where a page ended, as the page before said it."""


def digest_of(content: str) -> str:
    """A short name of a text: equal texts have equal names."""
    return blake2b(content.encode(), digest_size=8).hexdigest()


class Kept(Message):
    """One memory as a store keeps it; `version` 0 is one that was forgotten (the index leaves those out).

    `size` is its content's in bytes, `digest` names its content where the store holds it. `whole` is false where
    parts of it are missing. In the ledger, `id` is the memory's UUID, derived where the id itself is none.
    """

    tenant: str
    id: str
    version: int = 1
    size: int = 0
    digest: str | None = None
    sequence: int = 0
    born: int = 0
    whole: bool = True


class KeptPage(Message):
    """Memories of one store. `stray` names what lies there and belongs to no memory."""

    kept: tuple[Kept, ...]
    stray: tuple[str, ...] = ()
    after: str | None = None


class ListIndexed(Question[KeptPage]):
    """What the index keeps, of one tenant or of all, in the order of its points. Answered by vectors."""

    service, verb, Reply = "vectors", "kept", KeptPage
    tenant: Tenant | None = None
    after: PointName | None = None
    limit: int = Field(default=256, ge=64, le=2_000)


class ListRecorded(Question[KeptPage]):
    """What one partition of the record keeps, in the order it was recorded. Answered by the graph."""

    service, verb, Reply = "graph", "kept", KeptPage
    partition: int = Field(ge=0, lt=PARTITIONS)
    tenant: Tenant | None = None
    after: Place | None = None
    limit: int = Field(default=1_000, ge=1, le=5_000)


class ListMetered(Question[KeptPage]):
    """The sizes the ledger keeps of memories, in the order of their ids. Answered by metering."""

    service, verb, Reply = "metering", "kept", KeptPage
    tenant: Tenant | None = None
    after: str | None = None
    limit: int = Field(default=2_000, ge=1, le=10_000)


class Applied(Message):
    """A command whose effect a store keeps, and the log sequence it came from.

    In the ledger, `created` and `deleted` count memories, `size` is what was added to the bytes stored.
    """

    tenant: str
    command: str
    sequence: int
    memory_id: str | None = None
    created: int = 0
    deleted: int = 0
    size: int = 0


class AppliedPage(Message):
    """Commands in the order of the log."""

    applied: tuple[Applied, ...]
    after: str | None = None


class ListApplied(Question[AppliedPage]):
    """The commands that took effect in one partition of the record. Answered by the graph."""

    service, verb, Reply = "graph", "applied", AppliedPage
    partition: int = Field(ge=0, lt=PARTITIONS)
    tenant: Tenant | None = None
    after: Place | None = None
    limit: int = Field(default=2_000, ge=1, le=10_000)


class ListCharged(Question[AppliedPage]):
    """What the ledger charged for memories, command by command. Answered by metering."""

    service, verb, Reply = "metering", "charged", AppliedPage
    tenant: Tenant | None = None
    after: Place | None = None
    limit: int = Field(default=2_000, ge=1, le=10_000)


class Mended(Message):
    """How many facts were applied again; 0 where something was only taken out."""

    applied: int


class Mend(Message):
    """What is to become of one memory: what its facts on the log, at `sequences`, make of it, and nothing else.

    Where the log no longer holds them, index and ledger take `memory` and `embedding` instead, as of `command` and
    `sequence`. With neither, the memory is taken out. `commands` are those that the ledger charged for it so far,
    and takes back. `accesses` is how often it was recalled, as the log tells up to the cut, `accessed_at` when last,
    and `accessed_in` where that stands on the log.
    """

    memory_id: str
    sequences: tuple[int, ...] = ()
    memory: Memory | None = None
    embedding: Embedding | None = None
    command: str = ""
    sequence: int = 0
    commands: tuple[str, ...] = ()
    accesses: int = 0
    accessed_at: Moment | None = None
    accessed_in: int = 0


class Mending(Question[Mended]):
    """Base of the questions that put memories of a tenant right. A repeat changes nothing.

    The sequences are complete up to `cut`; what the store applied beyond it, the store looks up by itself.
    """

    service, verb, Reply = "", "", Mended
    tenant: Tenant
    mends: tuple[Mend, ...] = Field(max_length=500)
    cut: int


class MendIndexed(Mending):
    """Put memories right in the index. Answered by vectors."""

    service, verb, Reply = "vectors", "mend", Mended


class DropStray(Question[Mended]):
    """Take points out of the index that belong to no memory. Answered by vectors."""

    service, verb, Reply = "vectors", "drop-stray", Mended
    points: tuple[PointName, ...] = Field(max_length=1_000)


class MendRecorded(Mending):
    """Put memories right in the record. Answered by the graph."""

    service, verb, Reply = "graph", "mend", Mended


class MendMetered(Mending):
    """Put right what is charged for memories, which are named by their UUIDs. Answered by metering."""

    service, verb, Reply = "metering", "mend", Mended


class EmbedDocument(Question[Embedding]):
    """The embedding of a memory's text, for an index that is built anew. Answered by the embedder."""

    service, verb, Reply = "embedder", "embed-document", Embedding
    text: str = Field(min_length=1, max_length=10_000)
    speaker: str | None = None
    occurred_at: Moment | None = None
    tenant: Tenant | None = None
    """Whose it is, for the language of its words."""


class Positions(Message):
    """Up to which sequence of the log a store has applied what it follows, by partition; `usage` is of that stream."""

    positions: dict[int, int]
    usage: int = 0


class IndexPositions(Question[Positions]):
    """How far the index is. Answered by vectors."""

    service, verb, Reply = "vectors", "positions", Positions


class RecordPositions(Question[Positions]):
    """How far the record is. Answered by the graph."""

    service, verb, Reply = "graph", "positions", Positions


class LedgerPositions(Question[Positions]):
    """How far the ledger is; it follows all partitions as one, which is told as each of them. Answered by metering."""

    service, verb, Reply = "metering", "positions", Positions


class RebuildStatus(Message):
    """How far a rebuild is: up to `position` of the log, whose last message for it is `last`."""

    state: str
    position: int = 0
    last: int = 0
    reason: str | None = None


class RebuildRecord(Question[RebuildStatus]):
    """Build a partition of the record from the log, beside the one that answers, which it then replaces.

    `begin` starts it where it does not run; without it, the question only asks how far it is. A run that was cut short
    is continued. Answered by the graph.
    """

    service, verb, Reply = "graph", "rebuild", RebuildStatus
    partition: int = Field(ge=0, lt=PARTITIONS)
    begin: bool = False


QUESTIONS: tuple[type[Question[Any]], ...] = (
    ListIndexed, ListRecorded, ListMetered, ListApplied, ListCharged, MendIndexed, DropStray, MendRecorded, MendMetered,
    EmbedDocument, IndexPositions, RecordPositions, LedgerPositions, RebuildRecord,
)  # fmt: skip
