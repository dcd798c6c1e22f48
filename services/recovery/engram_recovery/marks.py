"""What the trouble record of a job says once its dead letter was replayed or dropped. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from engram_contracts.events import JobTrouble
from engram_contracts.recovery import DeadLetter
from engram_recovery.letters import Buried, as_json

REPLAYED = "replayed"
_KEY = re.compile(r"[A-Za-z0-9_=/-]{1,256}", re.ASCII)


def job_key(buried: Buried) -> str | None:
    """Where the job's trouble is recorded: under the command's id, or the message's where it holds no command."""
    if not buried.letter.subject.startswith("engram.work."):
        return None
    said = as_json(buried.body)
    identity = said.get("id") if isinstance(said, dict) else None
    name = identity if isinstance(identity, str) else buried.headers.get("Nats-Msg-Id")
    return key_of(buried.letter.tenant, name)


def key_of(tenant: str, name: str | None) -> str | None:
    """Where the trouble of a tenant's job is recorded; `None` for a name that cannot be one."""
    return f"{tenant}.{name}" if name and _KEY.fullmatch(name) else None


def replayed(trouble: JobTrouble | None, letter: DeadLetter, work_sequence: int, now: datetime) -> JobTrouble | None:
    """The job is on its way again, with all its tries before it; `None` where the record tells of something newer."""
    if not _is_about(trouble, letter):
        return None
    return JobTrouble(
        state="retrying",
        stage=letter.stage,
        attempt=0,
        reason=REPLAYED,
        code=letter.code,
        at=now,
        work_sequence=work_sequence,
        tries=trouble.tries if trouble else (),
    )


def dropped(trouble: JobTrouble | None, letter: DeadLetter, reason: str, now: datetime) -> JobTrouble | None:
    """The job stays dead, and says why it was given up; `None` where the record tells of something newer."""
    if not _is_about(trouble, letter):
        return None
    return JobTrouble(
        state="dead",
        stage=letter.stage,
        attempt=letter.attempts,
        reason=f"dropped: {reason}",
        code=letter.code,
        at=now,
        tries=trouble.tries if trouble else (),
    )


def _is_about(trouble: JobTrouble | None, letter: DeadLetter) -> bool:
    """Whether a record was written when this dead letter was, or before; a later try of the job writes its own.

    Both times are of the clock of the worker that gave up.
    """
    if trouble is None:
        return True
    if trouble.state == "dead":
        return (trouble.dead_sequence or 0) <= letter.sequence
    return trouble.at <= letter.last_at
