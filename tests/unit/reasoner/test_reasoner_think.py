"""Thinking as a handler: what is asked, what is appended, what is announced, and when it counts as done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engram_contracts.commands import Think
from engram_contracts.errors import Conflict, EngramError, NotFound, Overloaded, Unavailable
from engram_contracts.events import Thinking
from engram_contracts.facts import Citation, ModelUse, Thought
from engram_contracts.ids import new_id
from engram_contracts.memory import Filters
from engram_contracts.questions import FindJob, Found, JobRecord, Recall, Recollection
from engram_contracts.topology import log_subject
from engram_reasoner.handlers import Handlers
from engram_reasoner.ports import Answer, Inquiry, Relay, Thinker, unheard
from engram_reasoner.slots import Slots
from engram_reasoner.thinker_extractive import ExtractiveThinker
from engram_runtime.bus import Entry
from engram_runtime.service import Delivery, Outcome
from support.recalled import recollection
from support.recording_bus import RecordingBus

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ANSWER = Answer(
    text="Juno [1].", mode="model", model="m-1", citations=(Citation(memory_id="m3", quote="Juno", score=0.9),),
    use=ModelUse(prompt_tokens=10, completion_tokens=2, calls=1), degraded=("model: was cut",),
)  # fmt: skip


class Scripted:
    """A thinker that answers, or fails, as told, and keeps what it was asked."""

    def __init__(self, *results: Answer | EngramError) -> None:
        self.results = list(results)
        self.asked: list[Inquiry] = []
        self.busy = self.busiest = 0

    async def answer(self, inquiry: Inquiry, relay: Relay = unheard) -> Answer:
        self.asked.append(inquiry)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(0)
        self.busy -= 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, EngramError):
            raise result
        return result


def bus(recalled: Recollection | EngramError | None = None, thought: Thought | None = None) -> RecordingBus:
    async def recall(_: Recall) -> Recollection:
        if isinstance(recalled, EngramError):
            raise recalled
        return recalled or recollection(best=[3])

    async def job(_: FindJob) -> Found:
        if thought is None:
            return Found()
        return Found(found=JobRecord(accepted_at=NOW, embedded_at=NOW, linked_at=NOW, thought=thought))

    return RecordingBus(answers={Recall: recall, FindJob: job})


def command(question: str = "What is Tom's dog called?", **fields: Any) -> Think:
    return Think(id=new_id(), accepted_at=NOW - timedelta(seconds=1), question=question, actor="key-1", **fields)


def delivered(think: Think, tenant: str = "acme") -> Delivery[Any]:
    return Delivery(tenant=tenant, event="think", message=think, sequence=1, at=NOW, correlation="c-1")


async def think(
    on: RecordingBus, thinker: Thinker, *commands: Think, slots: int = 8, budget: int = 4_000
) -> Sequence[Outcome]:
    handlers = Handlers(on, thinker, Slots(slots), context_tokens=budget, now=lambda: NOW)
    return await handlers.think([delivered(think) for think in commands])


async def test_an_answer_is_appended_under_the_commands_id_and_then_announced() -> None:
    on, asked = bus(), command()

    outcomes = await think(on, Scripted(ANSWER), asked)

    assert outcomes == [None]
    (entry,) = on.entries
    thought = Thought.model_validate_json(entry.body)
    assert (entry.subject, entry.id, entry.correlation) == (log_subject("acme", "thought"), asked.id, "c-1")
    assert (thought.command, thought.accepted_at, thought.at, thought.actor) == (
        asked.id,
        asked.accepted_at,
        NOW,
        "key-1",
    )
    assert (thought.question, thought.answer, thought.mode, thought.model) == (
        asked.question, "Juno [1].", "model", "m-1",
    )  # fmt: skip
    assert (thought.citations, thought.use) == (ANSWER.citations, ANSWER.use)
    *said, (tenant, thinking) = on.emitted
    assert tenant == "acme" and isinstance(thinking, Thinking) and thinking.thought == thought
    assert thinking.pieces == len(said)


async def test_the_recall_is_the_questions_and_has_two_seconds() -> None:
    on = bus()
    filters = Filters(user_id="u-1", tags=("home",))

    await think(on, Scripted(ANSWER), command("Who?", limit=3, filters=filters))

    recalls = [question for question in on.asked if isinstance(question, Recall)]
    assert recalls == [Recall(tenant="acme", query="Who?", limit=3, filters=filters, deadline_ms=2_000)]


async def test_the_thinker_gets_a_context_within_the_budget_and_the_model_asked_for() -> None:
    on, thinker = bus(), Scripted(ANSWER)

    await think(on, thinker, command(model="m-2"), budget=256)

    (inquiry,) = thinker.asked
    assert inquiry.context.tokens <= 256
    assert inquiry.context.sources[0].memory.id == "m3"
    assert (inquiry.model, inquiry.asked_at) == ("m-2", NOW - timedelta(seconds=1))


async def test_a_degraded_recall_makes_a_degraded_thought() -> None:
    on = bus(recollection(degraded=("graph: away",)))

    await think(on, Scripted(ANSWER), command())

    assert Thought.model_validate_json(on.entries[0].body).degraded == ("graph: away", "model: was cut")


async def test_without_a_model_a_model_asked_for_is_ignored_and_the_thought_says_so() -> None:
    on = bus()

    await think(on, ExtractiveThinker(), command(model="gpt-x"))

    thought = Thought.model_validate_json(on.entries[0].body)
    assert (thought.mode, thought.model) == ("extractive", None)
    assert thought.degraded == ("model: 'gpt-x' was ignored, no model is configured",)
    assert "Juno" in thought.answer


@pytest.mark.parametrize("error", [Unavailable("vectors are away"), NotFound("no")])
async def test_a_recall_that_fails_is_the_outcome(error: EngramError) -> None:
    on, thinker = bus(error), Scripted(ANSWER)

    outcomes = await think(on, thinker, command())

    assert outcomes == [error]
    assert (thinker.asked, on.entries, on.emitted) == ([], [], [])


async def test_a_model_that_fails_is_the_outcome_with_its_advice() -> None:
    on, error = bus(), Overloaded("full", retry_after=7.0)

    outcomes = await think(on, Scripted(error), command())

    assert outcomes == [error]
    assert on.entries == []


async def test_an_answer_that_cannot_be_appended_is_not_done_and_not_announced() -> None:
    on, error = bus(), Unavailable("broker")
    on.refuse = lambda _: error

    outcomes = await think(on, Scripted(ANSWER), command())

    assert outcomes == [error]
    assert on.emitted == []


async def test_an_answer_that_cannot_be_announced_is_done() -> None:
    class Mute(RecordingBus):
        async def emit(self, tenant: str, event: Any) -> None:
            raise Unavailable("broker")

    on = Mute(answers=bus().answers)

    assert await think(on, Scripted(ANSWER), command()) == [None]
    assert len(on.entries) == 1


async def test_a_repeat_gives_the_first_answer_from_the_log() -> None:
    on, asked = bus(), command()
    second = Answer(text="Someone else.", mode="model")

    outcomes = await think(on, Scripted(ANSWER, second), asked, asked)

    assert outcomes == [None, None]
    assert len(on.entries) == 1
    assert [event.thought.answer for _, event in on.emitted if isinstance(event, Thinking)] == ["Juno [1]."] * 2


async def test_a_repeat_whose_answer_is_on_record_costs_no_model_call() -> None:
    asked = command()
    first = Thought(command=asked.id, accepted_at=NOW, at=NOW, question="Who?", answer="Juno.", mode="model")
    on, thinker = bus(thought=first), Scripted(ANSWER)

    outcomes = await think(on, thinker, asked)

    assert outcomes == [None]
    assert (thinker.asked, on.entries) == ([], [])
    assert on.emitted == [("acme", Thinking(thought=first))]


async def test_a_record_that_is_away_does_not_keep_from_thinking() -> None:
    on = bus()
    del on.answers[FindJob]

    assert await think(on, Scripted(ANSWER), command()) == [None]


async def test_a_command_id_that_another_tenant_used_gives_nothing_of_it_away() -> None:
    on, asked = bus(), command()
    theirs = Thought(command=asked.id, accepted_at=NOW, at=NOW, question="?", answer="their secret", mode="model")
    await on.append([Entry(subject=log_subject("globex", "thought"), body=theirs.encode(), id=asked.id)])

    (outcome,) = await think(on, Scripted(ANSWER), asked)

    assert isinstance(outcome, Conflict)
    assert on.emitted == []


async def test_no_more_think_at_once_than_there_are_slots() -> None:
    thinker = Scripted(ANSWER)

    outcomes = await think(bus(), thinker, *(command() for _ in range(20)), slots=3)

    assert outcomes == [None] * 20
    assert thinker.busiest == 3
