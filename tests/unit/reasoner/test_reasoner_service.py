"""The reasoner on a real broker: questions survive a model that is away, and are answered once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from engram_contracts.commands import Think
from engram_contracts.events import Thinking
from engram_contracts.facts import Linked, Thought
from engram_contracts.ids import new_id
from engram_contracts.questions import FindJob, Found, Recall, Recollection
from engram_contracts.topology import CONSUMERS, DEAD, EXTRACT_LOG, LOG, WORK, log_subject, work_subject
from engram_reasoner.service import open_service
from engram_reasoner.settings import LlmSettings, ReasonerSettings, Settings
from engram_runtime.bus import Entry, Stored
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.service import Service
from engram_runtime.settings import NatsSettings
from support.fake_model import FakeModel, Reply, fake_model
from support.metering_story import remembered
from support.recalled import recollection
from support.servers import NatsServer, nats_server

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def broker(tmp_path: Path) -> Any:
    with nats_server(tmp_path / "nats") as server:
        yield server


@asynccontextmanager
async def thinking(
    server: NatsServer, model: FakeModel | None = None, *, extract: bool = False
) -> AsyncIterator[NatsBus]:
    """A reasoner, with somebody in place of vectors and graph."""
    llm = LlmSettings(base_url=model.base_url, model="m-1", api_key=SecretStr(KEY)) if model else LlmSettings()
    settings = Settings(nats=NatsSettings(url=server.url), llm=llm, reasoner=ReasonerSettings(extract=extract))

    async def recall(_: Recall) -> Recollection:
        return recollection(best=[3])

    async def job(_: FindJob) -> Found:
        return Found()

    async with (
        open_bus(settings.nats, name="test", durability="process") as bus,
        open_bus(settings.nats, name="others", durability="process") as others,
    ):
        await provision(bus.jetstream, consumers=(*CONSUMERS, EXTRACT_LOG))
        stand_ins = (Service(name="vectors", answers={Recall: recall}), Service(name="graph", answers={FindJob: job}))
        async with (
            hosted(stand_ins[0], others, settings),
            hosted(stand_ins[1], others, settings),
            open_service(settings, bus) as service,
            hosted(service, bus, settings),
        ):
            yield bus


def question(text: str = "What is Tom's dog called?") -> tuple[Think, Entry]:
    command = Think(id=new_id(), accepted_at=datetime.now(UTC), question=text)
    return command, Entry(subject=work_subject("acme", "think"), body=command.encode(), id=command.id)


async def stored(bus: NatsBus, stream: Any, *, count: int, seconds: float = 15.0) -> list[Stored]:
    """What the stream holds, once that is `count` messages."""
    async with asyncio.timeout(seconds):
        while (state := (await bus.jetstream.stream_info(stream.name)).state).messages != count:
            await asyncio.sleep(0.01)
    found = [await bus.read(stream, state.first_seq + place) for place in range(count)]
    return [message for message in found if message]


async def test_a_question_is_answered_from_memories_without_a_model(broker: NatsServer) -> None:
    command, entry = question()

    async with thinking(broker) as bus, bus.events("acme", Thinking) as heard:
        await bus.append([entry])
        async with asyncio.timeout(10):
            event = await anext(aiter(heard))
        (message,) = await stored(bus, LOG, count=1)
        await stored(bus, WORK, count=0)

    thought = Thought.model_validate_json(message.body)
    assert (thought.command, thought.mode) == (command.id, "extractive")
    assert "Juno" in thought.answer
    assert thought.citations[0].memory_id == "m3"
    assert event.thought == thought


async def test_a_storm_of_refusals_ends_in_one_answer(broker: NatsServer) -> None:
    async with fake_model(Reply(text="Juno [1].")) as model:
        storm = (Reply(status=429, retry_after="0.1"), Reply(text="J", ill="truncate"))
        model.then(*storm)
        async with thinking(broker, model) as bus:
            await bus.append([question()[1]])
            (message,) = await stored(bus, LOG, count=1, seconds=30)
            await stored(bus, WORK, count=0)

        thought = Thought.model_validate_json(message.body)
        assert (thought.answer, thought.mode, thought.model) == ("Juno [1].", "model", "m-1")
        assert [citation.memory_id for citation in thought.citations] == ["m3"]
        assert len(model.calls) == len(storm) + 1


async def test_a_question_the_model_refuses_for_good_is_buried_without_the_key(broker: NatsServer) -> None:
    async with fake_model(Reply(status=401, words=f"bad key {KEY}")) as model, thinking(broker, model) as bus:
        await bus.append([question()[1]])
        await stored(bus, DEAD, count=1)
        raw = await bus.jetstream.get_msg(DEAD.name, seq=1)
        await stored(bus, LOG, count=0)

    headers = raw.headers or {}
    assert headers["Engram-Dead-Why"] == "never"
    assert "the model answered 401: bad key [key]" in headers["Engram-Dead-Reason"]
    assert KEY not in str(headers)


async def test_many_questions_are_each_answered_once(broker: NatsServer) -> None:
    questions = [question(f"Question {n} about Tom's dog?") for n in range(60)]

    async with thinking(broker) as bus:
        await bus.append([entry for _, entry in questions])
        messages = await stored(bus, LOG, count=60)

    assert {Thought.model_validate_json(message.body).command for message in messages} == {
        command.id for command, _ in questions
    }


async def test_relations_follow_the_memories_on_the_log(broker: NatsServer) -> None:
    found = '{"nodes": ["person:Ann", "place:Oslo"], "edges": [["person:Ann", "lives_in", "place:Oslo"]]}'
    fact = remembered(1, 1, "Ann lives in Oslo.")

    async with fake_model(Reply(text=found)) as model, thinking(broker, model, extract=True) as bus:
        model.then(Reply(status=503, retry_after="0.05"))
        await bus.append([Entry(subject=log_subject("acme", "remembered"), body=fact.encode(), id=fact.command)])
        _, message = await stored(bus, LOG, count=2)

    linked = Linked.model_validate_json(message.body)
    assert message.subject == log_subject("acme", "linked")
    assert linked.edges == (("person:Ann", "lives_in", "place:Oslo"),)
