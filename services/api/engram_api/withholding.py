"""What is marked private is taken out before anything is written. Pure."""

from __future__ import annotations

from typing import TypeVar

from engram_contracts.errors import Rejected
from engram_contracts.memory import MemoryChanges, MemoryFields, NewMemory
from engram_contracts.private import without_private as spoken

C = TypeVar("C", MemoryFields, NewMemory, MemoryChanges)


def without_private(said: C, field: str) -> C:
    """The memory or change without what is marked private. Raises `Rejected` when nothing is left."""
    if said.content is None or "<" not in said.content:
        return said
    kept = spoken(said.content)
    if not kept.strip():
        raise Rejected(f"{field}: nothing is left to remember outside of <private> blocks", field=field)
    return said if kept == said.content else said.model_copy(update={"content": kept})
