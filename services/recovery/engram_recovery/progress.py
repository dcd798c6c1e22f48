"""The rules of a replay: who may run it, what it takes next, how its record moves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from engram_contracts.recovery import (
    Landed,
    Refusal,
    Replay,
    ReplayRecord,
    ReplayState,
)
from engram_recovery.pace import Pace
from engram_runtime.bus import Extent

MOST_REFUSALS = 20
ALIVE_SECONDS = 1.5
"""A run that wrote its record so lately is at work. Shorter than the time after which its command comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of one dead letter; `landed` is where its message lies, `reason` why it could not be sent."""

    sequence: int
    outcome: Literal["replayed", "skipped", "failed", "swallowed"]
    landed: int = 0
    reason: str = ""


def queued(command: Replay, tenant: str, *, salt: str, now: datetime) -> ReplayRecord:
    """The record of a replay that nobody works on yet."""
    return ReplayRecord(
        id=command.id,
        tenant=tenant,
        actor=command.actor,
        selection=command.selection,
        rate=command.rate,
        dry_run=command.dry_run,
        edited=command.payload is not None,
        accepted_at=command.accepted_at,
        updated_at=now,
        salt=salt,
    )


def is_taken(record: ReplayRecord, now: datetime) -> bool:
    """Whether another run works on it now."""
    return record.runner is not None and (now - record.updated_at).total_seconds() < ALIVE_SECONDS


def claimed(record: ReplayRecord, *, runner: str, extent: Extent, now: datetime) -> ReplayRecord:
    """The record in a run's hands. The first one fixes where the replay ends."""
    changes: dict[str, object] = {"state": "running", "runner": runner, "updated_at": now}
    if record.until_sequence is None:
        named = record.selection.sequences
        begin, end = (min(named), min(max(named), extent.last)) if named else (max(extent.first, 1), extent.last)
        changes |= {"started_at": now, "from_sequence": begin, "cursor": begin - 1, "until_sequence": end}
    return record.model_copy(update=changes)


def pace_of(record: ReplayRecord, *, began: float, now: datetime) -> Pace:
    """The pace of a run that took the record at `began` of its own clock: the schedule is that of the first run."""
    rate = None if record.dry_run else record.rate
    elapsed = (now - (record.started_at or now)).total_seconds()
    return Pace.resumed(rate, began, sent=record.replayed + record.failed + record.swallowed, elapsed=elapsed)


def upcoming(sequences: Sequence[int], after: int, most: int) -> list[int]:
    """The next of the sequences that were named, in order; none when they are through."""
    return sorted({sequence for sequence in sequences if sequence > after})[:most]


def advanced(record: ReplayRecord, results: Sequence[Sent], *, cursor: int, seconds: float) -> ReplayRecord:
    """The record after a lot: what was sent is counted, and is still to be taken out of the dead letters.

    The count and the cursor are written before the dead letters are deleted, so that an interruption in between
    neither counts one twice nor leaves one behind.
    """
    total = record.replayed + _count(results, "replayed")
    refused = tuple(Refusal(sequence=sent.sequence, reason=sent.reason) for sent in results if sent.reason)
    landed = tuple(
        Landed(sequence=sent.sequence, work_sequence=sent.landed)
        for sent in results
        if sent.outcome == "replayed" and not record.dry_run
    )
    return record.model_copy(
        update={
            "cursor": cursor,
            "replayed": total,
            "skipped": record.skipped + _count(results, "skipped"),
            "failed": record.failed + _count(results, "failed"),
            "swallowed": record.swallowed + _count(results, "swallowed"),
            "refusals": (*record.refusals, *refused)[:MOST_REFUSALS],
            "unsettled": landed,
            "waiting": None,
            "per_second": round(total / seconds, 3) if total and seconds > 0 and not record.dry_run else None,
        }
    )


def settled(record: ReplayRecord) -> ReplayRecord:
    """The record once all that was sent is out of the dead letters."""
    return record.model_copy(update={"unsettled": ()})


def ended(record: ReplayRecord, state: ReplayState, *, now: datetime, reason: str | None = None) -> ReplayRecord:
    """The record of a replay that does nothing more. Nothing may be unsettled."""
    cursor = max(record.cursor, record.until_sequence or 0) if state == "done" else record.cursor
    over = {"state": state, "ended_at": now, "reason": reason, "runner": None, "waiting": None, "cursor": cursor}
    return record.model_copy(update=over)


def _count(results: Sequence[Sent], outcome: str) -> int:
    return sum(sent.outcome == outcome for sent in results)
