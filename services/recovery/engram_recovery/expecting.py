"""What the log says there must be: facts folded, in order, as every store folds them. Pure, but for where it is kept.

A command counts once. A fact that a store has to refuse (a memory that exists already, is not there, was forgotten, or
a change that is none) counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from engram_contracts.auditing import digest_of
from engram_contracts.facts import Accessed
from engram_contracts.memory import MemoryChanges
from engram_contracts.topology import LogSubject
from engram_runtime.bus import Stored

MEMORY_EVENTS = ("remembered", "revised", "forgotten")


class Text(TypedDict):
    """Of a memory: which one, and its content."""

    id: str
    content: str


class Said(TypedDict, total=False):
    """The few fields of a fact that matter here; its vectors are skipped."""

    command: str
    memory: Text
    memory_id: str
    changes: dict[str, Any]
    times: dict[str, int]


_SAID = TypeAdapter(Said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One memory as the facts so far leave it; `version` 0 is forgotten.

    `known` is false where its beginning is not on the log any more, so that only its last sequence is known.
    """

    version: int
    size: int
    digest: str | None
    known: bool = True


class Effect(NamedTuple):
    """A fact that has to have taken effect; what it adds to the meters, where that is known."""

    sequence: int
    tenant: str
    event: str
    command: str
    memory_id: str | None = None
    created: int = 0
    deleted: int = 0
    size: int = 0
    metered: bool = False


class Keeper(Protocol):
    """Where what is expected is kept while the log is read."""

    def is_first(self, tenant: str, command: str) -> bool:
        """Note that a command was seen; whether it was the first time."""

    def find(self, tenant: str, memory_id: str) -> Expected | None:
        """What is expected of a memory so far."""

    def keep(self, tenant: str, memory_id: str, expected: Expected) -> None:
        """Expect this of it from now on."""

    def note(self, effect: Effect) -> None:
        """Expect this effect."""

    def access(self, tenant: str, memory_id: str, times: int, *, at: datetime, sequence: int) -> None:
        """Expect that a memory was recalled so many times more."""


class Fold:
    """Takes what the log holds, in its order. `whole` says that the log still has its first message."""

    def __init__(self, keeper: Keeper, *, whole: bool) -> None:
        self._keeper = keeper
        self._whole = whole

    def take(self, stored: Stored) -> None:
        """Fold one message in; one that cannot be read is refused by every store, and counts for nothing."""
        subject = LogSubject.parse(stored.subject)
        said = said_by(stored)
        if said is None or "command" not in said:
            return
        if subject.event == Accessed.event:
            self._access(subject.tenant, said, stored)
            return
        effect = Effect(stored.sequence, subject.tenant, subject.event, said["command"], memory_of(said))
        if subject.event == "remembered" and "memory" in said:
            self._remember(effect, said["memory"]["content"])
        elif subject.event in ("revised", "forgotten") and effect.memory_id is not None:
            self._change(effect, said.get("changes") or {})
        elif subject.event == "judged" and self._whole and not self._is_there(effect):
            return
        elif subject.event not in MEMORY_EVENTS and self._keeper.is_first(subject.tenant, effect.command):
            self._keeper.note(effect)

    def _access(self, tenant: str, said: Said, stored: Stored) -> None:
        """Count recalls of what is there, once for each command."""
        if not self._keeper.is_first(tenant, said["command"]):
            return
        for memory_id, times in said.get("times", {}).items():
            there = self._keeper.find(tenant, memory_id)
            if there is not None and there.version:
                self._keeper.access(tenant, memory_id, times, at=stored.at, sequence=stored.sequence)

    def _is_there(self, effect: Effect) -> bool:
        return effect.memory_id is not None and self._keeper.find(effect.tenant, effect.memory_id) is not None

    def _remember(self, effect: Effect, content: str) -> None:
        assert effect.memory_id is not None
        there = self._keeper.find(effect.tenant, effect.memory_id)
        if there is None and self._keeper.is_first(effect.tenant, effect.command):
            size = len(content.encode())
            expected = Expected(version=1, size=size, digest=digest_of(content))
            self._keeper.keep(effect.tenant, effect.memory_id, expected)
            self._keeper.note(effect._replace(created=1, size=size, metered=True))

    def _change(self, effect: Effect, changes: dict[str, Any]) -> None:
        assert effect.memory_id is not None
        before = self._keeper.find(effect.tenant, effect.memory_id)
        if before is None:
            if not self._whole:
                self._keeper.keep(
                    effect.tenant, effect.memory_id, Expected(version=1, size=0, digest=None, known=False)
                )
            return
        after = _forgotten(before) if effect.event == "forgotten" else _revised(before, changes)
        if after is None or not self._keeper.is_first(effect.tenant, effect.command):
            return
        self._keeper.keep(effect.tenant, effect.memory_id, after)
        gone = int(before.version > 0 and after.version == 0)
        self._keeper.note(effect._replace(deleted=gone, size=after.size - before.size, metered=before.known))


def said_by(stored: Stored) -> Said | None:
    """The fields of a fact that matter, or `None` where it cannot be read."""
    try:
        return _SAID.validate_json(stored.body)
    except ValidationError:
        return None


def memory_of(said: Said) -> str | None:
    """The memory a fact is about."""
    return said["memory"]["id"] if "memory" in said else said.get("memory_id")


def _forgotten(before: Expected) -> Expected:
    return Expected(version=0, size=0, digest=None, known=before.known)


def _revised(before: Expected, changes: dict[str, Any]) -> Expected | None:
    """The memory after a change, or `None` where no store can make it."""
    if before.version == 0:
        return None
    try:
        content = MemoryChanges.model_validate(changes).content
    except ValidationError:
        return None
    if content is None:
        return Expected(version=before.version + 1, size=before.size, digest=before.digest, known=before.known)
    return Expected(
        version=before.version + 1, size=len(content.encode()), digest=digest_of(content), known=before.known
    )
