"""Writing the audit trail: a chain for each tenant on the audit stream, with every act in it once.

Each page says up to which place of its sources it goes, so what is followed a second time is left out; and it is
appended only behind the page it was made to follow, so that two writers can never fork a chain.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from engram_contracts.errors import Unavailable
from engram_contracts.ids import derived_id
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import AUDIT, audit_subject
from engram_contracts.trail import CUT, GENESIS, Act, AuditPage, Head, Reached, chained
from engram_runtime.bus import Appended, Bus, Entry

BEHIND = "Nats-Expected-Last-Subject-Sequence"
PAGE = 500
"""Acts in one page; those of one message stay together, however many."""

KNOWN = 10_000
"""Ends of chains that are kept in memory."""

_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
Numbered = tuple[Reached, Act]
"""An act, and where in its source it was told."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chain ends: record `n` with its hash, in the page at `sequence` of the stream, `through` its sources.

    `known` is where the ledger has it end, as long as nothing was appended since it was read.
    """

    n: int = 0
    hash: str = GENESIS
    sequence: int = 0
    through: dict[str, Reached] = field(default_factory=dict)
    known: Head | None = None


Known = Callable[[str], Awaitable[Sequence[Head]]]
"""Where the ledger says that a tenant's chain ends."""


class Trail:
    """Appends acts to the chains of their tenants.

    Where a chain ends before the place that is known of it, something was cut off: the next record says so.
    """

    def __init__(self, bus: Bus, known: Known) -> None:
        self._bus = bus
        self._known = known
        self._stream = bus.archive(AUDIT)
        self._places: dict[str, Place] = {}
        self._one_at_a_time = asyncio.Lock()

    async def write(self, source: str, acts: Iterable[Numbered]) -> list[Head]:
        """Append the acts, which a stream told at these places; where their chains then end.

        A repeat appends nothing. Raises when something could not be written; then the whole is to be repeated.
        """
        waiting = _by_tenant(acts)
        touched = tuple(waiting)
        async with self._one_at_a_time:
            while waiting:
                await self._append(source, [(tenant, _take(own)) for tenant, own in waiting.items()])
                waiting = {tenant: own for tenant, own in waiting.items() if own}
            return [self._head(tenant) for tenant in touched if tenant in self._places]

    def _head(self, tenant: str) -> Head:
        place = self._places[tenant]
        return Head(tenant=tenant, n=place.n, hash=place.hash)

    async def _append(self, source: str, pages: Sequence[tuple[str, Sequence[Numbered]]]) -> None:
        made = []
        for tenant, acts in pages:
            before = await self._place(tenant)
            known = before.through.get(source)
            new = [each for each in acts if known is None or not known.holds(each[0].sequence, each[0].at)]
            if new:
                made.append((tenant, *_page(source, tenant, before, [*self._cut(before, new), *new])))
        outcomes = await self._bus.append([entry for _, entry, _ in made])
        for (tenant, _, after), outcome in zip(made, outcomes, strict=True):
            if not isinstance(outcome, Appended) or outcome.duplicate:
                self._places.clear()
                raise outcome if isinstance(outcome, Exception) else Unavailable("somebody else wrote this audit page")
            self._places[tenant] = replace(after, sequence=outcome.sequence)

    async def _place(self, tenant: str) -> Place:
        place = self._places.get(tenant)
        if place is None:
            place = await self._read(tenant)
            if len(self._places) >= KNOWN:
                self._places.clear()
            self._places[tenant] = place
        return place

    async def _read(self, tenant: str) -> Place:
        stored = await self._stream.newest(audit_subject(tenant))
        known = next(iter(await self._known(tenant)), None)
        if stored is None:
            return Place(known=known)
        page = AuditPage.model_validate_json(stored.body)
        last = page.records[-1]
        return Place(last["n"], last["hash"], stored.sequence, page.through, known)

    def _cut(self, before: Place, acts: Sequence[Numbered]) -> Iterator[Numbered]:
        if before.known is not None and before.known.n > before.n:
            where, act = acts[0]
            lost = {"targets": (before.known.hash,), "count": before.known.n}
            yield where, Act(tenant=act.tenant, at=where.at, action=CUT, outcome="lost", **lost)


def _page(source: str, tenant: str, before: Place, acts: Sequence[Numbered]) -> tuple[Entry, Place]:
    """The page behind a place, and the place behind that page."""
    records = []
    n, last = before.n, before.hash
    for n, (_, act) in enumerate(acts, before.n + 1):
        records.append(chained(act, n, last))
        last = records[-1]["hash"]
    through = {**before.through, source: acts[-1][0]}
    entry = Entry(
        subject=audit_subject(tenant),
        body=AuditPage(records=tuple(records), through=through).encode(),
        id=derived_id("audit", tenant, str(before.n + 1)),
        headers={BEHIND: str(before.sequence)},
    )
    return entry, Place(n, last, 0, through)


def _by_tenant(acts: Iterable[Numbered]) -> dict[str, list[Numbered]]:
    """Acts by tenant; one that names no tenant is the installation's."""
    found: dict[str, list[Numbered]] = {}
    for place, act in acts:
        known = act.tenant == SYSTEM or _TENANT.fullmatch(act.tenant)
        owner = act if known else act.model_copy(update={"tenant": SYSTEM})
        found.setdefault(owner.tenant, []).append((place, owner))
    return found


def _take(acts: list[Numbered]) -> list[Numbered]:
    """The acts of one page, taken out of the list."""
    end = min(PAGE, len(acts))
    while end < len(acts) and acts[end][0] == acts[end - 1][0]:
        end += 1
    page = acts[:end]
    del acts[:end]
    return page
