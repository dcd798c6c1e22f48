"""Commands that nobody takes: their subject names a lane or an operation that no worker has. They are buried.

Who is there on the broker counts, not only what this release knows, so a newer release's work is left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from engram_contracts.errors import Rejected
from engram_contracts.events import JobTrouble, Progress
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import CONSUMERS, JOBS, WORK, dead_subject
from engram_recovery.letters import addressee
from engram_recovery.marks import key_of
from engram_runtime.bus import Appended, Bus, Entry, Stored
from engram_runtime.delivery import Receipt, burial_headers
from engram_runtime.telemetry import BURIED

log = logging.getLogger(__name__)

STAGE = "recovery"
LOT = 100
NOBODY = Rejected(
    "nobody consumes this subject; check its lane and operation, then drop it or send it anew", field="subject"
)


async def bury_unclaimed(bus: Bus, *, before: datetime) -> int:
    """Move commands that nobody takes, and that came before a moment, to the dead letters; how many those were.

    Each is there before it is taken out, under an id of its own, so a repeat buries none twice. Raises `Unavailable`.
    """
    subjects = await bus.archive(WORK).subjects(WORK.subjects[0])
    if not subjects:
        return 0
    taken = {pattern for backlog in (await bus.backlogs(WORK)).values() for pattern in backlog.filters}
    taken |= {pattern for consumer in CONSUMERS if consumer.stream is WORK for pattern in consumer.filters}
    return sum([await _bury_all(bus, subject, before) for subject in unclaimed(subjects, taken)])


def unclaimed(subjects: Iterable[str], patterns: Collection[str]) -> list[str]:
    """The subjects that none of the patterns means."""
    return [
        subject
        for subject in subjects
        if f"{subject.rpartition('.')[0]}.*" not in patterns and not any(_means(each, subject) for each in patterns)
    ]


def _means(pattern: str, subject: str) -> bool:
    """Whether a subject fits a pattern of the broker's."""
    wanted, said = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, said = wanted[:-1], said[: len(wanted) - 1] if len(said) >= len(wanted) else []
    return len(wanted) == len(said) and all(one in ("*", other) for one, other in zip(wanted, said, strict=True))


async def _bury_all(bus: Bus, subject: str, before: datetime) -> int:
    archive, gone, start = bus.archive(WORK), 0, 1
    while found := await archive.read(start, pattern=subject, limit=LOT):
        late = [stored for stored in found if stored.at < before]
        gone += sum(await asyncio.gather(*(_bury(bus, stored) for stored in late)))
        if len(late) < len(found):
            break
        start = found[-1].sequence + 1
    return gone


async def _bury(bus: Bus, stored: Stored) -> bool:
    """Bury one command; whether that was possible."""
    tenant = addressee(stored.subject) or SYSTEM
    receipt = Receipt(delivered=0, sequence=stored.sequence, consumer_sequence=0, at=stored.at)
    headers = burial_headers(
        stored, stage=STAGE, stream=WORK.name, receipt=receipt, attempt=0, why="never", error=NOBODY
    )
    identity = f"{STAGE}-{WORK.name}-{stored.sequence}-{stored.at.timestamp():.6f}"
    entry = Entry(subject=dead_subject(STAGE, tenant), body=stored.body, id=identity, headers=headers)
    (outcome,) = await bus.append([entry])
    if not isinstance(outcome, Appended):
        log.error("cannot bury", extra={"stage": STAGE, "sequence": stored.sequence, "error": repr(outcome)})
        return False
    await _note(bus, tenant, stored, outcome.sequence)
    await bus.archive(WORK).delete(stored.sequence)
    BURIED.labels(STAGE).inc()
    log.warning("buried", extra={"stage": STAGE, "tenant": tenant, "why": "never", "dead_sequence": outcome.sequence})
    return True


async def _note(bus: Bus, tenant: str, stored: Stored, dead: int) -> None:
    """Say of the job that it is dead, to who asks and to who listens."""
    key = key_of(tenant, stored.id)
    if key is None or stored.id is None:
        return
    now = datetime.now(UTC)
    trouble = JobTrouble(
        state="dead", stage=STAGE, attempt=0, reason=NOBODY.message, code=NOBODY.code, at=now, dead_sequence=dead,
        work_sequence=stored.sequence,
    )  # fmt: skip
    await bus.bucket(JOBS).put(key, trouble.encode())
    await bus.emit(tenant, Progress(stage="dead", commands=(stored.id,), at=now, reason=NOBODY.message))
