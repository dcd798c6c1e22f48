"""The embedder on a real broker: work in, facts out, questions answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from engram_contracts.commands import Command, Forget, Remember, Revise
from engram_contracts.errors import Rejected
from engram_contracts.events import Progress
from engram_contracts.facts import Remembered
from engram_contracts.ids import new_id
from engram_contracts.memory import MemoryFields
from engram_contracts.questions import EmbedQuery
from engram_contracts.topology import DEAD, EMBED_NOW, LOG, WORK, Stream, work_subject
from engram_embedder.service import open_service
from engram_embedder.settings import EmbedderSettings, Settings
from engram_runtime.bus import Appended, Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from support.servers import nats_server


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[NatsBus]:
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            await provision(bus.jetstream)
            yield bus


@contextlib.asynccontextmanager
async def running(bus: NatsBus, folder: Path, **embedder: Any) -> AsyncIterator[None]:
    settings = Settings(data_dir=folder, embedder=EmbedderSettings(**embedder))
    async with open_service(settings, bus) as service, hosted(service, bus, settings):
        yield


def entry(command: Command, *, urgency: Any = "interactive") -> Entry:
    return Entry(subject=work_subject("acme", command.op, urgency), body=command.encode(), id=command.id)


def remember(content: str) -> Remember:
    now = datetime.now(UTC)
    return Remember(id=new_id(), accepted_at=now, memory_id=new_id(), memory=MemoryFields(content=content))


async def holds(bus: NatsBus, stream: Stream, messages: int) -> None:
    """Wait until a stream holds so many messages."""
    async with asyncio.timeout(10):
        while (await bus.jetstream.stream_info(stream.name)).state.messages != messages:
            await asyncio.sleep(0.01)


async def test_commands_of_both_lanes_become_facts_and_leave_the_queue(bus: NatsBus, tmp_path: Path) -> None:
    commands = [remember(f"memory number {n}") for n in range(100)]
    await bus.append([entry(c, urgency="bulk" if n % 2 else "interactive") for n, c in enumerate(commands)])

    async with running(bus, tmp_path):
        await holds(bus, LOG, 100)
        await holds(bus, WORK, 0)

    stored = [await bus.read(LOG, sequence) for sequence in range(1, 101)]
    facts = [Remembered.model_validate_json(message.body) for message in stored if message]
    assert {fact.command for fact in facts} == {command.id for command in commands}
    assert all(len(fact.embedding.chunks[0].floats()) == 256 for fact in facts)


async def test_what_can_never_be_done_lies_with_the_dead_and_hinders_nothing(bus: NatsBus, tmp_path: Path) -> None:
    bad = Revise(id=new_id(), accepted_at=datetime.now(UTC), memory_id=new_id(), changes={"importance": 7})
    good = remember("still kept")
    await bus.append([entry(bad), entry(good)])

    async with running(bus, tmp_path):
        await holds(bus, LOG, 1)
        await holds(bus, DEAD, 1)
        await holds(bus, WORK, 0)


async def test_a_change_waits_for_its_memory_which_is_in_the_hands_of_somebody_else(
    bus: NatsBus, tmp_path: Path
) -> None:
    identity = new_id()
    now = datetime.now(UTC)
    made = Remember(id=identity, accepted_at=now, memory_id=identity, memory=MemoryFields(content="short-lived"))
    (appended,) = await bus.append([entry(made)])
    assert isinstance(appended, Appended)
    held = await in_the_hands_of_another(bus, entry(made).subject)
    forget = Forget(id=new_id(), accepted_at=now, memory_id=identity, behind=appended.sequence)
    other = remember("of the same tenant, and in no hurry")
    await bus.append([entry(forget), entry(other)])

    async with running(bus, tmp_path):
        await holds(bus, LOG, 1)
        await held.nak()
        await holds(bus, WORK, 0)

    stored = [await bus.read(LOG, sequence) for sequence in range(1, 4)]
    assert [message.id for message in stored if message] == [other.id, made.id, forget.id]
    assert (await bus.jetstream.stream_info(DEAD.name)).state.messages == 0


async def test_a_change_behind_a_place_that_no_stream_has_hinders_nobody(bus: NatsBus, tmp_path: Path) -> None:
    forget = Forget(id=new_id(), accepted_at=datetime.now(UTC), memory_id=new_id())
    beyond = entry(forget).body[:-1] + b',"behind":%d}' % 2**64
    other = remember("of the same tenant")
    await bus.append([Entry(subject=entry(forget).subject, body=beyond, id=forget.id), entry(other)])

    async with running(bus, tmp_path):
        await holds(bus, DEAD, 1)
        await holds(bus, LOG, 1)
        await holds(bus, WORK, 0)


async def in_the_hands_of_another(bus: NatsBus, subject: str) -> Msg:
    """A message that was delivered to somebody who does not answer for it."""
    lane = next(each for each in EMBED_NOW if each.filters[0].split(".")[2] == subject.split(".")[2])
    pulling = await bus.jetstream.pull_subscribe_bind(lane.name, stream=WORK.name)
    (message,) = await pulling.fetch(1, timeout=5)
    return message


async def test_progress_is_heard_and_queries_are_answered(bus: NatsBus, tmp_path: Path) -> None:
    command = remember("Melanie painted a sunrise")

    async with running(bus, tmp_path), bus.events("acme", Progress) as events:
        await bus.append([entry(command)])
        progress = await asyncio.wait_for(anext(events), 10)
        vectors = await bus.ask(EmbedQuery(text="who painted?"), within=5)

    assert (progress.stage, progress.commands, progress.memory_ids) == ("embedded", (command.id,), (command.memory_id,))
    assert (vectors.model, len(vectors.dense)) == ("static/wordllama-256@256", 512)


async def test_another_model_is_refused_on_the_same_broker(bus: NatsBus, tmp_path: Path) -> None:
    async with running(bus, tmp_path):
        pass

    with pytest.raises(Rejected, match="cannot be mixed"):
        async with running(bus, tmp_path, dimension=64):
            pass
