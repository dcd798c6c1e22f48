"""Making commands durable, together with those of other requests, and without letting one tenant crowd out others."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engram_api.calls import Call
from engram_api.committer import Committer
from engram_api.drafts import Draft
from engram_api.outstanding import Outstanding
from engram_api.pressure import Pressure
from engram_api.share import Share
from engram_contracts.commands import Remember
from engram_contracts.errors import EngramError
from engram_contracts.topology import Urgency, work_subject
from engram_runtime.bus import Appended, Entry
from engram_runtime.tracing import publishing, traceparent

INTERACTIVE_MOST = 8
"""Up to so many memories in one request go ahead of bulk work."""

INTERACTIVE_PER_SECOND = 200.0
"""Memories a second that one tenant may send ahead of bulk work; what comes faster is bulk, however it is sent."""


@dataclass(slots=True)
class Allowance:
    """What a tenant may still send ahead of bulk work: it fills up with time, to one second's worth."""

    left: float = INTERACTIVE_PER_SECOND
    at: float = 0.0

    def spend(self, amount: int, now: float) -> bool:
        """Whether so much was left; it is then spent."""
        self.left = min(self.left + (now - self.at) * INTERACTIVE_PER_SECOND, INTERACTIVE_PER_SECOND)
        self.at = now
        if self.left < amount:
            return False
        self.left -= amount
        return True


class Writer:
    """Puts commands on the work stream.

    Each urgency has a queue of its own, so that bulk does not hold up the rest. A tenant that floods keeps its place
    behind others: what it sends in haste travels as bulk, and of that no more is taken than its share while others are
    served; what it has outstanding is bounded.
    """

    def __init__(
        self,
        interactive: Committer[Entry, Appended],
        bulk: Committer[Entry, Appended],
        outstanding: Outstanding,
        pressure: Pressure,
        share: Share,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._committers: dict[Urgency, Committer[Entry, Appended]] = {"interactive": interactive, "bulk": bulk}
        self._outstanding = outstanding
        self._pressure = pressure
        self._share = share
        self._clock = clock
        self._allowances: defaultdict[str, Allowance] = defaultdict(Allowance)

    async def write(self, call: Call[Any, Any], drafts: Sequence[Draft]) -> Sequence[Appended | Exception]:
        """One outcome per command, once it is durable or refused. All commands are of one kind."""
        tenant, op = call.caller.tenant, drafts[0].op
        urgency = drafts[0].urgency or self._urgency(tenant, op, len(drafts))
        if urgency == "bulk":
            self._share.take(tenant, len(drafts))
        else:
            self._share.served(tenant)
        subject = work_subject(tenant, op, urgency)
        try:
            await self._outstanding.admit(tenant, sum(len(draft.body) for draft in drafts), len(drafts))
            with publishing(subject, len(drafts)):
                outcomes = await self._committers[urgency].commit(_entries(call, subject, drafts), owner=tenant)
        except EngramError as error:
            raise self._pressure.advise(error, tenant, op, urgency) from error
        return [
            self._pressure.advise(outcome, tenant, op, urgency) if isinstance(outcome, Exception) else outcome
            for outcome in outcomes
        ]

    async def close(self) -> None:
        """Return once all that was handed in has its outcome."""
        for committer in self._committers.values():
            await committer.close()

    def _urgency(self, tenant: str, op: str, amount: int) -> Urgency:
        if amount > INTERACTIVE_MOST:
            return "bulk"
        if op == Remember.op and not self._allowances[tenant].spend(amount, self._clock()):
            return "bulk"
        return "interactive"


def _entries(call: Call[Any, Any], subject: str, drafts: Sequence[Draft]) -> list[Entry]:
    trace = traceparent()
    return [
        Entry(subject=subject, body=draft.body, id=draft.id, correlation=call.correlation, trace=trace)
        for draft in drafts
    ]
