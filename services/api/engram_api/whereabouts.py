"""Where a command is: asked of the parts that know, each with a bound; parts that do not answer are named."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from engram_api.drafts import Draft
from engram_contracts.commands import Forget, Judge, Remember, Revise
from engram_contracts.errors import EngramError, NotFound
from engram_contracts.events import CancelMark, JobTrouble
from engram_contracts.ids import JobId
from engram_contracts.questions import FindIndexed, FindJob, GetMemory, IndexedMemory, JobRecord, Stage
from engram_contracts.topology import CANCELS, JOBS, WORK, WorkSubject
from engram_runtime.bus import Bus, Stored

log = logging.getLogger(__name__)
T = TypeVar("T")

OVER = ("dead", "cancelled", "expired")
"""Ends of a job without an effect."""

INDEXED_OPS = frozenset({Remember.op, Revise.op, Forget.op, Judge.op})
"""Commands whose effect the index shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What the parts said of a job. `degraded` names those that said nothing."""

    waiting: Stored | None = None
    record: JobRecord | None = None
    trouble: JobTrouble | None = None
    indexed: IndexedMemory | None = None
    forgotten: bool = False
    cancel: CancelMark | None = None
    degraded: tuple[str, ...] = ()

    @property
    def op(self) -> str | None:
        """What kind of command it is, while it still waits to be worked off."""
        return WorkSubject.parse(self.waiting.subject).op if self.waiting else None


class Whereabouts:
    """Asks the graph, the index, the jobs bucket and the work stream about commands."""

    def __init__(self, bus: Bus, *, within: float) -> None:
        self._bus = bus
        self._within = within
        self._jobs = bus.bucket(JOBS)
        self._cancels = bus.bucket(CANCELS)

    async def sight(self, tenant: str, job: JobId) -> Sighting:
        """Everything that is known of a job."""
        silent: list[str] = []
        record, trouble, cancel, waiting, indexed = await asyncio.gather(
            self._known("graph", silent, lambda: self.record(tenant, job.command)),
            self._known("jobs", silent, lambda: self.trouble(tenant, job.command)),
            self._known("jobs", silent, lambda: self.cancel_mark(tenant, job.command)),
            self._known("work", silent, lambda: self._waiting(tenant, job.command, job.sequence)),
            self._known("vectors", silent, lambda: self._indexed(tenant, job.command)),
        )
        moved = trouble.work_sequence if trouble else None
        if waiting is None and moved and moved != job.sequence:
            waiting = await self._known("work", silent, lambda: self._waiting(tenant, job.command, moved))
        memory_id = record.memory_id if record else None
        if memory_id and memory_id != job.command:
            indexed = await self._known("vectors", silent, lambda: self._indexed(tenant, memory_id))
        forgotten = bool(memory_id and indexed is None and await self._is_forgotten(tenant, memory_id, silent))
        return Sighting(
            waiting=waiting,
            record=record,
            trouble=trouble,
            indexed=indexed,
            forgotten=forgotten,
            cancel=cancel,
            degraded=tuple(dict.fromkeys(silent)),
        )

    async def stages(self, tenant: str, draft: Draft) -> set[Stage]:
        """The stages a command has reached, as far as the parts that answer can tell."""
        silent: list[str] = []
        record, indexed = await asyncio.gather(
            self._known("graph", silent, lambda: self.record(tenant, draft.id)),
            self._known("vectors", silent, lambda: self._shown(tenant, draft)),
        )
        reached: set[Stage] = {"linked"} if record else set()
        return reached | {"indexed"} if indexed else reached

    async def shows(self, tenant: str, command: str) -> bool:
        """Whether the index shows the effect of a command on a memory, or a later one's; any other has none to show."""
        record = await self._known("graph", [], lambda: self.record(tenant, command))
        memory_id = record.memory_id if record else command
        if memory_id is None:
            return True
        found = await self._known("vectors", [], lambda: self._indexed(tenant, memory_id))
        if found is not None:
            return command in (memory_id, found.command, *found.earlier)
        return record is not None and await self._is_forgotten(tenant, memory_id, [])

    async def record(self, tenant: str, command: str) -> JobRecord | None:
        """What the record knows of a command."""
        return (await self._bus.ask(FindJob(tenant=tenant, command=command), within=self._within)).found

    async def trouble(self, tenant: str, command: str) -> JobTrouble | None:
        """Why a command is not done yet, where it had trouble."""
        value = await self._jobs.get(f"{tenant}.{command}")
        return JobTrouble.model_validate_json(value) if value else None

    async def cancel_mark(self, tenant: str, command: str) -> CancelMark | None:
        """Who called a command off, and when."""
        value = await self._cancels.get(f"{tenant}.{command}")
        return CancelMark.model_validate_json(value) if value else None

    async def cancel(self, tenant: str, command: str, actor: str | None) -> None:
        """Call a command off. A repeat changes nothing."""
        mark = CancelMark(at=datetime.now(UTC), actor=actor)
        await self._cancels.create(f"{tenant}.{command}", mark.encode())

    async def _waiting(self, tenant: str, command: str, sequence: int) -> Stored | None:
        """The command on the work stream, if it lies there; a replay put it there under another message's id."""
        stored = await self._bus.read(WORK, sequence)
        return stored if stored is not None and _carries(stored, tenant, command) else None

    async def _indexed(self, tenant: str, memory_id: str) -> IndexedMemory | None:
        question = FindIndexed(tenant=tenant, memory_id=memory_id)
        return (await self._bus.ask(question, within=self._within)).found

    async def _is_forgotten(self, tenant: str, memory_id: str, silent: list[str]) -> bool:
        try:
            await self._bus.ask(GetMemory(tenant=tenant, memory_id=memory_id), within=self._within)
        except NotFound:
            return True
        except EngramError:
            silent.append("graph")
        return False

    async def _shown(self, tenant: str, draft: Draft) -> bool:
        """Whether the index shows the effect of a command."""
        if draft.memory_id is None or draft.op not in INDEXED_OPS:
            return False
        found = await self._indexed(tenant, draft.memory_id)
        if draft.op == Forget.op:
            return found is None and draft.urgency is None  # else what is to be forgotten was not there before either
        return found is not None and (draft.op == Remember.op or found.command == draft.id)

    async def _known(self, part: str, silent: list[str], ask: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            return await ask()
        except (EngramError, ValidationError) as error:
            log.debug("no word", extra={"part": part, "error": repr(error)})
            silent.append(part)
            return None


def _carries(stored: Stored, tenant: str, command: str) -> bool:
    if WorkSubject.parse(stored.subject).tenant != tenant:
        return False
    return command in (stored.id, _own_id(stored.body))


def _own_id(body: bytes) -> object:
    """The id that a command bears itself; `None` where the bytes are no command."""
    try:
        said = json.loads(body)
    except ValueError:
        return None
    return said.get("id") if isinstance(said, dict) else None
