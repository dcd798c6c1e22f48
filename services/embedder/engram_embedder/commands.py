"""What a command asks to have embedded, and the fact that comes of it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from engram_contracts.commands import Command, Forget, Remember, Revise
from engram_contracts.errors import Rejected
from engram_contracts.facts import Embedding, Fact, Forgotten, Remembered, Revised
from engram_contracts.memory import Memory, MemoryChanges
from engram_contracts.private import without_private
from engram_embedder.embedding import Searchable

Ingest = Remember | Revise | Forget
"""The commands that the embedder turns into facts."""


class Draft(NamedTuple):
    """A command, understood: what to embed, if anything, and how the fact is made of it and the time."""

    searchable: Searchable | None
    fact: Callable[[datetime, Embedding | None], Fact]


UNUSED = {"feedback": None, "access_count": 0, "accessed_at": None}
"""What a memory begins with."""


def drafted(command: Command, language: str | None = None) -> Draft:
    """The draft of a Remember, Revise or Forget; `language` is the tenant's, where it has one of its own.

    Raises `Rejected`, naming the field, when it can never be done.
    """
    match command:
        case Remember():
            return _remember(command, language)
        case Revise():
            return _revise(command, language)
        case Forget():
            return _forget(command)
    raise Rejected(f"the embedder does not take {command.op!r}", field="op")


def _remember(command: Remember, language: str | None) -> Draft:
    content = _public(command.memory.content, "memory.content")
    accepted = command.accepted_at
    own = {"id": command.memory_id, "version": 1, "state": "active", "created_at": accepted, "updated_at": accepted}
    memory = Memory.trusted(
        {**vars(command.memory), "content": content, **own, "feedback": None, "access_count": 0, "accessed_at": None}
    )

    def fact(at: datetime, embedding: Embedding | None) -> Fact:
        assert embedding is not None
        times = {"accepted_at": accepted, "at": at}
        who = {"v": Remembered.newest, "command": command.id, **times, "actor": command.actor}
        return Remembered.trusted({**who, "memory": memory, "embedding": embedding})

    return Draft(Searchable(content, memory.speaker, memory.occurred_at, language), fact)


def _revise(command: Revise, language: str | None) -> Draft:
    edit = _edit(command)
    changes = edit.model_dump(mode="json", exclude_unset=True)
    searchable = None
    if edit.content is not None:
        changes["content"] = _public(edit.content, "content")
        searchable = Searchable(changes["content"], edit.speaker, edit.occurred_at, language)

    def fact(at: datetime, embedding: Embedding | None) -> Fact:
        return Revised(
            command=command.id,
            accepted_at=command.accepted_at,
            at=at,
            actor=command.actor,
            memory_id=command.memory_id,
            owner=command.owner,
            changes=changes,
            embedding=embedding,
        )

    return Draft(searchable, fact)


def _forget(command: Forget) -> Draft:
    def fact(at: datetime, _: Embedding | None) -> Fact:
        return Forgotten(
            command=command.id,
            accepted_at=command.accepted_at,
            at=at,
            actor=command.actor,
            memory_id=command.memory_id,
            owner=command.owner,
        )

    return Draft(None, fact)


def _edit(command: Revise) -> MemoryChanges:
    try:
        return command.edit()
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise Rejected(f"{field}: {problem['msg']}", field=field) from error


def _public(content: str, field: str) -> str:
    """The content that may be stored."""
    kept = without_private(content)
    if not kept.strip():
        raise Rejected(f"{field}: nothing is left to remember outside of <private> blocks", field=field)
    return kept
