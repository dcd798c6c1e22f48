from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from engram_contracts.commands import Command, Forget, Remember, Revise, Think
from engram_contracts.errors import Overloaded, Rejected, Unavailable
from engram_contracts.events import Progress
from engram_contracts.facts import FACTS, Fact, Forgotten, Remembered, Revised
from engram_contracts.ids import new_id
from engram_contracts.memory import MemoryFields
from engram_contracts.questions import EmbedQuery
from engram_contracts.topology import log_subject
from engram_embedder.embedding import Embedder
from engram_embedder.handlers import Handlers
from engram_embedder.ports import Embedded, normalised
from engram_embedder.sparse import SparseEncoder
from engram_embedder.stems import Stems
from engram_runtime.bus import Entry
from engram_runtime.service import Delivery
from support.fake_embeddings import bag_of_words
from support.recording_bus import RecordingBus

ACCEPTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = ACCEPTED + timedelta(seconds=1)
STEMS = Stems()


class FakeModel:
    """Counts words; notes every call; refuses texts with `poison` in them, and everything while `trouble` is set."""

    name = "fake/words"
    dimension = 16
    batch_size = 4
    batch_characters = 100_000
    concurrency = 1

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.trouble: Exception | None = None

    async def embed(self, texts: Sequence[str]) -> Embedded:
        self.calls.append(list(texts))
        if self.trouble:
            raise self.trouble
        if any("poison" in text for text in texts):
            raise Rejected("the model refuses this text")
        rows = np.array([bag_of_words(text, self.dimension) for text in texts], np.float32)
        return Embedded(normalised(rows), [len(text.split()) for text in texts])

    async def close(self) -> None: ...


class Room:
    """Handlers over a fake model and a recording bus."""

    def __init__(self) -> None:
        self.model = FakeModel()
        self.bus = RecordingBus()
        self.sparse = SparseEncoder(STEMS)
        self.handlers = Handlers(Embedder(self.model, self.sparse), self.bus, now=lambda: NOW)

    def facts(self) -> list[Any]:
        """What lies on the log, decoded."""
        return [decoded(entry) for entry in self.bus.entries]


def decoded(entry: Entry) -> Fact:
    return FACTS[entry.subject.split(".")[-1]].model_validate_json(entry.body)


@pytest.fixture
def room() -> Room:
    return Room()


def delivered(command: Command, *, tenant: str = "acme", correlation: str | None = None) -> Delivery[Command]:
    return Delivery(tenant=tenant, event=command.op, message=command, sequence=1, at=ACCEPTED, correlation=correlation)


def remember(content: str, **fields: Any) -> Remember:
    memory = MemoryFields(content=content, **fields)
    return Remember(id=new_id(), accepted_at=ACCEPTED, memory_id=new_id(), memory=memory, actor="key-1")


def revise(**changes: Any) -> Revise:
    return Revise(id=new_id(), accepted_at=ACCEPTED, memory_id=new_id(), changes=changes, actor="key-1")


async def test_a_memory_becomes_a_fact_on_its_tenants_log(room: Room) -> None:
    command = remember(
        "Melanie painted a sunrise", speaker="Melanie", tags=("art",), metadata={"a": None, "b": [1, "x"]}
    )

    outcomes = await room.handlers.ingest([delivered(command, correlation="corr-1")])

    (entry,) = room.bus.entries
    fact = decoded(entry)
    assert outcomes == [None]
    assert (entry.subject, entry.id, entry.correlation) == (log_subject("acme", "remembered"), command.id, "corr-1")
    assert isinstance(fact, Remembered)
    assert (fact.command, fact.accepted_at, fact.at, fact.actor) == (command.id, ACCEPTED, NOW, "key-1")
    assert fact.memory.model_dump(include=set(MemoryFields.model_fields)) == command.memory.model_dump()
    assert (fact.memory.id, fact.memory.version, fact.memory.state) == (command.memory_id, 1, "active")
    assert fact.memory.created_at == fact.memory.updated_at == ACCEPTED


async def test_the_dense_vector_is_of_the_content_alone_as_half_floats(room: Room) -> None:
    await room.handlers.ingest([delivered(remember("painted a sunrise", speaker="Melanie"))])

    embedding = room.facts()[0].embedding
    (chunk,) = embedding.chunks
    expected = normalised(np.array([bag_of_words("painted a sunrise", 16)], np.float32))[0]
    assert room.model.calls == [["painted a sunrise"]]
    assert (embedding.model, embedding.tokens) == ("fake/words@16", 3)
    assert (chunk.start, chunk.end) == (0, 17)
    assert chunk.floats() == pytest.approx(expected, abs=1e-3)


async def test_the_sparse_vector_knows_speaker_and_day_as_well(room: Room) -> None:
    day = datetime(2023, 5, 7, tzinfo=UTC)

    await room.handlers.ingest([delivered(remember("painted a sunrise", speaker="Melanie", occurred_at=day))])

    (chunk,) = room.facts()[0].embedding.chunks
    assert chunk.sparse == room.sparse.document("painted a sunrise", speaker="Melanie", occurred_at=day)
    assert set(room.sparse.query("Melanie in May").indices) <= set(chunk.sparse.indices)


async def test_a_long_memory_is_embedded_in_overlapping_chunks(room: Room) -> None:
    content = "".join(f"This is sentence number {n}. " for n in range(340))[:10_000]

    await room.handlers.ingest([delivered(remember(content, speaker="Ann"))])

    embedding = room.facts()[0].embedding
    chunks = embedding.chunks
    assert [text for call in room.model.calls for text in call] == [content[c.start : c.end] for c in chunks]
    assert (chunks[0].start, chunks[-1].end) == (0, len(content))
    assert all(a.start < b.start <= a.end for a, b in pairwise(chunks))
    assert all(set(room.sparse.query("Ann").indices) <= set(chunk.sparse.indices) for chunk in chunks)
    assert embedding.tokens >= len(content.split())


async def test_private_blocks_reach_neither_the_model_nor_the_log(room: Room) -> None:
    command = remember("code <private>hunter2</private> is kept")

    outcomes = await room.handlers.ingest([delivered(command)])

    assert outcomes == [None]
    assert room.facts()[0].memory.content == "code  is kept"
    assert room.model.calls == [["code  is kept"]]
    assert b"hunter2" not in room.bus.entries[0].body


async def test_a_memory_that_is_all_private_is_refused(room: Room) -> None:
    (outcome,) = await room.handlers.ingest([delivered(remember(" <private>all of it</private>\n"))])

    assert isinstance(outcome, Rejected)
    assert outcome.field == "memory.content"
    assert room.bus.entries == []


async def test_the_same_command_again_adds_nothing(room: Room) -> None:
    command = delivered(remember("once"))
    await room.handlers.ingest([command])

    outcomes = await room.handlers.ingest([command])

    assert outcomes == [None]
    assert len(room.bus.entries) == 1


async def test_changed_content_is_embedded_again(room: Room) -> None:
    command = revise(content="new words", speaker="Bo")

    await room.handlers.ingest([delivered(command)])

    (fact,) = room.facts()
    assert isinstance(fact, Revised)
    assert (fact.memory_id, fact.changes) == (command.memory_id, {"content": "new words", "speaker": "Bo"})
    assert fact.embedding is not None
    assert fact.embedding.chunks[0].sparse == room.sparse.document("new words", speaker="Bo")


@pytest.mark.parametrize("changes", [{"speaker": "Bo"}, {"importance": 0.9}, {"occurred_at": "2024-05-01T00:00:00Z"}])
async def test_other_changes_are_passed_on_without_embedding(room: Room, changes: dict[str, Any]) -> None:
    outcomes = await room.handlers.ingest([delivered(revise(**changes))])

    (fact,) = room.facts()
    assert outcomes == [None]
    assert fact.embedding is None
    assert fact.changes == changes
    assert room.model.calls == []


async def test_a_cleared_field_is_still_null_on_the_log(room: Room) -> None:
    await room.handlers.ingest([delivered(revise(speaker=None, metadata={"k": None}))])

    assert room.facts()[0].changes == {"speaker": None, "metadata": {"k": None}}


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"importance": 7}, "importance"), ({"colour": "red"}, "colour"), ({"content": None}, "content"),
     ({"tags": ["ok", 3]}, "tags.1"), ({"content": "<private>x</private>"}, "content")],
)  # fmt: skip
async def test_an_edit_that_is_not_valid_is_refused_with_its_field(
    room: Room, changes: dict[str, Any], field: str
) -> None:
    (outcome,) = await room.handlers.ingest([delivered(revise(**changes))])

    assert isinstance(outcome, Rejected)
    assert outcome.field == field
    assert field in outcome.message
    assert room.bus.entries == []


async def test_a_private_block_in_an_edit_is_taken_out(room: Room) -> None:
    await room.handlers.ingest([delivered(revise(content="a <private>b</private>c"))])

    assert room.facts()[0].changes == {"content": "a c"}


async def test_forgetting_becomes_a_fact(room: Room) -> None:
    command = Forget(id=new_id(), accepted_at=ACCEPTED, memory_id="m-1", actor="key-1")

    outcomes = await room.handlers.ingest([delivered(command)])

    (fact,) = room.facts()
    assert outcomes == [None]
    assert isinstance(fact, Forgotten)
    assert (fact.memory_id, fact.command, fact.accepted_at, fact.at) == ("m-1", command.id, ACCEPTED, NOW)


async def test_a_command_of_another_owner_is_refused(room: Room) -> None:
    (outcome,) = await room.handlers.ingest([delivered(Think(id=new_id(), accepted_at=ACCEPTED, question="why?"))])

    assert isinstance(outcome, Rejected)


async def test_a_batch_is_embedded_together_in_slices_and_appended_at_once_in_order(room: Room) -> None:
    commands: list[Command] = [remember(f"memory {n}") for n in range(9)]
    commands.insert(3, Forget(id=new_id(), accepted_at=ACCEPTED, memory_id="m-1"))

    outcomes = await room.handlers.ingest([delivered(command) for command in commands])

    assert outcomes == [None] * 10
    assert [len(call) for call in room.model.calls] == [4, 4, 1]
    assert room.bus.appends == [10]
    assert [fact.command for fact in room.facts()] == [command.id for command in commands]


async def test_slices_are_bounded_by_characters_too(room: Room) -> None:
    room.model.batch_characters = 50

    await room.handlers.ingest([delivered(remember(text)) for text in ("a" * 30, "b" * 30, "c" * 80, "d", "e")])

    assert [[text[0] for text in call] for call in room.model.calls] == [["a"], ["b"], ["c"], ["d", "e"]]


async def test_an_empty_batch_does_nothing(room: Room) -> None:
    assert await room.handlers.ingest([]) == []


async def test_each_item_fails_for_itself_alone(room: Room) -> None:
    good, poisoned, invalid, unstored = remember("good"), remember("poison"), revise(importance=7), remember("unstored")
    full = Overloaded("the log is full", retry_after=3.0)
    room.bus.refuse = lambda entry: full if entry.id == unstored.id else None

    outcomes = await room.handlers.ingest([delivered(c) for c in (good, poisoned, invalid, unstored)])

    assert outcomes[0] is None
    assert [type(outcome) for outcome in outcomes[1:3]] == [Rejected, Rejected]
    assert outcomes[3] is full
    assert [fact.command for fact in room.facts()] == [good.id]


async def test_a_long_memory_is_refused_whole_when_one_chunk_is(room: Room) -> None:
    content = "words and words. " * 100 + "poison. " + "more of these words. " * 100

    outcomes = await room.handlers.ingest([delivered(remember(content)), delivered(remember("fine"))])

    assert isinstance(outcomes[0], Rejected)
    assert outcomes[1] is None
    assert len(room.bus.entries) == 1


async def test_while_the_model_is_away_nothing_is_appended(room: Room) -> None:
    room.model.trouble = Unavailable("the model is away", retry_after=9.0)

    with pytest.raises(Unavailable) as caught:
        await room.handlers.ingest([delivered(remember(f"memory {n}")) for n in range(9)])

    assert caught.value.retry_after == 9.0
    assert len(room.model.calls) == 1
    assert room.bus.entries == []


async def test_progress_is_announced_once_a_tenant_for_what_is_done(room: Room) -> None:
    one, two, other, failed = remember("one"), remember("two"), remember("other"), remember("poison")
    batch = [delivered(one), delivered(other, tenant="beta"), delivered(two), delivered(failed, tenant="gamma")]

    await room.handlers.ingest(batch)

    assert room.bus.emitted == [
        (
            "acme",
            Progress(stage="embedded", commands=(one.id, two.id), memory_ids=(one.memory_id, two.memory_id), at=NOW),
        ),
        ("beta", Progress(stage="embedded", commands=(other.id,), memory_ids=(other.memory_id,), at=NOW)),
    ]


async def test_a_query_gets_both_vectors(room: Room) -> None:
    vectors = await room.handlers.embed_query(EmbedQuery(text="painted sunrise"))

    expected = normalised(np.array([bag_of_words("painted sunrise", 16)], np.float32)).astype("<f2").tobytes()
    assert vectors.model == "fake/words@16"
    assert vectors.dense == expected
    assert vectors.sparse == room.sparse.query("painted sunrise")


async def test_a_query_waits_for_one_slice_of_other_work_at_most(room: Room) -> None:
    bulk = asyncio.create_task(room.handlers.ingest_bulk([delivered(remember(f"bulk {n}")) for n in range(40)]))
    while len(room.model.calls) < 2:
        await asyncio.sleep(0)

    await room.handlers.embed_query(EmbedQuery(text="question"))

    assert room.model.calls.index(["question"]) <= 3
    assert not bulk.done()
    await bulk


async def test_interactive_work_overtakes_bulk_work(room: Room) -> None:
    bulk = asyncio.create_task(room.handlers.ingest_bulk([delivered(remember(f"bulk {n}")) for n in range(40)]))
    while len(room.model.calls) < 2:
        await asyncio.sleep(0)

    await room.handlers.ingest([delivered(remember(f"now {n}")) for n in range(8)])

    assert not bulk.done()
    assert len(room.model.calls) <= 6
    await bulk


async def test_a_query_the_model_refuses_is_refused(room: Room) -> None:
    with pytest.raises(Rejected):
        await room.handlers.embed_query(EmbedQuery(text="poison"))


async def test_the_check_is_good_until_the_model_fails_and_again_when_it_is_back(room: Room) -> None:
    before = await room.handlers.check_model()
    room.model.trouble = Unavailable("the model is away")
    with pytest.raises(Unavailable):
        await room.handlers.embed_query(EmbedQuery(text="question"))
    during = await room.handlers.check_model()
    room.model.trouble = None
    after = await room.handlers.check_model()

    assert (before.ok, during.ok, after.ok) == (True, False, True)
    assert during.detail == "the model is away"


async def test_a_refused_text_does_not_make_the_model_look_ill(room: Room) -> None:
    await room.handlers.ingest([delivered(remember("poison"))])

    assert (await room.handlers.check_model()).ok
