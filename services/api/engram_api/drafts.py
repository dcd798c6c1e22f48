"""Commands on their way out: named, encoded, not yet durable. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from engram_api.calls import Call
from engram_contracts.commands import Command, Remember
from engram_contracts.ids import derived_id, new_id
from engram_contracts.memory import MemoryFields, NewMemory
from engram_contracts.topology import Urgency


@dataclass(slots=True)
class Draft:
    """A command as it will be published. `memory_id` is the memory it is about, if it is about one.

    `urgency` is that of the queue it has to go into, behind what it depends on; without it, the writer chooses.
    """

    op: str
    id: str
    body: bytes
    memory_id: str | None = None
    urgency: Urgency | None = None

    @classmethod
    def of(cls, command: Command, *, memory_id: str | None = None, urgency: Urgency | None = None) -> Draft:
        """The draft of a command."""
        return cls(command.op, command.id, command.encode(), memory_id, urgency)


def remembering(call: Call[Any, Any], memories: Sequence[NewMemory], now: datetime, *, first: int = 0) -> list[Draft]:
    """A draft for each memory, the first of which has this place in its request.

    A memory's id is also its command's, so that its job can be followed to the index.

    What `Remember(...).encode()` would give, put together because this is the door's busiest line.
    """
    given = {"actor": call.caller.actor, "deadline": call.deadline}
    known = {name: value for name, value in given.items() if value is not None}
    shared = to_json({"v": Remember.newest, "accepted_at": now, **known})[:-1]
    encode = MemoryFields.__pydantic_serializer__.to_json
    drafts = []
    for place, memory in enumerate(memories, first):
        identity = _identity(call, memory, place)
        name = identity.encode()
        body = b'%b,"id":"%b","memory_id":"%b","memory":%b}' % (shared, name, name, encode(memory, exclude_none=True))
        drafts.append(Draft(Remember.op, identity, body, identity))
    return drafts


def command_id(call: Call[Any, Any], op: str, *parts: str) -> str:
    """The id of a command: the same for the same `Idempotency-Key`, else new and time-ordered.

    `parts` tell commands of one request, or requests on different things, apart.
    """
    if call.idempotency_key is None:
        return new_id()
    return derived_id("command", call.caller.tenant, op, call.idempotency_key, *parts)


def _identity(call: Call[Any, Any], memory: NewMemory, place: int) -> str:
    """The id of a memory: from the client's own key for it where there is one."""
    if memory.key is not None:
        return derived_id("memory", call.caller.tenant, call.caller.named(memory.key))
    return command_id(call, Remember.op, str(place))
