"""Making commands durable: ids, entries, group commit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engram_api.calls import Call
from engram_api.committer import Committer
from engram_contracts.commands import Command, Remember
from engram_contracts.ids import derived_id, new_id
from engram_contracts.memory import NewMemory
from engram_contracts.topology import Urgency, work_subject
from engram_runtime.bus import Appended, Entry

INTERACTIVE_MOST = 8
"""Up to so many memories in one request go ahead of bulk work."""


def command_id(call: Call[Any, Any], op: str, *parts: str) -> str:
    """The id of a command: the same for the same `Idempotency-Key`, else new and time-ordered.

    `parts` tell commands of one request, or requests on different things, apart.
    """
    if call.idempotency_key is None:
        return new_id()
    return derived_id("command", call.caller.tenant, op, call.idempotency_key, *parts)


def identity_of(call: Call[Any, Any], memory: NewMemory, place: int) -> str:
    """The id of a memory, which is also its command's: from the client's own key for it where there is one."""
    if memory.key is not None:
        return derived_id("memory", call.caller.tenant, memory.key)
    return command_id(call, Remember.op, str(place))


class Writer:
    """Puts commands on the work stream; each urgency has a queue of its own, so that bulk does not hold up the rest."""

    def __init__(self, interactive: Committer[Entry, Appended], bulk: Committer[Entry, Appended]) -> None:
        self._committers: dict[Urgency, Committer[Entry, Appended]] = {"interactive": interactive, "bulk": bulk}

    async def write(self, call: Call[Any, Any], commands: Sequence[Command]) -> Sequence[Appended | Exception]:
        """One outcome per command, once it is durable or refused. All commands are of one kind."""
        urgency: Urgency = "interactive" if len(commands) <= INTERACTIVE_MOST else "bulk"
        subject = work_subject(call.caller.tenant, commands[0].op, urgency)
        entries = [
            Entry(subject=subject, body=command.encode(), id=command.id, correlation=call.correlation)
            for command in commands
        ]
        return await self._committers[urgency].commit(entries)

    async def close(self) -> None:
        """Return once all that was handed in has its outcome."""
        for committer in self._committers.values():
            await committer.close()
