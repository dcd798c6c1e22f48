"""What facts and usage events add to which meter: pure counting, every effect once.

A memory is counted by its id, whatever command brought it, and keeps a tombstone when it is forgotten. All other facts
are counted by the id of their command, requests by their own id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from engram_contracts.ids import derived_id
from engram_metering.intake import (
    Counted,
    CountedForgotten,
    CountedLinked,
    CountedRemembered,
    CountedRequest,
    CountedRevised,
    CountedThought,
    Noted,
)
from engram_runtime.service import Delivery

Key = tuple[str, str]
"""A tenant and a UUID of its own: of a memory, or of what was counted."""

Amounts = dict[str, int]

FACT_METERS = frozenset({
    "memories_created", "memories_deleted", "storage_bytes", "embedding_tokens",
    "thinks", "think_prompt_tokens", "think_completion_tokens", "link_prompt_tokens", "link_completion_tokens",
})  # fmt: skip
"""Meters that facts alone move; a door's counter of the same name is left out, so nothing counts twice."""

UNCHARGED = frozenset({402, 409, 429})
"""Beside all 5xx: statuses of requests that cost nothing."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME_ORDERED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


def uuid_of(text: str) -> str:
    """The text where it is a UUID in its usual form, else the one derived from it."""
    return text if _UUID.fullmatch(text) else derived_id(text)


def is_time_ordered(identity: str) -> bool:
    """Whether a request's id was minted for that one request, so that it comes again only with the same `at`."""
    return _TIME_ORDERED.fullmatch(identity) is not None


class Charge(NamedTuple):
    """What one event adds to its tenant's meters; a meter it does not move is left out."""

    tenant: str
    event_id: str
    at: datetime
    sequence: int
    amounts: Amounts


@dataclass(slots=True)
class Known:
    """What the ledger holds about a batch's keys: sizes in bytes (`None` for a tombstone), and what was counted."""

    sizes: dict[Key, int | None] = field(default_factory=dict)
    applied: set[Key] = field(default_factory=set)


@dataclass(slots=True)
class Wanted:
    """The keys a batch needs to know about."""

    sizes: list[Key]
    applied: list[Key]


def wanted(facts: Sequence[Delivery[Counted]]) -> Wanted:
    """The keys to look up before the facts can be counted."""
    sizes = [key for delivery in facts if (key := _memory(delivery)) is not None]
    applied = [_command(delivery) for delivery in facts if _counted_by_command(delivery.message)]
    return Wanted(sizes, applied)


class Tally:
    """Counts facts or requests in order, starting from what is known. `sizes` and `applied` gather what changed."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.charges: list[Charge] = []
        self.sizes: dict[Key, int | None] = {}
        self.applied: dict[Key, None] = {}

    def add(self, delivery: Delivery[Counted]) -> None:
        """Count a fact, unless its effect was counted before."""
        fact = delivery.message
        if isinstance(fact, Noted) or (_counted_by_command(fact) and not self._first(_command(delivery))):
            return
        amounts = {meter: amount for meter, amount in self._amounts(delivery).items() if amount}
        if amounts:
            self.charges.append(Charge(delivery.tenant, fact.command, fact.accepted_at, delivery.sequence, amounts))

    def add_request(self, sequence: int, event: CountedRequest) -> None:
        """Count a usage event, unless it was counted before."""
        if self._first(request_key(event)):
            counters = {meter: n for meter, n in event.counters.items() if n and meter not in FACT_METERS}
            amounts = {**counters, "api_calls": 1} if _is_charged(event.status) else {}
            if not amounts:
                return
            self.charges.append(Charge(event.tenant, event.request_id, event.at, sequence, amounts))

    def _first(self, key: Key) -> bool:
        if key in self._known.applied or key in self.applied:
            return False
        self.applied[key] = None
        return True

    def _amounts(self, delivery: Delivery[Counted]) -> Amounts:
        match delivery.message:
            case CountedRemembered() as fact:
                return self._remembered(_key(delivery.tenant, fact.memory["id"]), fact)
            case CountedRevised() as fact:
                return self._revised(_key(delivery.tenant, fact.memory_id), fact)
            case CountedForgotten() as fact:
                return self._forgotten(_key(delivery.tenant, fact.memory_id))
            case CountedThought(use=use):
                tokens = {"think_prompt_tokens": use.prompt_tokens, "think_completion_tokens": use.completion_tokens}
                return {"thinks": 1, **tokens}
            case CountedLinked(use=use):
                return {"link_prompt_tokens": use.prompt_tokens, "link_completion_tokens": use.completion_tokens}
        return {}

    def _remembered(self, key: Key, fact: CountedRemembered) -> Amounts:
        if key in self.sizes or key in self._known.sizes:
            return {}
        size = self.sizes[key] = len(fact.memory["content"].encode())
        return {"memories_created": 1, "storage_bytes": size, "embedding_tokens": fact.embedding["tokens"]}

    def _revised(self, key: Key, fact: CountedRevised) -> Amounts:
        before = self._size(key)
        if before is None:
            return {}
        after = before if fact.changes.content is None else len(fact.changes.content.encode())
        self.sizes[key] = after
        return {"storage_bytes": after - before, "embedding_tokens": fact.embedding["tokens"] if fact.embedding else 0}

    def _forgotten(self, key: Key) -> Amounts:
        before = self._size(key)
        if before is None:
            return {}
        self.sizes[key] = None
        return {"memories_deleted": 1, "storage_bytes": -before}

    def _size(self, key: Key) -> int | None:
        """Bytes of a live memory; `None` where there is none, or no more."""
        return self.sizes[key] if key in self.sizes else self._known.sizes.get(key)


def request_key(event: CountedRequest) -> Key:
    """What a usage event is counted by: a time-ordered id as it is, any other as one that never is."""
    identity = event.request_id
    return event.tenant, identity if is_time_ordered(identity) else derived_id("usage", identity)


def _is_charged(status: int) -> bool:
    """Whether a request is a call: not one that was refused for want of something, or is to be sent again."""
    return status not in UNCHARGED and status < 500


def _counted_by_command(fact: Counted) -> bool:
    return not isinstance(fact, CountedRemembered | Noted)


def _memory(delivery: Delivery[Counted]) -> Key | None:
    match delivery.message:
        case CountedRemembered(memory=memory):
            return _key(delivery.tenant, memory["id"])
        case CountedRevised(memory_id=memory_id) | CountedForgotten(memory_id=memory_id):
            return _key(delivery.tenant, memory_id)
    return None


def _command(delivery: Delivery[Counted]) -> Key:
    return delivery.tenant, derived_id(delivery.event, delivery.message.command)


def _key(tenant: str, identity: str) -> Key:
    return tenant, uuid_of(identity)
