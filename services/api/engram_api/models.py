"""What clients send in bodies and queries, and what they get: the door's own models."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator, model_validator
from pydantic_core import from_json

from engram_contracts.commands import EdgeType, NodeId, QueryText
from engram_contracts.live import EventFilter, HappeningKind
from engram_contracts.memory import MAX_METADATA_BYTES, Filters, Metadata, NewMemory, Scope, Share, Verdict
from engram_contracts.messages import Moment, Strict
from engram_contracts.questions import (
    Fold,
    Mode,
    PackingOrder,
    Recall,
    RecallWeights,
    Recollection,
    Similarity,
)
from engram_contracts.recovery import Age, DeadFilter, GroupKey, Reason, Selection

MAX_BULK = 1_000
Waitable = Literal["indexed", "done"]
MemoryId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
JobName = Annotated[str, StringConstraints(max_length=128)]
Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$")]


class NewMemories(Strict):
    """Many memories in one request."""

    memories: list[NewMemory] = Field(min_length=1, max_length=MAX_BULK)


class RecallBody(Strict):
    """A query for memories; see `Recall` for what the fields mean."""

    query: QueryText
    limit: int = Field(default=10, ge=1, le=100)
    filters: Filters = Filters()
    explain: bool = False
    mode: Mode = "auto"
    weights: RecallWeights | None = None
    as_of: Moment | None = None
    min_score: Share = 0.0
    min_similarity: Similarity = 0.0
    fold: Fold = "same"
    written: tuple[JobName, ...] = Field(default=(), max_length=16)
    """Jobs of changes that the answer has to show; it waits for them, but not for ever."""


class ContextBody(Strict):
    """What a prompt is to know, and how many tokens that may take; see `PackContext`."""

    query: QueryText
    budget: int = Field(default=2_000, ge=64, le=100_000)
    order: PackingOrder = "greedy"
    limit: int = Field(default=50, ge=1, le=100)
    filters: Filters = Filters()
    as_of: Moment | None = None
    min_score: Share = 0.0


class FeedbackBody(Strict):
    """How a recalled memory served, after which query. `wrong` says that what it tells is not so."""

    verdict: Verdict
    query: QueryText | None = None
    note: Annotated[str, StringConstraints(max_length=1_000)] | None = None


class ThinkBody(Strict):
    """A question to be answered from memories."""

    question: QueryText
    limit: int = Field(default=10, ge=1, le=100)
    filters: Filters = Filters()
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    deadline_ms: int | None = Field(default=None, ge=1, le=86_400_000)
    """After so many milliseconds the answer is of no use, and nobody works on it any more."""


class NodeBody(Strict):
    """A node to create, or to merge attributes into."""

    id: NodeId
    attributes: Metadata = Field(default_factory=dict, max_length=64)

    @field_validator("attributes")
    @classmethod
    def _stays_small(cls, attributes: Metadata) -> Metadata:
        size = len(repr(attributes)) if attributes else 0
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"attributes take {size} bytes; the limit is {MAX_METADATA_BYTES}")
        return attributes


class EdgeKey(Strict):
    """Names an edge."""

    source: NodeId
    type: EdgeType
    target: NodeId


class EdgeBody(EdgeKey):
    """An edge to create or change."""

    weight: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    evidence: tuple[MemoryId, ...] = Field(default=(), max_length=100)

    @field_validator("valid_to")
    @classmethod
    def _ends_after_it_begins(cls, valid_to: datetime | None, others: ValidationInfo) -> datetime | None:
        begins = others.data.get("valid_from")
        if begins and valid_to and valid_to <= begins:
            raise ValueError("valid_to must lie after valid_from")
        return valid_to


class NoQuery(Strict):
    """No query parameter is taken."""


class WaitQuery(Strict):
    """How long to wait for the effect: until `indexed` (it can be recalled) or `done` (linked as well)."""

    wait: Waitable | None = None
    timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class DropEdgeQuery(EdgeKey, WaitQuery):
    """Names the edge to drop."""


class Paged(Strict):
    """A stretch of a list: at most `limit` from behind `cursor`, the `next` of an earlier answer."""

    limit: int = Field(default=50, ge=1, le=1_000)
    cursor: Annotated[str, StringConstraints(max_length=1_024)] | None = None


def _from_json(value: Any) -> Any:
    """What a query parameter says that holds an object, or several that hold one each, in JSON."""
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    return from_json(value) if isinstance(value, str) else value


class MemoriesQuery(Filters, Paged):
    """Filters and page of a list of memories; filters that are objects are written in JSON."""

    @field_validator("metadata", "ranges", "all_of", "any_of", "none_of", mode="before")
    @classmethod
    def _reads_json(cls, value: Any) -> Any:
        return _from_json(value)

    def filters(self) -> Filters:
        """The filters alone."""
        return Filters.model_construct(**{name: getattr(self, name) for name in Filters.model_fields})


class NodesQuery(Paged):
    """Filters and page of a list of nodes."""

    type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] | None = None
    prefix: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class NodeQuery(Strict):
    """How many edges and memories of a node to show."""

    limit: int = Field(default=20, ge=1, le=200)


class NeighboursQuery(Strict):
    """From which node, how far, and through which edges."""

    node: NodeId
    hops: int = Field(default=1, ge=1, le=3)
    limit: int = Field(default=50, ge=1, le=1_000)
    edge_type: EdgeType | None = None
    at: Moment | None = None


class PathQuery(Strict):
    """Between which nodes, in at most how many steps."""

    source: NodeId
    target: NodeId
    max_hops: int = Field(default=6, ge=1, le=10)


class EventsQuery(Strict):
    """Which events, from behind which id; `kind` may be repeated. `Last-Event-ID` counts before `after`."""

    kind: tuple[HappeningKind, ...] = Field(default=(), max_length=10)
    user_id: Scope | None = None
    agent_id: Scope | None = None
    session_id: Scope | None = None
    after: int | None = Field(default=None, ge=0, lt=2**63)

    def chosen(self) -> EventFilter:
        """The filter alone."""
        return EventFilter(
            kinds=tuple(sorted(set(self.kind))),
            user_id=self.user_id,
            agent_id=self.agent_id,
            session_id=self.session_id,
        )


class UsageQuery(Strict):
    """Which days (both inclusive, UTC) and which meter; by day or by hour."""

    since: Day | None = None
    until: Day | None = None
    meter: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")] | None = None
    by: Literal["day", "hour"] = "day"


class UsageExportQuery(Strict):
    """Which days (both inclusive, UTC), in which form, and how fine."""

    format: Literal["csv", "parquet"] = "csv"
    since: Day | None = None
    until: Day | None = None
    by: Literal["day", "hour", "event"] = "hour"


AGES: dict[Age, tuple[timedelta | None, timedelta]] = {
    "hour": (timedelta(hours=1), timedelta()),
    "day": (timedelta(days=1), timedelta(hours=1)),
    "week": (timedelta(days=7), timedelta(days=1)),
    "older": (None, timedelta(days=7)),
}
"""How long ago at most, and at least, dead letters of an age were buried."""


class DeadQuery(DeadFilter):
    """Narrows to some dead letters. `age` is `hour`, `day`, `week` or `older`, as groups have it."""

    age: Age | None = None

    def wanted(self, now: datetime) -> DeadFilter:
        """The filter alone, with the age as a stretch of time."""
        given = {name: getattr(self, name) for name in DeadFilter.model_fields}
        if self.age is not None:
            most, least = AGES[self.age]
            given["since"] = max(filter(None, (self.since, now - most if most else None)), default=None)
            given["until"] = min(filter(None, (self.until, now - least if least else None)), default=None)
        return DeadFilter.model_construct(**given)


class DeadLettersQuery(DeadQuery):
    """Filter and page of a list of dead letters."""

    limit: int = Field(default=50, ge=1, le=500)
    cursor: Annotated[str, StringConstraints(max_length=1_024)] | None = None


class DeadGroupsQuery(DeadQuery):
    """Filter of dead letters, and what to count them by; `by` may be repeated."""

    by: tuple[GroupKey, ...] = Field(default=("code", "stage", "tenant", "age"), min_length=1, max_length=5)


class OneReplayBody(Strict):
    """How one dead letter is replayed: as it is, or with `payload` in place of its body."""

    payload: dict[str, Any] | None = None
    dry_run: bool = False


class ReplayBody(Selection):
    """Which dead letters to replay, at most `rate` a second. `payload` edits the one that is chosen."""

    rate: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    dry_run: bool = False
    payload: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _edits_one(self) -> Self:
        if self.payload is not None and len(set(self.sequences)) != 1:
            raise ValueError("a payload replaces that of exactly one dead letter; choose one sequence")
        return self


class ReplaysQuery(Strict):
    """How many replays to list."""

    limit: int = Field(default=50, ge=1, le=200)


class ErasureBody(Strict):
    """Whose data is to be erased: all memories of a user that were accepted up to now."""

    user_id: Scope


class ErasuresQuery(Strict):
    """How many erasures to list."""

    limit: int = Field(default=50, ge=1, le=200)


class ExportQuery(Strict):
    """Which page of an export; with `user_id` of that user's memories alone."""

    user_id: Scope | None = None
    limit: int = Field(default=200, ge=1, le=500)
    cursor: Annotated[str, StringConstraints(max_length=1_024)] | None = None


class DropBody(Selection):
    """Which dead letters to give up, and why."""

    reason: Reason


class DropQuery(Strict):
    """Why a dead letter is given up."""

    reason: Reason


class PassedOn(Recollection):
    """A recollection whose hits go to the client as they came, which saves reading and writing each memory again."""

    hits: tuple[Any, ...]


class RecallForClient(Recall):
    """A recall, the hits of which are passed on."""

    Reply = PassedOn
