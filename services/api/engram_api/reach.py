"""What a caller bound to some users or sessions may reach of a tenant's memories. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engram_api.access import Caller
from engram_contracts.errors import Forbidden
from engram_contracts.memory import MemoryChanges, MemoryFields, NewMemory
from engram_contracts.questions import History


def owned(memory: NewMemory, caller: Caller) -> NewMemory:
    """The memory as this caller may keep it: where it is bound to one user or session, that one is filled in.

    Raises `Forbidden` for a memory of others, or of nobody where there are several to choose from.
    """
    if caller.bounds.any:
        return memory
    given = {"user_id": _own(memory, caller.bounds.user_ids, "user_id")}
    given["session_id"] = _own(memory, caller.bounds.session_ids, "session_id")
    return memory.model_copy(update=given)


def check_change(changes: MemoryChanges, caller: Caller) -> None:
    """Raise `Forbidden` for a change that would take a memory out of what the caller may reach."""
    reach = {"user_id": caller.bounds.user_ids, "session_id": caller.bounds.session_ids}
    for name in changes.model_fields_set & reach.keys():
        may = reach[name]
        if may is not None and getattr(changes, name) not in may:
            raise _outside(name)


def reaches(caller: Caller, memory: MemoryFields) -> bool:
    """Whether a memory is one of those."""
    return caller.bounds.permits(memory.user_id, memory.session_id)


def reached(caller: Caller, history: History) -> History | None:
    """Those versions of a memory that were within reach, and the verdicts on them; `None` where it is not there now."""
    if caller.bounds.any:
        return history
    versions = tuple(each for each in history.versions if reaches(caller, each.memory))
    if not versions or versions[-1] is not history.versions[-1]:
        return None
    numbers = {each.version for each in versions}
    feedback = tuple(each for each in history.feedback if each.version in numbers)
    return History(versions=versions, feedback=feedback)


def without_paths(hits: Iterable[Any]) -> tuple[Any, ...]:
    """Hits, as they came over the bus, without the ways through the graph, which is the whole tenant's."""
    return tuple(
        {**hit, "explain": {**hit["explain"], "path": []}} if isinstance(hit, dict) and hit.get("explain") else hit
        for hit in hits
    )


def _own(memory: NewMemory, may: tuple[str, ...] | None, name: str) -> str | None:
    said: str | None = getattr(memory, name)
    if may is None or said in may:
        return said
    if said is None and len(may) == 1:
        return may[0]
    raise _outside(name)


def _outside(name: str) -> Forbidden:
    return Forbidden(f"this key is bound to some values of {name}; send one of those", field=name)
