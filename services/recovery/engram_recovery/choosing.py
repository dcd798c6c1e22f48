"""Which messages an erasure is about. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engram_contracts.messages import in_utc

UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(slots=True)
class Chosen:
    """A tenant, or one user of it with all memories accepted up to a moment.

    `memory_ids` and `commands` gather what belongs to the user, as it is met. Of a whole tenant everything is chosen.
    """

    tenant: str
    user_id: str | None
    until: datetime
    memory_ids: set[str] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)

    def learn(self, body: bytes) -> None:
        """Take note of the memory in a command or fact that makes it the user's."""
        said = as_object(body)
        if said is None or self.user_id is None or not self._in_time(said):
            return
        memory, changes = said.get("memory") or {}, said.get("changes") or {}
        identity = said.get("memory_id") or memory.get("id")
        if isinstance(identity, str) and self.user_id in (memory.get("user_id"), changes.get("user_id")):
            self.memory_ids.add(identity)

    def takes(self, body: bytes) -> bool:
        """Whether a command or fact is to go; its command is noted then. One that cannot be read goes if it names the
        user."""
        said = as_object(body)
        if said is None:
            return self.user_id is None or self.user_id.encode() in body
        taken = self.user_id is None or self._names_memory(said) or (self._asks_for_user(said) and self._in_time(said))
        command = said.get("command") or said.get("id")
        if taken and isinstance(command, str):
            self.commands.add(command)
        return taken

    def names(self, text: bytes) -> bool:
        """Whether a text names a chosen memory."""
        return self.user_id is None or any(found.decode() in self.memory_ids for found in UUID.findall(text))

    def _names_memory(self, said: dict[str, Any]) -> bool:
        cited = [each.get("memory_id") for each in said.get("citations") or () if isinstance(each, dict)]
        memory = said.get("memory") or {}
        return not self.memory_ids.isdisjoint(filter(None, (said.get("memory_id"), memory.get("id"), *cited)))

    def _asks_for_user(self, said: dict[str, Any]) -> bool:
        return any(
            self.user_id == named or (isinstance(named, list) and self.user_id in named)
            for named in _users(said.get("filters"))
        )

    def _in_time(self, said: dict[str, Any]) -> bool:
        try:
            return in_utc(datetime.fromisoformat(said["accepted_at"])) <= self.until
        except (KeyError, TypeError, ValueError):
            return True


def as_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body, or `None`."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _users(filters: Any) -> Iterator[Any]:
    """The users that filters name, however deep."""
    if not isinstance(filters, dict):
        return
    yield filters.get("user_id")
    for name in ("all_of", "any_of", "none_of"):
        for each in filters.get(name) or ():
            yield from _users(each)
