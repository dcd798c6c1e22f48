"""Following the log's memories with a model, to append the entities and relations it finds as `Linked` facts.

Nothing waits for it: memories are recorded and can be recalled before, and without, their relations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from typing import Any

from engram_contracts.errors import EngramError, Internal
from engram_contracts.facts import Linked, ModelUse, Remembered
from engram_contracts.ids import derived_id
from engram_contracts.topology import log_subject
from engram_reasoner.budget import Budget, Reservation
from engram_reasoner.context import estimate
from engram_reasoner.extraction import Relations, conversation, relations
from engram_reasoner.ports import ChatModel
from engram_reasoner.slots import Slots
from engram_runtime.breaker import is_away
from engram_runtime.bus import Appended, Bus, Entry, KeyValue
from engram_runtime.service import Delivery, Outcome
from engram_runtime.vault import vault_of

POSITION = "reasoner.position.extract"
TRIES = 3
"""How often a model is asked about one memory before the fact is given up to the dead letters."""

PAUSE, LONGEST_PAUSE = 2.0, 10.0


class Linker:
    """Asks a model about each remembered memory. The position is kept in a bucket, so one process at a time links."""

    def __init__(
        self,
        bus: Bus,
        chat: ChatModel,
        positions: KeyValue,
        slots: Slots,
        now: Callable[[], datetime],
        *,
        budget: Budget | None = None,
        most_said: int = 0,
    ) -> None:
        self._budget = budget
        self._most_said = most_said
        self._bus = bus
        self._chat = chat
        self._positions = positions
        self._slots = slots
        self._now = now
        self._linked: set[int] = set()

    async def position(self) -> int:
        """The LOG sequence up to which memories are linked; 0 for none, which begins with the oldest on the log."""
        value = await self._positions.get(POSITION)
        return int(value.split()[0]) if value else 0

    async def appended(self) -> datetime | None:
        """When the fact at the position was appended to the LOG, where that is known."""
        _, _, text = (await self._positions.get(POSITION) or b"").partition(b" ")
        return datetime.fromisoformat(text.decode()) if text else None

    async def rewind(self, sequence: int) -> None:
        """Go on behind a sequence of the LOG, which has lost what was linked beyond it."""
        await self._positions.put(POSITION, str(sequence).encode())

    async def remembered(self, deliveries: Sequence[Delivery[Any]]) -> Sequence[Outcome]:
        """Link memories. A repeat appends nothing twice: a fact's id derives from the command's.

        While the model or the broker is away this raises, and the batch comes again; what of it is linked already is
        not asked about a second time. What the model cannot do for one memory is that delivery's outcome.
        """
        outcomes = await asyncio.gather(*(self._outcome(delivery) for delivery in deliveries))
        away = next((outcome for outcome in outcomes if isinstance(outcome, EngramError) and is_away(outcome)), None)
        if away is not None:
            await asyncio.sleep(min(away.retry_after or PAUSE, LONGEST_PAUSE))
            raise away
        last = deliveries[-1]
        await self._positions.put(POSITION, f"{last.sequence} {last.at.isoformat()}".encode())
        self._linked.clear()
        return outcomes

    async def _outcome(self, delivery: Delivery[Remembered]) -> Outcome:
        if delivery.sequence in self._linked:
            return None
        try:
            await self._link(delivery)
        except EngramError as error:
            return error
        self._linked.add(delivery.sequence)
        return None

    async def _link(self, delivery: Delivery[Remembered]) -> None:
        """Ask the model and append what it finds; nothing where the tenant's plan leaves no tokens for it, and
        nothing of a tenant whose text is encrypted, for names in the graph are not."""
        fact = delivery.message
        if vault_of(self._bus).seals(delivery.tenant):
            return
        async with self._slots.of(delivery.tenant), self._reserve(delivery.tenant, fact) as reservation:
            if not reservation.granted:
                return
            found, reservation.use = await self._find(fact)
        await self._append(delivery, found, reservation.use)

    def _reserve(self, tenant: str, fact: Remembered) -> AbstractAsyncContextManager[Reservation]:
        if self._budget is None:
            return nullcontext(Reservation(True))
        cost = sum(estimate(message.content) for message in conversation(fact.memory)) + self._most_said
        return self._budget.reserve(tenant, cost)

    async def _find(self, fact: Remembered) -> tuple[Relations, ModelUse]:
        """What the model finds, and what all tries cost. Asked again, it may do better."""
        use = ModelUse()
        for tried in range(1, TRIES + 1):
            try:
                completion = await self._chat.complete(conversation(fact.memory), as_json=True)
                use = _sum(use, completion.use)
                return relations(completion.text, fact.memory), use
            except Internal:
                if tried == TRIES:
                    raise
        raise AssertionError("the last try answers or raises")

    async def _append(self, delivery: Delivery[Remembered], found: Relations, use: ModelUse) -> None:
        fact = delivery.message
        linked = Linked(
            command=fact.command,
            accepted_at=fact.accepted_at,
            at=self._now(),
            actor=fact.actor,
            memory_id=fact.memory.id,
            nodes=found.nodes,
            edges=found.edges,
            use=use,
        )
        entry = Entry(
            subject=log_subject(delivery.tenant, Linked.event),
            body=linked.encode(),
            id=derived_id(fact.command, Linked.event),
            correlation=delivery.correlation,
            trace=delivery.trace,
        )
        outcome = (await self._bus.append([entry]))[0]
        if not isinstance(outcome, Appended):
            raise outcome


def _sum(one: ModelUse, other: ModelUse) -> ModelUse:
    return ModelUse(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        calls=one.calls + other.calls,
        estimated=one.estimated or other.estimated,
        cost=None if other.cost is None else (one.cost or 0.0) + other.cost,
    )
