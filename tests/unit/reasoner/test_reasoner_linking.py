"""Relations from memories by a model: appended once, and never in anybody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from engram_contracts.errors import EngramError, Internal, Overloaded, Rejected, Unavailable
from engram_contracts.facts import Linked
from engram_contracts.ids import derived_id
from engram_contracts.topology import SETTINGS, log_subject
from engram_reasoner.chat_openai import open_chat
from engram_reasoner.linking import Linker
from engram_reasoner.settings import LlmSettings
from engram_reasoner.slots import Slots
from engram_runtime.service import Outcome
from support.fake_model import FakeModel, Reply, fake_model
from support.metering_story import BEGIN, Step, remembered
from support.metering_story import deliveries as counted
from support.recording_bus import RecordingBus

OSLO = Reply(text='{"nodes": ["person:Ann", "place:Oslo"], "edges": [["person:Ann", "lives_in", "place:Oslo"]]}')
TEXT = "Ann lives in Oslo."


@pytest.fixture
async def model() -> AsyncIterator[FakeModel]:
    async with fake_model(OSLO) as running:
        yield running


class Linking:
    """A linker with what it is given, which can be started again with nothing but what it stored."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self.bus = RecordingBus()

    async def __call__(self, *commands: int) -> Sequence[Outcome]:
        async with open_chat(LlmSettings(base_url=self.model.base_url, model="fake")) as chat:
            return await self.linker(chat).remembered(facts(*commands))

    def linker(self, chat: Any) -> Linker:
        return Linker(self.bus, chat, self.bus.bucket(SETTINGS), Slots(4), lambda: BEGIN)

    async def position(self) -> int:
        return await self.linker(None).position()


@pytest.fixture
def link(model: FakeModel) -> Linking:
    return Linking(model)


def facts(*commands: int) -> list[Any]:
    told = [Step("acme", remembered(number, number, TEXT)) for number in commands]
    return [
        type(delivery)(
            tenant=delivery.tenant, event=delivery.event, message=step.fact, sequence=delivery.sequence,
            at=delivery.at, correlation="c-1",
        )
        for step, delivery in zip(told, counted(told, first=commands[0]), strict=True)
    ]  # fmt: skip


async def test_what_the_model_finds_is_appended_with_its_cost(link: Linking) -> None:
    outcomes = await link(1)

    (entry,) = link.bus.entries
    linked, fact = Linked.model_validate_json(entry.body), facts(1)[0].message
    assert outcomes == [None]
    assert (entry.subject, entry.id) == (log_subject("acme", "linked"), derived_id(fact.command, "linked"))
    assert (linked.command, linked.memory_id, linked.accepted_at) == (fact.command, fact.memory.id, fact.accepted_at)
    assert linked.nodes == ("person:Ann", "place:Oslo")
    assert linked.edges == (("person:Ann", "lives_in", "place:Oslo"),)
    assert (linked.use.prompt_tokens, linked.use.completion_tokens, linked.use.calls) == (100, 20, 1)
    assert link.model.calls[0].body["response_format"] == {"type": "json_object"}


async def test_the_position_moves_with_what_is_linked(link: Linking) -> None:
    assert await link.position() == 0

    await link(1, 2, 3)

    assert await link.position() == 3


async def test_a_repeat_appends_nothing(link: Linking) -> None:
    await link(1, 2)
    await link(1, 2)

    assert len(link.bus.entries) == 2


async def test_rubbish_is_asked_about_again_and_its_cost_counts(link: Linking) -> None:
    link.model.then(Reply(text="no json"), Reply(text="{}"))

    outcomes = await link(1)

    linked = Linked.model_validate_json(link.bus.entries[0].body)
    assert outcomes == [None]
    assert (linked.nodes, linked.use.calls, linked.use.prompt_tokens) == ((), 2, 200)


async def test_a_memory_the_model_cannot_do_is_given_up_alone(link: Linking) -> None:
    link.model.default = Reply(text=lambda body: "rubbish" if "Bad" in str(body) else str(OSLO.text))
    batch = facts(1, 2, 3)
    bad = batch[1].message.memory.model_copy(update={"content": "Bad."})
    object.__setattr__(batch[1], "message", batch[1].message.model_copy(update={"memory": bad}))

    async with open_chat(LlmSettings(base_url=link.model.base_url, model="fake")) as chat:
        outcomes = await link.linker(chat).remembered(batch)

    assert [type(outcome) for outcome in outcomes] == [type(None), Internal, type(None)]
    assert await link.position() == 3


async def test_a_refused_memory_is_given_up_at_once(link: Linking) -> None:
    link.model.default = Reply(status=400)

    (outcome,) = await link(1)

    assert isinstance(outcome, Rejected)
    assert len(link.model.calls) == 1


async def test_while_the_model_is_away_nothing_moves_and_what_is_done_is_not_asked_again(link: Linking) -> None:
    link.model.then(OSLO, Reply(status=429, retry_after="0.01"))

    async with open_chat(LlmSettings(base_url=link.model.base_url, model="fake")) as chat:
        linker = Linker(link.bus, chat, link.bus.bucket(SETTINGS), Slots(1), lambda: BEGIN)
        with pytest.raises(Overloaded):
            await linker.remembered(facts(1, 2))
        stood = await linker.position()
        outcomes = await linker.remembered(facts(1, 2))

    assert stood == 0
    assert outcomes == [None, None]
    assert len(link.model.calls) == 3
    assert await link.position() == 2


async def test_a_broker_that_is_away_is_waited_for(link: Linking) -> None:
    away: EngramError = Unavailable("broker", retry_after=0.01)
    link.bus.refuse = lambda _: away

    with pytest.raises(Unavailable):
        await link(1)

    assert await link.position() == 0
