"""The audit trail: who did what, when, to which ids; appended only, and chained by hashes, one chain for each tenant.

A record holds the hash of the one before it, so what was changed, taken out or moved later does not fit any more. What
was cut off at the end is told by the ledger, which knows the last record of each chain. No record holds memory text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from engram_contracts.messages import Message, Moment, Versioned

GENESIS = "0" * 64
"""Stands for the hash before the first record of a chain."""

MOST_TARGETS = 20
CUT = "chain-cut"
"""The action of a record that is put where a chain was found shorter than it had been; `count` is how long it was."""


class Mark(Message):
    """What the trail is to say of a request beside what its usage event says. See `Act`."""

    actor: str | None = None
    targets: tuple[str, ...] = ()
    count: int | None = None
    correlation: str | None = None


class Act(Message):
    """Something that was done or tried, as whoever saw it tells it; it has no place in a chain yet.

    `tenant` is `_system` for what concerns the installation.

    `action` is an operation of the door, the event of a fact, or a command's name. `targets` are ids, at most
    `MOST_TARGETS` of them, where `count` tells how many there were. A graph's node is named by its derived id, because
    its own may be somebody's name. `outcome` is `done`, or the HTTP status, or the code of a refusal. `request_id` is
    the request's, or the correlation id that a fact carries on from it.
    """

    tenant: str
    at: Moment
    action: str = Field(max_length=64)
    outcome: str = Field(default="done", max_length=64)
    actor: str | None = Field(default=None, max_length=256)
    targets: tuple[str, ...] = Field(default=(), max_length=MOST_TARGETS)
    count: int | None = None
    request_id: str | None = None
    correlation: str | None = None
    address: str | None = None


class Reached(Message):
    """A place in a stream: a sequence, and when what stands there was appended."""

    sequence: int
    at: Moment

    def holds(self, sequence: int, at: datetime) -> bool:
        """Whether something is at this place or before it; a log that was cut off gives a sequence a second time."""
        return sequence <= self.sequence and at <= self.at


class AuditPage(Versioned):
    """Records of one tenant's chain that were appended together, as `engram.audit.<tenant>` holds them.

    Each record is an act with its number `n` (from 1), the hash `previous` of the record before it, and its own `hash`.
    `through` tells up to which place of each stream the acts of this tenant are in the chain.
    """

    records: tuple[dict[str, Any], ...]
    through: dict[str, Reached]


class Head(Message):
    """The last record of a chain: its number and its hash."""

    tenant: str
    n: int
    hash: str


class Flaw(Message):
    """Where a chain is broken, and how. `n` is the number of the first record that does not fit."""

    tenant: str
    n: int
    what: str


def chained(act: Act, n: int, previous: str) -> dict[str, Any]:
    """The act as record number `n` of a chain, with its hash."""
    record = {"n": n, **act.model_dump(mode="json", exclude_none=True), "previous": previous}
    return {**record, "hash": hash_of(record)}


def hash_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record as JSON without its `hash`: sorted names, no spaces, as UTF-8."""
    told = {name: value for name, value in record.items() if name != "hash"}
    return hashlib.sha256(
        json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()


class ChainCheck:
    """Looks through a tenant's chain, record by record, from its first.

    `head` is where the chain is known to have come to; without it, what was cut off at the end cannot be told. With
    `anywhere` the first record may have any number, as in a file that holds a part of a chain.
    """

    def __init__(self, tenant: str, head: Head | None = None, *, anywhere: bool = False) -> None:
        self.tenant = tenant
        self.n, self.hash, self.seen = 0, GENESIS, 0
        self._head = head
        self._anywhere = anywhere

    def take(self, record: Mapping[str, Any]) -> list[Flaw]:
        """What does not fit about the next record."""
        n, said = _number(record), str(record.get("hash"))
        if self._anywhere:
            self._anywhere, self.n, self.hash = False, n - 1, str(record.get("previous"))
        found = [*self._place(n, record), *self._content(n, said, record)]
        self.n, self.hash, self.seen = max(n, self.n), said, self.seen + 1
        return found

    def end(self) -> list[Flaw]:
        """What is missing behind the last record."""
        if self._head is None or self.n >= self._head.n:
            return []
        return [self._flaw(self.n + 1, f"cut off: the chain ends at record {self.n}, but {self._head.n} were written")]

    def _place(self, n: int, record: Mapping[str, Any]) -> Iterator[Flaw]:
        wanted = self.n + 1
        if n > wanted:
            yield self._flaw(wanted, f"missing: record {n} stands where {wanted} belongs")
        elif n < wanted:
            yield self._flaw(n, f"moved: record {n} stands where {wanted} belongs")
        elif record.get("previous") != self.hash:
            yield self._flaw(n, f"replaced: record {n} does not follow the record before it")

    def _content(self, n: int, said: str, record: Mapping[str, Any]) -> Iterator[Flaw]:
        if said != hash_of(record) or record.get("tenant") != self.tenant:
            yield self._flaw(n, f"edited: record {n} is not what its hash was made of")
        elif record.get("action") == CUT:
            yield self._flaw(n, f"cut off: the chain ended before record {n}, where {record.get('count')} were written")
        elif self._head is not None and n == self._head.n and said != self._head.hash:
            yield self._flaw(n, f"replaced: record {n} is not the one that was written")

    def _flaw(self, n: int, what: str) -> Flaw:
        return Flaw(tenant=self.tenant, n=n, what=what)


def _number(record: Mapping[str, Any]) -> int:
    n = record.get("n")
    return n if isinstance(n, int) else 0


def targets(ids: Iterable[str]) -> dict[str, Any]:
    """`targets` and `count` for an act that concerns these ids."""
    every = tuple(ids)
    return {"targets": every[:MOST_TARGETS], **({"count": len(every)} if len(every) > MOST_TARGETS else {})}
