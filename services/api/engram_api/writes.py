"""Making commands durable, together with those of other requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engram_api.calls import Call
from engram_api.committer import Committer
from engram_api.drafts import Draft
from engram_contracts.topology import Urgency, work_subject
from engram_runtime.bus import Appended, Entry

INTERACTIVE_MOST = 8
"""Up to so many memories in one request go ahead of bulk work."""


class Writer:
    """Puts commands on the work stream; each urgency has a queue of its own, so that bulk does not hold up the rest."""

    def __init__(self, interactive: Committer[Entry, Appended], bulk: Committer[Entry, Appended]) -> None:
        self._committers: dict[Urgency, Committer[Entry, Appended]] = {"interactive": interactive, "bulk": bulk}

    async def write(self, call: Call[Any, Any], drafts: Sequence[Draft]) -> Sequence[Appended | Exception]:
        """One outcome per command, once it is durable or refused. All commands are of one kind."""
        urgency: Urgency = "interactive" if len(drafts) <= INTERACTIVE_MOST else "bulk"
        subject = work_subject(call.caller.tenant, drafts[0].op, urgency)
        entries = [
            Entry(subject=subject, body=draft.body, id=draft.id, correlation=call.correlation) for draft in drafts
        ]
        return await self._committers[urgency].commit(entries)

    async def close(self) -> None:
        """Return once all that was handed in has its outcome."""
        for committer in self._committers.values():
            await committer.close()
