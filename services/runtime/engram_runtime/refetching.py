"""Facts read again from their places on the log, as a follower would get them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from engram_contracts.auditing import Mending
from engram_contracts.errors import NotFound
from engram_contracts.facts import Accessed
from engram_contracts.ids import partition_of
from engram_contracts.messages import Message
from engram_contracts.topology import LOG, LogSubject
from engram_runtime.appending import CORRELATION
from engram_runtime.bus import Bus, Stored
from engram_runtime.decoding import decode
from engram_runtime.service import Delivery

AT_ONCE = 32
PAGE = 500


async def facts_of(
    bus: Bus, asked: Mending, messages: Mapping[str, type[Message]], *, position: int, name: Callable[[str], str] = str
) -> list[Delivery[Any]]:
    """The facts of the memories that are to be mended, in order: those named, and what a store applied since.

    `position` is how far the store is, `name` makes of a memory's id what the store calls it. Raises `NotFound`
    where a named fact is not there any more, `Rejected` where one cannot be read.
    """
    sequences = sorted({sequence for mend in asked.mends for sequence in mend.sequences})
    found: list[Delivery[Any]] = []
    for start in range(0, len(sequences), AT_ONCE):
        lot = sequences[start : start + AT_ONCE]
        found += await asyncio.gather(*(_fact_at(bus, asked.tenant, sequence, messages) for sequence in lot))
    named = {mend.memory_id for mend in asked.mends if mend.sequences}
    async for delivery in _since(bus, asked.tenant, asked.cut, position, messages):
        found += _about(delivery, named, name)
    return found


def _about(delivery: Delivery[Any], named: Collection[str], name: Callable[[str], str]) -> list[Delivery[Any]]:
    """The delivery, as far as it is about memories that are named; nothing where it is not."""
    fact = delivery.message
    if isinstance(fact, Accessed):
        times = {memory: count for memory, count in fact.times.items() if name(memory) in named}
        return [replace(delivery, message=fact.model_copy(update={"times": times}))] if times else []
    return [delivery] if name(memory_of(fact) or "") in named else []


def memory_of(fact: Any) -> str | None:
    """The id of the memory a fact is about, in whatever form it was read."""
    memory = getattr(fact, "memory", None)
    if memory is None:
        return getattr(fact, "memory_id", None)
    return str(memory["id"] if isinstance(memory, dict) else memory.id)


async def _fact_at(bus: Bus, tenant: str, sequence: int, messages: Mapping[str, type[Message]]) -> Delivery[Any]:
    stored = await bus.read(LOG, sequence)
    delivery = delivered(stored, messages) if stored is not None else None
    if delivery is None or delivery.tenant != tenant:
        raise NotFound(f"the log holds no such fact of {tenant!r} at {sequence}")
    return delivery


async def _since(
    bus: Bus, tenant: str, cut: int, position: int, messages: Mapping[str, type[Message]]
) -> AsyncIterator[Delivery[Any]]:
    """A tenant's facts from beyond the cut up to the position."""
    pattern = f"engram.log.{partition_of(tenant)}.{tenant}.*"
    while cut < position:
        page = await bus.archive(LOG).read(cut + 1, pattern=pattern, limit=PAGE)
        for stored in page:
            delivery = delivered(stored, messages) if stored.sequence <= position else None
            if delivery is not None:
                yield delivery
        if not page:
            return
        cut = page[-1].sequence


def delivered(stored: Stored, messages: Mapping[str, type[Message]]) -> Delivery[Any] | None:
    """A stored fact as it is delivered, or `None` where nobody here understands its type."""
    subject = LogSubject.parse(stored.subject)
    kind = messages.get(subject.event)
    if kind is None:
        return None
    return Delivery(
        tenant=subject.tenant,
        event=subject.event,
        message=decode(kind, stored.body),
        sequence=stored.sequence,
        at=stored.at,
        correlation=stored.headers.get(CORRELATION),
    )
