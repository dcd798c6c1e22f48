"""A job's state and timeline, from what the parts said of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from operator import itemgetter

from engram_api.whereabouts import OVER, Sighting
from engram_contracts.answers import Grave, Job, StageReached, Step, Thoughts
from engram_contracts.events import JobTrouble
from engram_contracts.facts import Thought
from engram_contracts.questions import IndexedMemory, JobRecord, Stage


def job(text: str, command: str, seen: Sighting) -> Job:
    """The life of the command that `text` names."""
    stages = _stages(command, seen)
    over = seen.trouble if _is_over(seen) and "done" not in stages else None
    dead = over if over and over.state == "dead" else None
    retried = seen.trouble if _is_retried(seen) else None
    state: Stage = over.state if over else "retrying" if retried else list(stages)[-1]
    ended = over if over and over.state != "dead" else None
    return Job(
        id=text,
        state=state,
        stages=tuple(StageReached(stage=stage, at=at) for stage, at in stages.items()),
        memory_id=_memory_id(seen),
        attempt=retried.attempt if retried else None,
        next_at=retried.next_at if retried else None,
        reason=(retried or ended).reason if retried or ended else None,  # type: ignore[union-attr]  # one is there
        dead=_grave(dead) if dead else None,
        thought=thoughts(text, seen.record.thought) if seen.record and seen.record.thought else None,
        cancelling=seen.cancel is not None and state in ("accepted", "retrying"),
        timeline=_timeline(stages, seen, over),
    )


def thoughts(job_id: str, thought: Thought) -> Thoughts:
    """An answer as clients get it."""
    return Thoughts(
        job=job_id,
        answer=thought.answer,
        mode=thought.mode,
        citations=thought.citations,
        model=thought.model,
        use=thought.use,
        degraded=thought.degraded,
    )


def _stages(command: str, seen: Sighting) -> dict[Stage, datetime | None]:
    """The stages reached, in order, with their times where known."""
    record, indexed = seen.record, seen.indexed
    shown = indexed if indexed and _shows(command, indexed, record) else None
    stages: dict[Stage, datetime | None] = {"accepted": _accepted_at(seen)}
    if record or shown or _left_the_work_stream(seen):
        stages["embedded"] = record.embedded_at if record else None
    if shown:
        stages["indexed"] = shown.indexed_at if shown.command == command else None
    if record:
        stages["linked"] = record.linked_at
        if shown or seen.forgotten or record.memory_id is None:
            stages["done"] = max(filter(None, (record.linked_at, stages.get("indexed"))))
    return stages


def _timeline(stages: dict[Stage, datetime | None], seen: Sighting, over: JobTrouble | None) -> tuple[Step, ...]:
    """Everything that happened, in the order of time; what has no time stays behind what came before it."""
    reached = [Step(stage=stage, at=at) for stage, at in stages.items()]
    tries = seen.trouble.tries if seen.trouble else ()
    failed = [Step(stage=one.stage, at=one.at, attempt=one.attempt, reason=one.reason) for one in tries]
    asked = [Step(stage="cancelling", at=seen.cancel.at, reason=seen.cancel.actor)] if seen.cancel else []
    ended = [Step(stage=over.state, at=over.at, attempt=over.attempt, reason=over.reason)] if over else []
    steps = (*reached[:1], *failed, *asked, *reached[1:], *ended)
    return tuple(step for _, step in sorted(_timed(steps), key=itemgetter(0)))


def _timed(steps: Sequence[Step]) -> Iterator[tuple[datetime, Step]]:
    """Each step with its time, or where that is not known with that of the one before."""
    latest = min((step.at for step in steps if step.at), default=datetime.min.replace(tzinfo=UTC))
    for step in steps:
        latest = step.at or latest
        yield latest, step


def _accepted_at(seen: Sighting) -> datetime | None:
    if seen.record:
        return seen.record.accepted_at
    return seen.waiting.at if seen.waiting else None


def _shows(command: str, indexed: IndexedMemory, record: JobRecord | None) -> bool:
    """Whether the index shows the command's effect, or that of a later one on the same memory."""
    later = record is not None and indexed.memory.updated_at >= record.accepted_at
    return command in (indexed.command, indexed.memory.id) or later


def _left_the_work_stream(seen: Sighting) -> bool:
    return seen.waiting is None and "work" not in seen.degraded and not _is_over(seen) and not _waits_outside(seen)


def _is_over(seen: Sighting) -> bool:
    """Whether it ended without an effect, as far as its trouble tells."""
    return seen.trouble is not None and seen.trouble.state in OVER


def _waits_outside(seen: Sighting) -> bool:
    return seen.trouble is not None and seen.trouble.state == "retrying" and seen.trouble.waits_outside


def _is_retried(seen: Sighting) -> bool:
    """Whether the trouble on record is still going on: it is not, once the command left the work stream."""
    still_waits = seen.waiting is not None or "work" in seen.degraded or _waits_outside(seen)
    known = seen.record is not None or seen.indexed is not None
    return seen.trouble is not None and seen.trouble.state == "retrying" and still_waits and not known


def _memory_id(seen: Sighting) -> str | None:
    if seen.record:
        return seen.record.memory_id
    return seen.indexed.memory.id if seen.indexed else None


def _grave(trouble: JobTrouble) -> Grave:
    return Grave(stage=trouble.stage, sequence=trouble.dead_sequence, code=trouble.code, reason=trouble.reason)
