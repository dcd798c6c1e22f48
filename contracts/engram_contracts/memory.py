"""A memory: what a client may say of it, and the record that is kept."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from engram_contracts.messages import Message, Moment, Strict

MAX_CONTENT = 10_000
MAX_METADATA_BYTES = 16_384
MAX_FILTER_DEPTH = 3

KINDS = (
    "fact", "decision", "preference", "procedure", "episode", "observation",
    "error", "plan", "reflection", "question", "note",
)  # fmt: skip
"""Kinds with a meaning of their own; the list is open, any `Kind` is accepted."""

Content = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CONTENT)]
Kind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Scope = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Scopes = Scope | Annotated[tuple[Scope, ...], Field(max_length=100)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Scalar = str | int | Annotated[float, Field(allow_inf_nan=False)] | bool | None
Metadata = dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], Scalar | list[Scalar]]
Verdict = Literal["useful", "not_useful", "wrong"]
State = Literal["active", "stale", "archived", "forgotten"]


class MemoryFields(Message):
    """What a memory says and where it belongs; shared by what clients send and what is stored.

    `content` is 1 to 10,000 characters. `occurred_at` is when it happened, not when it was stored.
    `importance` and `confidence` run from 0 to 1.
    """

    content: Content
    kind: Kind = "note"
    user_id: Scope | None = None
    agent_id: Scope | None = None
    session_id: Scope | None = None
    speaker: Scope | None = None
    tags: tuple[Tag, ...] = Field(default=(), max_length=32)
    metadata: Metadata = Field(default_factory=dict, max_length=64)
    importance: Share = 0.5
    confidence: Share = 1.0
    source: Annotated[str, StringConstraints(max_length=512)] | None = None
    occurred_at: Moment | None = None
    expires_at: Moment | None = None

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: str) -> str:
        if not content.strip():
            raise ValueError("content is blank; send at least one visible character")
        return content

    @field_validator("metadata")
    @classmethod
    def _stays_small(cls, metadata: Metadata) -> Metadata:
        size = len(repr(metadata)) if metadata else 0
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"metadata takes {size} bytes; the limit is {MAX_METADATA_BYTES}")
        return metadata


class NewMemory(MemoryFields, Strict):
    """One memory as a client sends it; unknown fields are refused.

    `key` is the client's own name for it: the memory's id derives from tenant and key, so that sending it again,
    alone or in another batch, adds nothing. It is not stored.
    """

    key: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None


class MemoryChanges(Strict):
    """What a client wants changed; only the fields that are sent change, and `null` clears the optional ones."""

    content: Content | None = None
    kind: Kind | None = None
    user_id: Scope | None = None
    agent_id: Scope | None = None
    session_id: Scope | None = None
    speaker: Scope | None = None
    tags: tuple[Tag, ...] | None = Field(default=None, max_length=32)
    metadata: Metadata | None = Field(default=None, max_length=64)
    importance: Share | None = None
    confidence: Share | None = None
    source: Annotated[str, StringConstraints(max_length=512)] | None = None
    occurred_at: Moment | None = None
    expires_at: Moment | None = None

    @field_validator("content", "kind", "tags", "metadata", "importance", "confidence")
    @classmethod
    def _cannot_be_cleared(cls, value: object) -> object:
        if value is None:
            raise ValueError("this field can be changed but not cleared; leave it out to keep it")
        return value

    def changed(self) -> dict[str, object]:
        """The fields that were sent, by name, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Feedback(Message):
    """How often those who recalled a memory found it useful, not useful, or wrong, since its content last changed."""

    useful: int = 0
    not_useful: int = 0
    wrong: int = 0

    def plus(self, verdict: Verdict) -> Feedback:
        """The same with one verdict more."""
        return self.model_copy(update={verdict: getattr(self, verdict) + 1})


class Memory(MemoryFields):
    """A memory as it is stored. `version` starts at 1 and grows by one with each change.

    Feedback is no change, nor is being recalled: `access_count` tells how often it was, `accessed_at` when last, both
    up to half a minute late.
    """

    id: str
    version: int = 1
    state: State = "active"
    created_at: Moment
    updated_at: Moment
    feedback: Feedback | None = None
    access_count: int = 0
    accessed_at: Moment | None = None

    def accessed(self, times: int, at: datetime) -> Self:
        """The same memory, recalled so many times more."""
        return self.model_copy(update={"access_count": self.access_count + times, "accessed_at": at})

    def judged(self, verdict: Verdict) -> Self:
        """The same memory with one verdict more."""
        return self.model_copy(update={"feedback": (self.feedback or Feedback()).plus(verdict)})


class Owner(Message):
    """Whose memory it is, and of which conversation."""

    user_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None

    @classmethod
    def of(cls, memory: MemoryFields) -> Owner:
        """The owner of a memory."""
        return cls(user_id=memory.user_id, agent_id=memory.agent_id, session_id=memory.session_id)


class MemoryVersion(Message):
    """One version in a memory's history: the whole record as it stood from `at` on."""

    version: int
    at: Moment
    change: Literal["created", "revised", "forgotten"]
    memory: Memory


class Judgement(Message):
    """A verdict on a memory as it was given: on which version, by whom, after which query."""

    at: Moment
    verdict: Verdict
    version: int
    query: str | None = None
    note: str | None = None
    actor: str | None = None


Bound = Annotated[float, Field(strict=True, allow_inf_nan=False)] | Moment


class Range(Strict):
    """A stretch of numbers or of time, from `gte` or above `gt` to `lte` or below `lt`; at least one of them.

    Numbers compare as double-precision floats with values that are numbers; moments with texts that are a date or a
    time in ISO 8601 (`2026-05-01`, `2026-05-01T12:30:00Z`; without a zone it is UTC), to the microsecond.
    """

    gte: Bound | None = None
    gt: Bound | None = None
    lte: Bound | None = None
    lt: Bound | None = None

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = {isinstance(bound, datetime) for bound in self.bounds().values()}
        if len(kinds) != 1:
            raise ValueError("a range takes gte, gt, lte or lt, which are all numbers or all times")
        return self

    def bounds(self) -> dict[str, float | datetime]:
        """The bounds that are given, by name."""
        every = {"gte": self.gte, "gt": self.gt, "lte": self.lte, "lt": self.lt}
        return {name: bound for name, bound in every.items() if bound is not None}


class Filters(Strict):
    """Narrows a question to some memories; every given field must hold (a list means any of its values).

    `tags` must all be present. `after` is inclusive, `before` exclusive; both compare `occurred_at`, or
    `created_at` where a memory has none. `metadata` compares for equality, key by key; `ranges` holds, by key, in which
    stretch a value of the metadata has to lie. Besides, every one of
    `all_of` must hold, one of `any_of` where there are any, and none of `none_of`; these may hold filters in turn,
    `MAX_FILTER_DEPTH` deep.
    """

    user_id: Scopes | None = None
    agent_id: Scopes | None = None
    session_id: Scopes | None = None
    kind: Kind | tuple[Kind, ...] | None = None
    speaker: Scope | None = None
    tags: tuple[Tag, ...] = Field(default=(), max_length=32)
    after: Moment | None = None
    before: Moment | None = None
    metadata: dict[str, str | int | float | bool] = Field(default_factory=dict, max_length=16)
    ranges: dict[str, Range] = Field(default_factory=dict, max_length=16)
    all_of: tuple[Filters, ...] = Field(default=(), max_length=8)
    any_of: tuple[Filters, ...] = Field(default=(), max_length=8)
    none_of: tuple[Filters, ...] = Field(default=(), max_length=8)

    @model_validator(mode="after")
    def _stays_shallow(self) -> Self:
        if self.depth > MAX_FILTER_DEPTH:
            raise ValueError(f"filters may lie {MAX_FILTER_DEPTH} deep in each other")
        return self

    @property
    def depth(self) -> int:
        """How deep filters lie in filters; 1 for one that holds none."""
        return 1 + max((each.depth for each in (*self.all_of, *self.any_of, *self.none_of)), default=0)
