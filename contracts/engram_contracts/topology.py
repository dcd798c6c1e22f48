"""Every stream, subject, consumer, lane and retry policy, declared once; everything else is derived from here.

Provisioning creates and checks what is declared; services consume it; the door publishes to it. Durations are
seconds, sizes bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Literal

from engram_contracts.commands import GRAPH, INGEST, Command, Think
from engram_contracts.erasing import Erase
from engram_contracts.ids import PARTITIONS, partition_of
from engram_contracts.recovery import SYSTEM, Replay
from engram_contracts.retry import Retry

DAY = 86_400.0
MiB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A JetStream stream. `per_subject` caps messages of each subject; a full stream refuses, it never drops.

    With `schedules` it takes messages that are to be sent on at a time (the server then refuses `discard` new). With
    `append_only` nobody can take a message out of it.
    """

    name: str
    subjects: tuple[str, ...]
    retention: Literal["workqueue", "limits"]
    discard: Literal["new", "old"] = "new"
    max_messages: int = -1
    max_bytes: int = -1
    max_age: float = 0.0
    per_subject: int = -1
    duplicate_window: float = 120.0
    schedules: bool = False
    max_message: int = -1
    append_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """A durable pull consumer and how its messages are worked off.

    `batch` messages are handled together, at most `concurrency` batches at a time in one process. `ack_wait` is
    how long a silent worker keeps a message; a living one extends it. A handler that takes longer than `longest` hangs
    and is given up (`None`: it may take hours). Batches that are not full begin `linger`
    seconds apart, those of a process's consumers with the same linger together. The server never gives up on a
    message: the delivery policy counts tries and buries what is worn out.
    """

    name: str
    stream: Stream
    filters: tuple[str, ...]
    batch: int = 64
    concurrency: int = 1
    ack_wait: float = 5.0
    longest: float | None = 120.0
    max_ack_pending: int = 1_024
    linger: float = 0.001
    retry: Retry = field(default_factory=Retry)
    ack_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A key-value bucket. `ttl` is how long an entry lives; 0 keeps it. One that is full refuses (-1: never full).

    Values of a `sealed` one are of the tenant that their key begins with, and encrypted where that tenant's text is.
    """

    name: str
    ttl: float = 0.0
    history: int = 1
    max_bytes: int = -1
    sealed: bool = False


MOST_BYTES = 512 * 1024
"""Of a command or a fact, headers included; far more than any has, and so little that it can always be buried."""

WORK = Stream(
    name="ENGRAM_WORK",
    subjects=("engram.work.>",),
    retention="workqueue",
    max_messages=1_000_000,
    max_bytes=4_096 * MiB,
    per_subject=20_000,
    max_message=MOST_BYTES,
)
LOG = Stream(
    name="ENGRAM_LOG", subjects=("engram.log.>",), retention="limits", discard="old", max_age=30 * DAY,
    max_message=MOST_BYTES,
)  # fmt: skip
DEAD = Stream(name="ENGRAM_DEAD", subjects=("engram.dead.>",), retention="limits", max_bytes=1_024 * MiB)
USAGE = Stream(name="ENGRAM_USAGE", subjects=("engram.usage.>",), retention="limits", discard="old", max_age=30 * DAY)
SCHEDULE = Stream(
    name="ENGRAM_SCHEDULE", subjects=("engram.schedule.>",), retention="workqueue", discard="old", schedules=True
)
"""Work that waits for longer than a minute; when it is due, it goes back to where it came from."""
AUDIT = Stream(name="ENGRAM_AUDIT", subjects=("engram.audit.>",), retention="limits", append_only=True)
TRACES = Stream(
    name="ENGRAM_TRACES", subjects=("engram.trace.*",), retention="limits", discard="old", max_age=DAY / 4,
    max_bytes=64 * MiB, max_message=MOST_BYTES,
)  # fmt: skip
"""Spans of requests that were sampled, for who asks what a request did lately."""
STREAMS = (WORK, LOG, DEAD, USAGE, SCHEDULE, AUDIT, TRACES)

KEYS = Bucket(name="engram_keys")
KEY_USES = Bucket(name="engram_key_uses")
TENANTS = Bucket(name="engram_tenants")
PLANS = Bucket(name="engram_plans")
MEMBERS = Bucket(name="engram_members")
SETTINGS = Bucket(name="engram_settings")
JOBS = Bucket(name="engram_jobs", ttl=7 * DAY)
REPLAYS = Bucket(name="engram_replays", ttl=30 * DAY)
CANCELS = Bucket(name="engram_cancels", ttl=7 * DAY)
RATES = Bucket(name="engram_rates", ttl=DAY)
"""Token buckets that all doors draw from; one that nobody drew from for a day is full anyway."""
IDEMPOTENCY = Bucket(name="engram_idempotency", ttl=DAY, max_bytes=1_024 * MiB, sealed=True)
ERASURES = Bucket(name="engram_erasures", ttl=30 * DAY)
TICKETS = Bucket(name="engram_tickets", ttl=60.0, max_bytes=16 * MiB)
DATA_KEYS = Bucket(name="engram_data_keys")
"""What encrypts the text of tenants that want that, each wrapped by a master key that lies elsewhere."""
BUCKETS = (
    TICKETS, KEYS, KEY_USES, TENANTS, PLANS, MEMBERS, SETTINGS, JOBS, REPLAYS, CANCELS, RATES, IDEMPOTENCY, ERASURES,
    DATA_KEYS,
)  # fmt: skip


def behind(bucket: Bucket) -> Stream:
    """The stream that holds a bucket's entries, under `$KV.<bucket>.<key>`."""
    return Stream(name=f"KV_{bucket.name}", subjects=(f"$KV.{bucket.name}.>",), retention="limits")


# --- lanes: interactive work ahead of bulk work, one tenant out of another's way ---------------------------

Urgency = Literal["interactive", "bulk"]
LANES_EACH = 8
LANES: dict[Urgency, tuple[str, ...]] = {
    "interactive": tuple(f"i{n}" for n in range(LANES_EACH)),
    "bulk": tuple(f"b{n}" for n in range(LANES_EACH)),
}


def lane_of(tenant: str, urgency: Urgency = "interactive") -> str:
    """The lane of a tenant's work; tenants spread over the lanes by crc32, independently of the log partition."""
    return LANES[urgency][(zlib.crc32(tenant.encode()) >> 16) % LANES_EACH]


# --- subjects -----------------------------------------------------------------------------------------------


def work_subject(tenant: str, op: str, urgency: Urgency = "interactive") -> str:
    """Where a command is published: `engram.work.<lane>.<op>.<tenant>`."""
    return f"engram.work.{lane_of(tenant, urgency)}.{op}.{tenant}"


ARRIVING = "engram.in.>"
"""What other systems send, on its way through the broker to a door (see `ArrivingSubject`)."""

PING = "engram.ping"
"""A door answers here to other systems, so that they can see whether they are let in."""


def pinged_by(credential: str) -> str:
    """Where a door gets a credential's ping: `engram.in.<credential>.ping`."""
    return f"engram.in.{credential}.ping"


def log_subject(tenant: str, event: str) -> str:
    """Where a fact is appended: `engram.log.<partition>.<tenant>.<event>`."""
    return f"engram.log.{partition_of(tenant)}.{tenant}.{event}"


def dead_subject(stage: str, tenant: str) -> str:
    """Where a dead letter lies: `engram.dead.<stage>.<tenant>`."""
    return f"engram.dead.{stage}.{tenant}"


def dead_pattern(tenant: str, stage: str = "*") -> str:
    """The subjects of a tenant's dead letters, of every tenant's for `_system`."""
    return f"engram.dead.{stage}.{'*' if tenant == SYSTEM else tenant}"


def waiting_subject(stage: str, sequence: int) -> str:
    """Where a command waits that lay at a sequence of the WORK stream: `engram.schedule.wait.<stage>-<sequence>`."""
    return f"engram.schedule.wait.{stage}-{sequence}"


def due_subject(subject: str) -> str:
    """Where a message of a subject arrives when its time has come; `due_for` tells the subject."""
    return f"engram.schedule.due.{subject}"


def due_for(subject: str) -> str:
    """Where a message that has become due belongs."""
    return subject.removeprefix("engram.schedule.due.")


def usage_subject(door: str) -> str:
    """Where a door writes its usage batches: `engram.usage.<door>`."""
    return f"engram.usage.{door}"


def trace_subject(trace: str) -> str:
    """Where the spans of a trace are kept: `engram.trace.<trace id>`."""
    return f"engram.trace.{trace}"


def audit_subject(tenant: str) -> str:
    """Where a tenant's audit trail lies, or that of the installation (`_system`): `engram.audit.<tenant>`."""
    return f"engram.audit.{tenant}"


def event_subject(tenant: str, event: str, about: str | None = None) -> str:
    """Where a live event is announced: `engram.event.<tenant>.<event>`, and the command where it is about one alone."""
    return f"engram.event.{tenant}.{event}.{about}" if about else f"engram.event.{tenant}.{event}"


def rpc_subject(service: str, verb: str) -> str:
    """Where a question is asked: `engram.rpc.<service>.<verb>`."""
    return f"engram.rpc.{service}.{verb}"


PING_ALL = "engram.rpc.all.ping"
"""Every running instance answers here; each service also answers `engram.rpc.<service>.ping` in its group."""


@dataclass(frozen=True, slots=True)
class WorkSubject:
    """The parts of a WORK subject."""

    lane: str
    op: str
    tenant: str

    @classmethod
    def parse(cls, subject: str) -> WorkSubject:
        """The parts; raises `ValueError` when the subject is not of WORK."""
        _, _, lane, op, tenant = subject.split(".")
        return cls(lane, op, tenant)


@dataclass(frozen=True, slots=True)
class ArrivingSubject:
    """Where a door gets what another system published to `engram.work.<lane>.<op>.<tenant>`.

    The broker puts the credential's id in: `engram.in.<credential>.<lane>.<op>.<tenant>`. Nobody can send there
    directly.
    """

    credential: str
    lane: str
    op: str
    tenant: str

    @classmethod
    def parse(cls, subject: str) -> ArrivingSubject:
        """The parts; raises `ValueError` when the subject is not one of these."""
        _, _, credential, lane, op, tenant = subject.split(".")
        return cls(credential, lane, op, tenant)


@dataclass(frozen=True, slots=True)
class LogSubject:
    """The parts of a LOG subject."""

    partition: int
    tenant: str
    event: str

    @classmethod
    def parse(cls, subject: str) -> LogSubject:
        """The parts; raises `ValueError` when the subject is not of the LOG."""
        _, _, partition, tenant, event = subject.split(".")
        return cls(int(partition), tenant, event)


# --- consumers ----------------------------------------------------------------------------------------------


def _work_consumers(
    owner: str, commands: tuple[type[Command], ...], urgency: Urgency, **how: object
) -> tuple[Consumer, ...]:
    return tuple(
        Consumer(
            name=f"{owner}-{lane}",
            stream=WORK,
            filters=tuple(f"engram.work.{lane}.{command.op}.*" for command in commands),
            **how,  # type: ignore[arg-type]  # keyword arguments of Consumer, passed through
        )
        for lane in LANES[urgency]
    )


def _log_consumers(owner: str, *, batch: int, linger: float = 0.001) -> tuple[Consumer, ...]:
    return tuple(
        Consumer(
            name=f"{owner}-{partition}",
            stream=LOG,
            filters=(f"engram.log.{partition}.>",),
            batch=batch,
            ack_wait=30.0,
            max_ack_pending=4 * batch,
            linger=linger,
            ack_all=True,
        )
        for partition in range(PARTITIONS)
    )


OWN_FAULT = Retry(attempts=6)
"""While a model is away the breaker holds work; what fails though it answers others is dead after half a minute."""
EMBED_NOW = _work_consumers("embedder", INGEST, "interactive", retry=OWN_FAULT)
EMBED_BULK = _work_consumers("embedder", INGEST, "bulk", retry=OWN_FAULT)
GRAPH_WORK = tuple(consumer for urgency in LANES for consumer in _work_consumers("graph", GRAPH, urgency))
THINK = tuple(
    consumer
    for urgency in LANES
    for consumer in _work_consumers(
        "reasoner", (Think,), urgency, batch=1, concurrency=4, max_ack_pending=64, longest=300.0,
        linger=0.0, retry=Retry(attempts=6, first=1.0),
    )
)  # fmt: skip
UNTIL_DONE = Retry(attempts=100_000, endings=100_000, first=2.0, factor=1.0)
REPLAY = Consumer(
    name="recovery", stream=WORK, filters=(f"engram.work.*.{Replay.op}.*",), batch=1, concurrency=16, ack_wait=2.0,
    max_ack_pending=256, linger=0.0, longest=None,
    retry=UNTIL_DONE,
)  # fmt: skip
"""A replay may take hours and many workers: each interruption is a try, and the next follows soon, to keep its rate."""
ERASE = Consumer(
    name="erasure", stream=WORK, filters=(f"engram.work.*.{Erase.op}.{SYSTEM}",), batch=1, concurrency=4, ack_wait=5.0,
    max_ack_pending=256, linger=0.0, longest=None, retry=UNTIL_DONE,
)  # fmt: skip
"""An erasure goes on until nothing is left, however often it is interrupted."""
DUE = Consumer(name="schedule-due", stream=SCHEDULE, filters=("engram.schedule.due.>",))
VECTORS_LOG = _log_consumers("vectors", batch=64)
GRAPH_LOG = _log_consumers("graph", batch=500, linger=0.5)
"""A transaction costs the graph milliseconds whatever it holds: waiting a little fills it."""
EXTRACT_LOG = Consumer(
    name="reasoner-extract", stream=LOG, filters=("engram.log.*.*.remembered",), batch=8, ack_wait=300.0,
    max_ack_pending=32, linger=0.05, ack_all=True,
)  # fmt: skip
"""Provisioned only where `reasoner.extract` is on; switched on later, it begins with the oldest fact."""
METERING_LOG = Consumer(
    name="metering", stream=LOG, filters=("engram.log.>",), batch=500, ack_wait=30.0,
    max_ack_pending=4_000, linger=1.0, ack_all=True,
)  # fmt: skip
METERING_USAGE = Consumer(
    name="metering", stream=USAGE, filters=("engram.usage.>",), batch=200, ack_wait=30.0,
    max_ack_pending=2_000, linger=1.0, ack_all=True,
)  # fmt: skip

CONSUMERS = (
    *EMBED_NOW, *EMBED_BULK, *GRAPH_WORK, *THINK, REPLAY, ERASE, DUE, *VECTORS_LOG, *GRAPH_LOG,
    METERING_LOG, METERING_USAGE,
)  # fmt: skip
