"""Facts that come again change nothing, in any store: read again after a crash, or appended again by a worker."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engram_contracts.auditing import ListCharged, ListIndexed, ListMetered, ListRecorded
from engram_contracts.facts import EdgePut, Embedding, Fact, Forgotten, Remembered, Revised
from engram_contracts.ids import derived_id, partition_of
from engram_contracts.questions import ListNodes, Neighbours
from engram_contracts.topology import log_subject
from engram_graph.service import open_service as open_graph
from engram_graph.settings import Settings as GraphSettings
from engram_metering.service import open_service as open_metering
from engram_metering.settings import Settings as MeteringSettings
from engram_runtime.bus import Stored
from engram_runtime.refetching import delivered
from engram_runtime.service import Following, Service
from engram_runtime.settings import AuditSettings
from engram_vectors.service import open_service as open_vectors
from engram_vectors.settings import Settings as VectorsSettings
from support.memories import chunk, embedding, memory, memory_id
from support.recording_bus import RecordingBus

TENANT = "acme"
PARTITION = partition_of(TENANT)
START = datetime(2026, 1, 1, tzinfo=UTC)
MEMORIES = 4


@st.composite
def histories(draw: st.DrawFn) -> list[Fact]:
    """Facts in the order of the log: memories begin, change and end, edges are put."""
    facts: list[Fact] = []
    for number in range(draw(st.integers(4, 14))):
        which = draw(st.integers(0, MEMORIES - 1))
        kind = draw(st.sampled_from(("remembered", "remembered", "revised", "relabelled", "forgotten", "edge")))
        facts.append(made(kind, number, which))
    return facts


def made(kind: str, number: int, which: int) -> Fact:
    at = START + timedelta(minutes=number)
    how: dict[str, Any] = {"command": derived_id("command", str(number)), "accepted_at": at, "at": at}
    text = f"Ann met Bo in Ghent, {number} times."
    if kind == "remembered":
        return Remembered(
            **how, memory=memory(which, text, speaker="Ann"), embedding=embedding(chunk(number, [number]))
        )
    if kind == "revised":
        changes = {"content": text}
        return Revised(**how, memory_id=memory_id(which), changes=changes, embedding=vectors_of(number))
    if kind == "relabelled":
        return Revised(**how, memory_id=memory_id(which), changes={"tags": [f"t{number}"]})
    if kind == "forgotten":
        return Forgotten(**how, memory_id=memory_id(which))
    return EdgePut(**how, source="person:Ann", type="knows", target="person:Bo", weight=1.0 + number)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(facts=histories(), again=st.lists(st.integers(0, 1_000), max_size=20), suffix=st.integers(0, 1_000))
def test_redelivery_leaves_every_store_as_it_was(facts: list[Fact], again: list[int], suffix: int) -> None:
    asyncio.run(redelivered(facts, again, suffix % len(facts)))


def vectors_of(number: int) -> Embedding:
    return embedding(chunk(number, [number]))


async def redelivered(facts: Sequence[Fact], again: Sequence[int], suffix: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            services = [await stack.enter_async_context(opened) for opened in stores(Path(folder))]
            refused = [await follow(service, facts, 0, len(facts)) for service in services]
            effective = [fact for fact in facts if fact.command not in set().union(*refused)]
            log = [*facts, *(effective[n % len(effective)] for n in again if effective)]
            once = await snapshot(services)

            for service in services:  # as a follower reads after a crash: from a stored position on, in order
                await follow(service, log, suffix, len(facts))
            read_again = await snapshot(services)
            for service in services:  # as a worker appends what it did not acknowledge: at the end, in any order
                await follow(service, log, len(facts), len(log))
            appended_again = await snapshot(services)

    assert read_again == once
    assert appended_again == once


def stores(folder: Path) -> list[Any]:
    return [
        open_vectors(VectorsSettings(data_dir=folder), RecordingBus()),
        open_graph(GraphSettings(data_dir=folder), RecordingBus()),
        open_metering(MeteringSettings(data_dir=folder, audit=AuditSettings(enabled=False)), RecordingBus()),
    ]


async def follow(service: Service, log: Sequence[Fact], start: int, end: int) -> set[str]:
    """Hand a stretch of the log to what follows it; the commands whose facts it refused."""
    following = next(each for each in service.follows if followed(each))
    stored = [
        Stored(
            subject=log_subject(TENANT, fact.event), body=fact.encode(), id=fact.command, at=fact.at, sequence=number
        )
        for number, fact in enumerate(log[start:end], start + 1)
    ]
    batch = [each for one in stored if (each := delivered(one, following.messages)) is not None]
    refused = set()
    for first in range(0, len(batch), 5):
        part = batch[first : first + 5]
        outcomes = await following.handler(part)
        refused |= {each.message.command for each, outcome in zip(part, outcomes, strict=True) if outcome is not None}
    return refused


def followed(following: Following) -> bool:
    return following.consumer.filters[0] in (f"engram.log.{PARTITION}.>", "engram.log.>")


async def snapshot(services: Sequence[Service]) -> list[Any]:
    """What the stores tell of themselves, without the sequences that say where it came from."""
    vectors, graph, metering = services
    indexed = await vectors.answers[ListIndexed](ListIndexed())
    recorded = await graph.answers[ListRecorded](ListRecorded(partition=PARTITION))
    nodes = await graph.answers[ListNodes](ListNodes(tenant=TENANT))
    sizes = await metering.answers[ListMetered](ListMetered())
    charged = await metering.answers[ListCharged](ListCharged())
    around = None
    if any(node.id == "person:Ann" for node in nodes.nodes):
        around = await graph.answers[Neighbours](Neighbours(tenant=TENANT, node="person:Ann", at=START))
    return [
        sorted((each.id, each.version, each.digest, each.whole) for each in indexed.kept),
        indexed.stray,
        sorted((each.id, each.version, each.digest) for each in recorded.kept),
        nodes,
        around,
        sizes,
        sorted((each.command, each.created, each.deleted, each.size) for each in charged.applied),
    ]
