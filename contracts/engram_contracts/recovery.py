"""Recovery: what lies in the dead letters, and how it is given another try or given up.

Questions go to `engram.rpc.recovery.<verb>`. A replay is a command, so that it outlives the worker that runs it.
`tenant` says on whose behalf: a tenant sees and touches its own dead letters alone, `_system` those of all. Who may
speak for `_system` is decided by the door, and by the broker's permissions on subjects.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from engram_contracts.commands import Command, CommandId
from engram_contracts.messages import Message, Moment, Strict, Tenant
from engram_contracts.questions import Question

SYSTEM = "_system"
"""Stands in a tenant's place for the installation's admin. No tenant can have this name."""

TenantOrSystem = Annotated[str, StringConstraints(pattern=r"^(_system|[a-z0-9][a-z0-9_-]{0,62})$")]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
DeadSequence = Annotated[int, Field(ge=1)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500, strip_whitespace=True)]

MOST_SEQUENCES = 10_000
SHOWN_BYTES = 256 * 1024
"""So much of a body is shown."""


# --- what lies there ----------------------------------------------------------------------------------------


class DeadFailure(Message):
    """Why something was buried, and when: `sequence` is where it lay, `replay` what gave it its next try."""

    stage: str
    code: str
    error: str
    reason: str
    attempts: int
    first_at: Moment
    last_at: Moment
    sequence: int
    replay: str | None = None


class DeadLetter(Message):
    """A dead letter without its body. `size` is the body's in bytes, `replays` how often it was replayed before.

    `subject` is where the message was sent, `op` the command or event that it names, `command` the id it was first
    sent under. `why` is `never` (it cannot succeed) or `worn out`.
    """

    sequence: int
    stage: str
    tenant: str
    subject: str
    op: str
    command: str | None = None
    why: str
    code: str
    error: str
    reason: str
    attempts: int
    first_at: Moment
    last_at: Moment
    buried_at: Moment
    size: int
    replays: int = 0


class DeadFilter(Strict):
    """Narrows to some dead letters; every given condition must hold.

    `code` is the error's code, `error` the name of its class, `text` stands somewhere in the reason, whatever the
    case of its letters. `since` is inclusive, `until` exclusive; both compare the time of burial.
    """

    tenant: Tenant | None = None
    stage: Word | None = None
    code: Word | None = None
    error: Word | None = None
    text: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    since: Moment | None = None
    until: Moment | None = None


class DeadPage(Message):
    """Dead letters, newest first. `after` continues the list, which may go on with an empty page."""

    letters: tuple[DeadLetter, ...]
    after: int | None = None


class ListDead(Question[DeadPage]):
    """Dead letters, newest first, from below the sequence `after`. Answered by recovery."""

    service, verb, Reply = "recovery", "list-dead", DeadPage
    tenant: TenantOrSystem
    filter: DeadFilter = DeadFilter()
    limit: int = Field(default=50, ge=1, le=500)
    after: DeadSequence | None = None


Age = Literal["hour", "day", "week", "older"]
GroupKey = Literal["code", "error", "stage", "tenant", "age"]


class DeadGroup(Message):
    """Dead letters that have the same `key` in common; `example` is the newest of them."""

    key: dict[GroupKey, str]
    count: int
    oldest_at: Moment
    newest_at: Moment
    example: DeadLetter


class DeadGroups(Message):
    """Groups, largest first. `truncated` when there were more dead letters than were looked at, newest first."""

    groups: tuple[DeadGroup, ...]
    letters: int
    truncated: bool = False


class GroupDead(Question[DeadGroups]):
    """How many dead letters there are by error code, stage, tenant and age. Answered by recovery.

    Ages are `hour` (buried within the last one), `day`, `week` and `older`.
    """

    service, verb, Reply = "recovery", "group-dead", DeadGroups
    tenant: TenantOrSystem
    filter: DeadFilter = DeadFilter()
    by: tuple[GroupKey, ...] = Field(default=("code", "stage", "tenant", "age"), min_length=1, max_length=5)


class DeadDetail(Message):
    """Everything about one dead letter, with what went wrong before, oldest first.

    `body` is the message's where it is JSON, `raw` its bytes where it is not. Of a body larger than 256 KiB `raw`
    holds the beginning and `truncated` is set.
    """

    letter: DeadLetter
    headers: dict[str, str]
    body: Any = None
    raw: bytes | None = None
    truncated: bool = False
    history: tuple[DeadFailure, ...] = ()


class ShowDead(Question[DeadDetail]):
    """One dead letter; `NotFound` when there is none at this sequence for this tenant. Answered by recovery."""

    service, verb, Reply = "recovery", "show-dead", DeadDetail
    tenant: TenantOrSystem
    sequence: DeadSequence


# --- another try --------------------------------------------------------------------------------------------


class Selection(Strict):
    """Which dead letters: exactly one of `sequences`, a `filter` with at least one condition, or `all`."""

    sequences: tuple[DeadSequence, ...] = Field(default=(), max_length=MOST_SEQUENCES)
    filter: DeadFilter | None = None
    all: bool = False

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.filter is not None and not self.filter.model_dump(exclude_none=True):
            raise ValueError("the filter names no condition; name one, or choose `all`")
        if sum((bool(self.sequences), self.filter is not None, self.all)) != 1:
            raise ValueError("choose one of `sequences`, `filter` and `all`")
        return self


class ReplayRequest(Message):
    """What is to be replayed, and how.

    Every message is sent again as it was, to where it was, under a fresh message id; the command inside keeps its
    own, so its effect stays one. What was buried after the replay began is left alone. `rate` bounds the messages a
    second. A dry run counts and changes nothing. `payload` takes the place of the body of the one dead letter that
    is chosen by its sequence; it must be valid for the contract of its subject, and name the same command.
    """

    selection: Selection
    rate: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    dry_run: bool = False
    payload: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _edits_one(self) -> Self:
        if self.payload is not None and len(set(self.selection.sequences)) != 1:
            raise ValueError("a payload replaces that of exactly one dead letter; choose one sequence")
        return self


class Replay(ReplayRequest, Command):
    """Give dead letters another try. `id` is the replay's; a repeat of the same command replays nothing twice.

    Sent to `engram.work.<lane>.replay.<tenant or _system>`; what it may touch follows from that subject.
    """

    op, permission = "replay", "dead:write"


ReplayState = Literal["queued", "running", "done", "cancelled", "failed"]


class Refusal(Message):
    """A dead letter that could not be sent again, and why. It lies where it lay."""

    sequence: int
    reason: str


class ReplayStatus(Message):
    """How far a replay is.

    It works through the dead letters from `from_sequence` to `until_sequence`, the last that was there at its
    start, and has dealt with those up to `cursor`. `replayed` were sent again and are gone from the dead letters
    (in a dry run: would be), `skipped` were chosen by sequence and not there, `failed` cannot be sent again, and
    `swallowed` the broker took for repeats of something else; the last two lie where they lay. `waiting` says why
    it stands still. `seconds` is the time it ran, without interruptions; `per_second` what came of
    `rate` since it started, with them.
    """

    id: str
    tenant: TenantOrSystem
    actor: str | None = None
    selection: Selection
    rate: float | None = None
    dry_run: bool = False
    edited: bool = False
    state: ReplayState = "queued"
    cancelling: bool = False
    accepted_at: Moment
    started_at: Moment | None = None
    updated_at: Moment
    ended_at: Moment | None = None
    from_sequence: int = 0
    until_sequence: int | None = None
    cursor: int = 0
    replayed: int = 0
    skipped: int = 0
    failed: int = 0
    swallowed: int = 0
    refusals: tuple[Refusal, ...] = ()
    """The first of those that failed or were swallowed."""
    waiting: str | None = None
    reason: str | None = None
    """Why it failed."""
    seconds: float = 0.0
    per_second: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it will do nothing more."""
        return self.state in ("done", "cancelled", "failed")


class Landed(Message):
    """A dead letter that was sent again, and where it lies now; it is still to be taken out of the dead letters."""

    sequence: int
    work_sequence: int


class ReplayRecord(ReplayStatus):
    """What is kept of a replay: its status, and what another worker needs to go on with it.

    `salt` makes its message ids such as nobody else can have used. `runner` is the run that works on it now.
    """

    salt: str
    runner: str | None = None
    unsettled: tuple[Landed, ...] = ()

    def status(self) -> ReplayStatus:
        """What may be told of it."""
        return ReplayStatus.model_validate(self.model_dump(exclude={"salt", "runner", "unsettled"}))


class StartReplay(ReplayRequest, Question[ReplayStatus]):
    """Check a replay and put it to work; the reply says where it stands. Answered by recovery.

    A repeat with the same `id` answers with the replay that there is. `NotFound` when a chosen sequence holds no
    dead letter of this tenant, `Forbidden` when the filter names another tenant, `Rejected` when the payload does
    not fit.
    """

    service, verb, Reply = "recovery", "start-replay", ReplayStatus
    tenant: TenantOrSystem
    id: CommandId | None = None
    actor: str | None = None


class StatusReplay(Question[ReplayStatus]):
    """How far a replay is; `NotFound` when there is none of that id for this tenant. Answered by recovery."""

    service, verb, Reply = "recovery", "status-replay", ReplayStatus
    tenant: TenantOrSystem
    id: CommandId


class ReplayPage(Message):
    """Replays, newest first."""

    replays: tuple[ReplayStatus, ...]


class ListReplays(Question[ReplayPage]):
    """Replays of the last 30 days; for `_system` those of all tenants. Answered by recovery."""

    service, verb, Reply = "recovery", "list-replays", ReplayPage
    tenant: TenantOrSystem
    limit: int = Field(default=50, ge=1, le=200)


class CancelReplay(Question[ReplayStatus]):
    """Stop a replay before its next message. Answered by recovery.

    The reply says `cancelling` until it has stopped. One that has ended is answered as it is.
    """

    service, verb, Reply = "recovery", "cancel-replay", ReplayStatus
    tenant: TenantOrSystem
    id: CommandId
    actor: str | None = None


# --- given up -----------------------------------------------------------------------------------------------


class Dropped(Message):
    """How many dead letters were deleted. `more` when others that were chosen are left; ask again."""

    dropped: int
    more: bool = False


class DropDead(Question[Dropped]):
    """Delete dead letters for good. Who and why is written to the log. Answered by recovery.

    What was buried meanwhile is left alone. `NotFound` and `Forbidden` as for `StartReplay`.
    """

    service, verb, Reply = "recovery", "drop-dead", Dropped
    tenant: TenantOrSystem
    selection: Selection
    reason: Reason
    actor: str | None = None


QUESTIONS: tuple[type[Question[Any]], ...] = (
    ListDead, GroupDead, ShowDead, StartReplay, StatusReplay, ListReplays, CancelReplay, DropDead,
)  # fmt: skip
