"""Noting down for the audit trail what no request tells of: commands, and what services do by themselves."""

from __future__ import annotations

from engram_contracts.facts import UsageBatch
from engram_contracts.ids import new_id
from engram_contracts.topology import usage_subject
from engram_contracts.trail import Act
from engram_runtime.bus import Bus, Entry


async def note(bus: Bus, *acts: Act, writer: str) -> None:
    """Hand acts to the trail's writer, durably. Raises where they cannot be written; a repeat notes them twice.

    `writer` says which part notes it, as one word: `door`, `recovery`, `command`.
    """
    body = UsageBatch(events=(), acts=acts).encode()
    outcome = (await bus.append([Entry(subject=usage_subject(writer), body=body, id=new_id())]))[0]
    if isinstance(outcome, Exception):
        raise outcome
