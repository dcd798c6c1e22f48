"""Accepting commands: written durably, waited for where the client wants to, and answered for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from engram_api.calls import Answer, Call
from engram_api.drafts import Draft
from engram_api.models import WaitQuery
from engram_api.settings import ServeSettings
from engram_api.waits import ProgressWait, ThoughtWait, Waits
from engram_api.whereabouts import INDEXED_OPS
from engram_api.writes import Writer
from engram_contracts.errors import Failure
from engram_contracts.facts import Thought
from engram_contracts.ids import JobId
from engram_contracts.questions import Stage
from engram_runtime.bus import Appended

AnyCall = Call[Any, Any]
Outcomes = Sequence[Appended | Exception]


class Acceptor:
    """Takes responsibility for commands. `pepper` signs job ids."""

    def __init__(self, writer: Writer, waits: Waits, settings: ServeSettings, pepper: bytes) -> None:
        self._writer = writer
        self._waits = waits
        self._settings = settings
        self._pepper = pepper

    async def change(self, call: AnyCall, draft: Draft) -> Answer:
        """Write one command and answer for it. Raises its refusal."""
        outcomes, reached = await self._write(call, [draft])
        outcome = outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        job, memory_id = self._job(call, draft, outcome), draft.memory_id
        return Answer(
            data={"id": memory_id, "job": job} if memory_id else {"job": job},
            settled=reached,
            meta={"repeated": True} if outcome.duplicate else {},
            headers={"Location": f"/v1/memories/{memory_id}" if memory_id and reached else f"/v1/jobs/{job}"},
        )

    async def many(self, call: AnyCall, drafts: Sequence[Draft]) -> Answer:
        """Write many memories and answer for each. Raises the first refusal when none was taken."""
        outcomes, reached = await self._write(call, drafts)
        refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if len(refused) == len(outcomes):
            raise refused[0]
        items = [
            _refused(outcome)
            if isinstance(outcome, Exception)
            else {"id": draft.memory_id, "job": self._job(call, draft, outcome)}
            for draft, outcome in zip(drafts, outcomes, strict=True)
        ]
        data = {"memories": items, "accepted": len(items) - len(refused), "refused": len(refused)}
        return Answer(data=data, status=207 if refused else None, settled=reached)

    async def question(self, call: AnyCall, draft: Draft) -> tuple[str, Thought | None]:
        """The job of a question, and its answer unless the client would rather not wait or the time is up."""
        async with self._waits.thought(call.caller.tenant, draft.id) as wait:
            outcome = (await self._writer.write(call, [draft]))[0]
            if isinstance(outcome, Exception):
                raise outcome
            if not call.prefer.respond_async:
                await self._await_thought(call, draft.id, wait, repeated=outcome.duplicate)
        return self._job(call, draft, outcome), wait.thought

    async def streamed(self, call: AnyCall, draft: Draft) -> tuple[str, bool]:
        """Write a question; its job, and whether it was written before. Raises its refusal."""
        outcome = (await self._writer.write(call, [draft]))[0]
        if isinstance(outcome, Exception):
            raise outcome
        return self._job(call, draft, outcome), outcome.duplicate

    async def unseen(self, tenant: str, commands: Sequence[str], seconds: float) -> list[str]:
        """Those of the commands whose effect the index does not show after so many seconds at most."""
        return await self._waits.unseen(tenant, commands, seconds)

    async def _write(self, call: AnyCall, drafts: Sequence[Draft]) -> tuple[Outcomes, bool]:
        """Outcomes of the commands, and whether all that were taken reached what the client waits for."""
        seconds, stages = self._patience(call, drafts[0].op)
        if not stages:
            return await self._writer.write(call, drafts), False
        async with self._waits.progress(call.caller.tenant, drafts, stages) as wait:
            outcomes = await self._writer.write(call, drafts)
            await self._await_progress(call, wait, drafts, outcomes, seconds)
            return outcomes, wait.reached

    async def _await_progress(
        self, call: AnyCall, wait: ProgressWait, drafts: Sequence[Draft], outcomes: Outcomes, seconds: float
    ) -> None:
        repeated = False
        for draft, outcome in zip(drafts, outcomes, strict=True):
            if isinstance(outcome, Exception):
                wait.drop(draft.id)
            else:
                repeated = repeated or outcome.duplicate
        tenant = call.caller.tenant
        await wait.until(seconds, lambda: self._waits.look_for_progress(tenant, wait), at_once=repeated)

    async def _await_thought(self, call: AnyCall, command: str, wait: ThoughtWait, *, repeated: bool) -> None:
        """Return with the answer or when the time is up. Raises the error that ended the question."""
        longest = self._settings.think_seconds
        seconds = longest if call.prefer.wait is None else min(call.prefer.wait, longest)
        tenant = call.caller.tenant
        await wait.until(seconds, lambda: self._waits.look_for_thought(tenant, command, wait), at_once=repeated)
        if wait.failure is not None:
            raise wait.failure

    def _patience(self, call: AnyCall, op: str) -> tuple[float, Collection[Stage]]:
        """How long to wait, and for which stages; none where the client does not want to wait."""
        query: WaitQuery = call.query
        longest = self._settings.longest_wait
        asked = query.timeout if query.timeout is not None else call.prefer.wait
        if call.prefer.respond_async or (query.wait is None and call.prefer.wait is None):
            return 0.0, ()
        seconds = longest if asked is None else min(asked, longest)
        return seconds, _awaited(op, query.wait)

    def _job(self, call: AnyCall, draft: Draft, appended: Appended) -> str:
        return JobId(appended.sequence, draft.id, call.caller.space).text(call.caller.tenant, self._pepper)


def _awaited(op: str, wait: str | None) -> tuple[Stage, ...]:
    """The stages that end the waiting; the index shows nothing of what only the graph holds."""
    if op not in INDEXED_OPS:
        return ("linked",)
    return ("indexed", "linked") if wait == "done" else ("indexed",)


def _refused(error: Exception) -> dict[str, Any]:
    failure = Failure.of(error)
    return {"error": {"code": failure.code, "message": failure.message, "retry_after": failure.retry_after}}
