"""A fact on the log as those who listen to a tenant's events are told of it. Pure."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from engram_contracts.control import Bounds
from engram_contracts.facts import FACTS
from engram_contracts.live import EventFilter, Happening
from engram_contracts.topology import LogSubject
from engram_runtime.bus import Stored

INNER = frozenset({"v", "command", "accepted_at", "at", "actor", "embedding", "owner"})
"""Fields of a fact that are told elsewhere, or not at all."""

OWNERS = ("user_id", "agent_id", "session_id")


def happening(stored: Stored) -> Happening | None:
    """What a message of the log says; `None` for one that is no fact this release knows."""
    event = LogSubject.parse(stored.subject).event
    try:
        fact = from_json(stored.body)
        if event not in FACTS or not isinstance(fact, dict):
            return None
        said = {
            "sequence": stored.sequence,
            "event": event,
            "memory_id": fact.get("memory_id") or fact.get("memory", {}).get("id"),
            "data": {name: value for name, value in fact.items() if name not in INNER},
            **{name: fact.get(name) for name in ("at", "command", "actor")},
            **_owner(fact),
        }
        return Happening.model_validate(said)
    except (ValueError, AttributeError):
        return None


def wanted(happened: Happening, chosen: EventFilter, bounds: Bounds) -> bool:
    """Whether a listener asked for this, and may hear it."""
    return chosen.takes(happened) and (bounds.any or bounds.permits(happened.user_id, happened.session_id))


def _owner(fact: dict[str, Any]) -> dict[str, str | None]:
    """Whose memory it is about, as it is after the change."""
    known = {**fact.get("owner", {}), **fact.get("memory", {}), **fact.get("changes", {})}
    return {name: known.get(name) for name in OWNERS}
