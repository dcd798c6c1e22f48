"""What the reasoner does with each message, as plain typed methods."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from engram_contracts.commands import Command, Think
from engram_contracts.errors import Conflict, EngramError
from engram_contracts.events import Thinking
from engram_contracts.facts import Thought
from engram_contracts.questions import ContextSource, FindJob, PackContext, PackedContext, Recall, Recollection
from engram_contracts.topology import LOG, log_subject
from engram_reasoner.budget import SPENT, Budget
from engram_reasoner.context import Source, happened, pack, text_of
from engram_reasoner.ports import Answer, Inquiry, Relay, Thinker
from engram_reasoner.prompt import prompt_tokens
from engram_reasoner.slots import Slots
from engram_reasoner.thinker_extractive import ExtractiveThinker
from engram_reasoner.voice import Voice
from engram_runtime.bus import Appended, Bus, Entry
from engram_runtime.service import Delivery, Outcome

log = logging.getLogger(__name__)

RECALL_SECONDS = 2.0
RECORD_SECONDS = 0.5
RECALLS_AT_ONCE = 1
"""Of a crowd of questions so many recall at a time: people's own recalls wait behind no more of them."""


class Handlers:
    """Answers questions: recall, pack, think, append. `slots` bounds how many thinkers are busy at once.

    `budget` sets aside what a call of a model may cost, with up to `most_said` tokens of an answer; where a tenant's
    plan does not leave so many, the answer is taken from the memories alone.
    """

    def __init__(
        self,
        bus: Bus,
        thinker: Thinker,
        slots: Slots,
        *,
        context_tokens: int,
        now: Callable[[], datetime],
        budget: Budget | None = None,
        most_said: int = 0,
    ) -> None:
        self._bus = bus
        self._thinker = thinker
        self._context_tokens = context_tokens
        self._slots = slots
        self._recalls = asyncio.Semaphore(RECALLS_AT_ONCE)
        self._now = now
        self._budget = budget
        self._most_said = most_said
        self._without_model = ExtractiveThinker()

    async def think(self, deliveries: Sequence[Delivery[Command]]) -> Sequence[Outcome]:
        """Answer questions, each on its own. A repeat gives the first answer again, once the record holds it."""
        return await asyncio.gather(*(self._outcome(delivery) for delivery in deliveries))

    async def context(self, question: PackContext) -> PackedContext:
        """Memories for somebody else's prompt, packed as for our own."""
        recall = Recall(
            tenant=question.tenant, query=question.query, limit=question.limit, filters=question.filters,
            as_of=question.as_of, min_score=question.min_score, fold="near",
            deadline_ms=int(RECALL_SECONDS * 1000),
        )  # fmt: skip
        recollection = await self._bus.ask(recall, within=RECALL_SECONDS)
        context = pack(recollection.hits, budget=question.budget, order=question.order)
        return PackedContext(
            text=text_of(context),
            sources=tuple(_shown(source) for source in context.sources),
            tokens=context.tokens,
            left_out=context.left_out,
            degraded=recollection.degraded,
        )

    async def _outcome(self, delivery: Delivery[Command]) -> Outcome:
        command = cast(Think, delivery.message)
        try:
            recorded = await self._recorded(delivery.tenant, command)
            thinking = Thinking(thought=recorded) if recorded else await self._think(delivery, command)
            await self._announce(delivery.tenant, thinking)
        except EngramError as error:
            return error
        return None

    async def _recorded(self, tenant: str, command: Think) -> Thought | None:
        """The answer given before, so that a repeat does not cost another; `None` where it cannot be told."""
        try:
            job = await self._bus.ask(FindJob(tenant=tenant, command=command.id), within=RECORD_SECONDS)
        except EngramError:
            return None
        return job.found.thought if job.found else None

    async def _think(self, delivery: Delivery[Command], command: Think) -> Thinking:
        recall = Recall(
            tenant=delivery.tenant, query=command.question, limit=command.limit, filters=command.filters,
            deadline_ms=int(RECALL_SECONDS * 1000),
        )  # fmt: skip
        async with self._recalls:
            recollection = await self._bus.ask(recall, within=RECALL_SECONDS)
        inquiry = Inquiry(
            question=command.question,
            context=pack(recollection.hits, budget=self._context_tokens),
            asked_at=command.accepted_at,
            model=command.model,
        )
        voice = Voice(self._bus, delivery.tenant, command.id)
        async with self._slots.of(delivery.tenant):
            answer = await self._answer(delivery.tenant, inquiry, voice.say)
        await voice.end()
        thought = await self._append(delivery, self._thought(command, recollection, answer))
        return Thinking(thought=thought, stream=voice.stream, pieces=voice.pieces)

    async def _answer(self, tenant: str, inquiry: Inquiry, relay: Relay) -> Answer:
        if self._budget is None or not inquiry.context.sources:
            return await self._thinker.answer(inquiry, relay)
        cost = prompt_tokens(inquiry) + self._most_said
        async with self._budget.reserve(tenant, cost) as reservation:
            if not reservation.granted:
                answer = await self._without_model.answer(inquiry, relay)
                return replace(answer, degraded=(*answer.degraded, SPENT))
            answer = await self._thinker.answer(inquiry, relay)
            reservation.use = answer.use
            return answer

    def _thought(self, command: Think, recollection: Recollection, answer: Answer) -> Thought:
        return Thought(
            command=command.id,
            accepted_at=command.accepted_at,
            at=self._now(),
            actor=command.actor,
            question=command.question,
            answer=answer.text,
            mode=answer.mode,
            model=answer.model,
            citations=answer.citations,
            use=answer.use,
            degraded=(*recollection.degraded, *answer.degraded),
        )

    async def _append(self, delivery: Delivery[Command], thought: Thought) -> Thought:
        """Put the thought on the LOG; the one that counts, which is the first of this command."""
        entry = Entry(
            subject=log_subject(delivery.tenant, Thought.event),
            body=thought.encode(),
            id=thought.command,
            correlation=delivery.correlation,
            trace=delivery.trace,
        )
        outcome = (await self._bus.append([entry]))[0]
        if not isinstance(outcome, Appended):
            raise outcome
        first = await self._bus.read(LOG, outcome.sequence) if outcome.duplicate else None
        if first is None:
            return thought
        if first.subject != entry.subject:
            raise Conflict(f"command {thought.command} was used before; give the question an id of its own")
        return Thought.model_validate_json(first.body)

    async def _announce(self, tenant: str, thinking: Thinking) -> None:
        """Tell who listens. The thought is on the LOG by now, so a broker that is away is no failure."""
        try:
            await self._bus.emit(tenant, thinking)
        except EngramError as error:
            log.warning(
                "thought not announced",
                extra={"tenant": tenant, "command": thinking.thought.command, "why": error.code},
            )


def _shown(source: Source) -> ContextSource:
    memory = source.memory
    return ContextSource(
        number=source.number,
        memory_id=memory.id,
        text=source.text,
        score=source.score,
        when=happened(memory),
        speaker=memory.speaker,
        session_id=memory.session_id,
        kind=memory.kind,
        cut=source.text != memory.content,
    )
