"""What is written down of commands that did not go well, by job: for who asks, and for the next try."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal, TypedDict

from engram_contracts.errors import Failure, Unavailable
from engram_contracts.events import JobTrouble, JobTry
from engram_contracts.topology import JOBS
from engram_runtime.bus import Bus
from engram_runtime.delivery import FIRST_ID, bounded
from engram_runtime.held import Held

INTERRUPTED = "an earlier try ended without an answer"
MOST_TRIES = 20
"""So many failed tries of a job are remembered."""


class Troubles:
    """One stage's notes, in a bucket that all its workers share."""

    def __init__(self, bus: Bus, stage: str) -> None:
        self._jobs = bus.bucket(JOBS)
        self._stage = stage

    async def with_try(self, item: Held, error: Exception) -> Held:
        """The item with one more failed try among those that are remembered."""
        item = await self.with_tries(item)
        tried = JobTry(stage=self._stage, attempt=item.attempt, at=datetime.now(UTC), **told(error))
        return replace(item, tries=(*item.tries, tried)[-MOST_TRIES:])

    async def with_tries(self, item: Held) -> Held:
        """The item with its tries from before it came back to its stream."""
        if item.tries or FIRST_ID not in (item.raw.headers or {}):
            return item
        value = await self._jobs.get(f"{item.tenant}.{item.job}")
        return replace(item, tries=JobTrouble.model_validate_json(value).tries) if value else item

    async def of(self, item: Held) -> JobTrouble | None:
        """What is written down of the message: that its job is being retried, or that just this one has ended."""
        value = await self._jobs.get(f"{item.tenant}.{item.job}")
        trouble = JobTrouble.model_validate_json(value) if value else None
        if trouble and (trouble.state == "retrying" or trouble.work_sequence == item.receipt.sequence):
            return trouble
        return None

    async def note(
        self,
        item: Held,
        *,
        reason: str,
        code: str,
        state: Literal["retrying", "dead", "cancelled", "expired"] = "retrying",
        delay: float | None = None,
        dead: int | None = None,
        outside: bool = False,
        unanswered: int = 0,
    ) -> None:
        """Write down where the job stands, for who asks and for the next try."""
        now = datetime.now(UTC)
        trouble = JobTrouble(
            state=state,
            stage=self._stage,
            attempt=item.attempt,
            reason=reason,
            code=code,
            at=now,
            next_at=now + timedelta(seconds=delay) if delay is not None else None,
            dead_sequence=dead,
            work_sequence=item.receipt.sequence,
            tries=item.tries,
            waits_outside=outside,
            unanswered=unanswered,
        )
        with contextlib.suppress(Unavailable):
            await self._jobs.put(f"{item.tenant}.{item.job}", trouble.encode())


class Told(TypedDict):
    """What went wrong, as it is written down."""

    reason: str
    code: str


def told(error: Exception) -> Told:
    """A failure, in bounded words and by its code."""
    return {"reason": words(error), "code": Failure.of(error).code}


def words(error: Exception) -> str:
    """A failure in bounded words."""
    return bounded(Failure.of(error).message)
