"""Streams that are looked through by hand, and buckets that are changed only where they are as one saw them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engram_contracts.errors import Unavailable
from engram_contracts.ids import new_id
from engram_contracts.topology import DEAD, SETTINGS, Stream, dead_subject
from engram_runtime.bus import Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import open_bus
from engram_runtime.provision import provision
from engram_runtime.service import Service
from engram_runtime.settings import Common, NatsSettings
from support.servers import nats_server

ALL = "engram.dead.>"


@pytest.fixture
async def bus(tmp_path: Path):
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
            await provision(bus.jetstream)
            yield bus


def entry(tenant: str, body: bytes = b"body") -> Entry:
    return Entry(subject=dead_subject("graph", tenant), body=body, id=new_id(), headers={"Mine": tenant})


@pytest.mark.parametrize("durability", ["power", "process"])
async def test_appending_nothing_is_done_at_once(tmp_path, durability):
    with nats_server(tmp_path / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test", durability=durability) as bus:
            outcomes = await bus.append([])

    assert outcomes == []


async def test_messages_are_read_in_order_from_a_sequence_on_by_subject(bus):
    await bus.append([entry("acme" if n % 2 else "zeta", b"%d" % n) for n in range(10)])
    archive = bus.archive(DEAD)

    read = await archive.read(3, pattern="engram.dead.*.acme", limit=3)
    heads = await archive.heads(3, 8, pattern="engram.dead.*.acme")
    beyond = await archive.read(11, pattern=ALL, limit=3)
    none = await archive.heads(1, 10, pattern="engram.dead.*.nobody")

    assert [(one.sequence, one.body) for one in read] == [(4, b"3"), (6, b"5"), (8, b"7")]
    assert [(one.sequence, one.body, one.size) for one in heads] == [(4, b"", 1), (6, b"", 1), (8, b"", 1)]
    assert [(a.subject, a.id, a.at, dict(a.headers)) for a in read] == [
        (b.subject, b.id, b.at, dict(b.headers)) for b in heads
    ]
    assert set(read[0].headers) == {"Nats-Msg-Id", "Mine"}
    assert timedelta(0) < datetime.now(UTC) - read[0].at < timedelta(seconds=30)
    assert beyond == none == []


async def test_reading_by_one_sequence_tells_the_same(bus):
    await bus.append([entry("acme")])

    [read] = await bus.archive(DEAD).read(1, pattern=ALL, limit=1)
    one = await bus.read(DEAD, 1)

    assert one is not None
    assert (one.subject, one.body, one.id, one.sequence, one.size) == (
        read.subject, read.body, read.id, read.sequence, read.size,
    )  # fmt: skip
    assert dict(one.headers) == dict(read.headers)


async def test_what_was_taken_out_is_gone_once(bus):
    await bus.append([entry("acme") for _ in range(3)])
    archive = bus.archive(DEAD)

    first, again = await archive.delete(2), await archive.delete(2)
    extent, subjects = await archive.extent(), await archive.subjects(ALL)
    left = await archive.read(1, pattern=ALL, limit=10)

    assert (first, again) == (True, False)
    assert (extent.first, extent.last, extent.messages) == (1, 3, 2)
    assert subjects == {"engram.dead.graph.acme": 2}
    assert [one.sequence for one in left] == [1, 3]


async def test_looking_through_leaves_no_consumer_behind(bus):
    await bus.append([entry("acme") for _ in range(3)])

    await bus.archive(DEAD).heads(1, 3, pattern=ALL)

    assert await bus.jetstream.consumers_info(DEAD.name) == []


async def test_large_messages_are_read_a_few_at_a_time(bus):
    await bus.append([entry("acme", b"x" * 900_000) for _ in range(12)])
    archive = bus.archive(DEAD)

    read, start = [], 1
    while some := await archive.read(start, pattern=ALL, limit=100):
        read.append(len(some))
        start = some[-1].sequence + 1

    assert sum(read) == 12
    assert max(read) < 12


async def test_a_stream_that_is_not_there_is_unavailable(bus):
    archive = bus.archive(Stream(name="NOWHERE", subjects=("nowhere",), retention="limits"))

    for question in (archive.extent, lambda: archive.heads(1, 2, pattern="nowhere"), lambda: archive.delete(1)):
        with pytest.raises(Unavailable):
            await question()


async def test_a_value_is_replaced_only_where_it_is_as_one_saw_it(bus):
    bucket = bus.bucket(SETTINGS)

    absent = await bucket.entry("key")
    first = await bucket.update("key", b"1", 0)
    stale = await bucket.update("key", b"2", 0)
    second = await bucket.update("key", b"3", first or 0)

    assert absent is None and stale is None
    assert await bucket.entry("key") == (b"3", second)


async def test_a_service_is_told_once_that_the_process_is_about_to_stop(bus):
    told: list[str] = []

    async with hosted(Service(name="graph", draining=lambda: told.append("draining")), bus, Common()):
        before = list(told)

    assert (before, told) == ([], ["draining"])
