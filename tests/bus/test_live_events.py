"""A tenant's events over HTTP: all of them, once, in order, whoever comes and goes meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engram_contracts.control import Bounds, KeyRecord
from engram_contracts.facts import EdgePut, Fact, Forgotten, Remembered, Revised
from engram_contracts.ids import new_id
from engram_contracts.memory import Memory, Owner
from engram_contracts.topology import KEYS, LOG, log_subject
from engram_runtime.bus import Appended, Entry
from engram_runtime.keys import key_id
from support.door import DoorUnderTest, open_door
from support.events import Event, events, opened
from support.metering_story import embedding
from support.servers import NatsServer, nats_server

LONG = os.environ.get("LIVE_LONG") == "1"
EVENTS, DISCONNECTS = (10_000, 20) if LONG else (1_500, 10)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(broker: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    serve = {"slow_seconds": 1.0, "tenant_streams": 40, "unread_bytes": 16 * 1024, "beat_seconds": 1.0}
    async with open_door(broker, tmp_path_factory.mktemp("door"), serve=serve) as door:
        yield door


async def append(door: DoorUnderTest, *facts: Fact, tenant: str = "default") -> list[int]:
    """Put facts on the log; their sequences."""
    entries = [Entry(subject=log_subject(tenant, fact.event), body=fact.encode(), id=new_id()) for fact in facts]
    outcomes = await door.bus.append(entries)
    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    return [outcome.sequence for outcome in outcomes if isinstance(outcome, Appended)]


def fact(content: str = "x", **fields: Any) -> Remembered:
    now, identity = datetime.now(UTC), new_id()
    memory = Memory(id=identity, content=content, created_at=now, updated_at=now, **fields)
    return Remembered(command=identity, accepted_at=now, at=now, memory=memory, embedding=embedding(3))


def edge() -> EdgePut:
    now = datetime.now(UTC)
    return EdgePut(command=new_id(), accepted_at=now, at=now, source="person:Ann", type="knows", target="person:Ben")


async def change_key(door: DoorUnderTest, key: str, **fields: Any) -> None:
    bucket, name = door.bus.bucket(KEYS), str(key_id(key))
    record = KeyRecord.model_validate_json(await bucket.get(name) or b"")
    await bucket.put(name, record.model_copy(update=fields).encode())


async def listened(door: DoorUnderTest, count: int, *, query: str = "", key: str | None = None, **headers: str) -> Any:
    """The first events of a stream, behind `open`."""
    async with (
        asyncio.timeout(30),
        opened(door.session, "GET", f"{door.url}/v1/events{query}", key=key or door.key, **headers) as answer,
    ):
        found = []
        async for event in events(answer):
            found.append(event)
            if len(found) == count + 1:
                return found
    raise AssertionError(f"the stream ended after {len(found)} events")


async def test_what_happens_is_told_with_its_place_on_the_log(door: DoorUnderTest) -> None:
    async with asyncio.timeout(30), opened(door.session, "GET", f"{door.url}/v1/events", key=door.key) as answer:
        told = aiter(events(answer))
        first = await anext(told)
        sequences = await append(door, fact("I like tea", user_id="ann"), edge())
        heard = [await anext(told), await anext(told)]

    assert (first.name, first.id) == ("open", first.data["position"])
    assert [(event.name, event.id) for event in heard] == [("remembered", sequences[0]), ("edge-put", sequences[1])]
    assert heard[0].data["user_id"] == "ann" and heard[0].data["data"]["memory"]["content"] == "I like tea"
    assert "embedding" not in heard[0].data["data"]
    assert answer.headers["X-Accel-Buffering"] == "no" and "Content-Encoding" not in answer.headers


async def test_events_of_other_tenants_are_not_told(door: DoorUnderTest) -> None:
    other = await door.new_key("acme")
    (start,) = await append(door, edge())
    await append(door, fact("theirs"), tenant="acme")
    await append(door, fact("ours"))

    ours = await listened(door, 1, Last_Event_ID=str(start))
    theirs = await listened(door, 1, key=other, query="?after=0")

    assert ours[1].data["data"]["memory"]["content"] == "ours"
    assert theirs[1].data["data"]["memory"]["content"] == "theirs"


async def test_a_listener_chooses_by_kind_user_and_session(door: DoorUnderTest) -> None:
    now = datetime.now(UTC)
    known = {"command": new_id(), "accepted_at": now, "at": now, "memory_id": new_id()}
    (start,) = await append(door, edge())
    await append(
        door, fact("a", user_id="ann", session_id="s1"), fact("b", user_id="ben"), edge(),
        Revised(**known, owner=Owner(user_id="ann", session_id="s1"), changes={"session_id": "s2"}),
        Forgotten(**known, owner=Owner(user_id="ann")), Forgotten(**known),
    )  # fmt: skip

    of_ann = await listened(door, 3, query=f"?user_id=ann&after={start}")
    of_session = await listened(door, 1, query=f"?session_id=s2&after={start}")
    of_kinds = await listened(door, 3, query=f"?kind=forgotten&kind=edge-put&after={start}")
    bound = await door.new_key("default", "writer")
    await change_key(door, bound, bounds=Bounds(user_ids=("ben",)))
    async with asyncio.timeout(10):
        while (await door.call("POST", "/v1/memories", {"content": "x", "user_id": "ann"}, key=bound)).status != 403:
            await asyncio.sleep(0.01)
    of_ben = await listened(door, 1, query=f"?after={start}", key=bound)

    assert [event.name for event in of_ann[1:]] == ["remembered", "revised", "forgotten"]
    assert of_session[1].name == "revised"
    assert [event.name for event in of_kinds[1:]] == ["edge-put", "forgotten", "forgotten"]
    assert of_ben[1].data["user_id"] == "ben"


async def test_nothing_is_lost_or_told_twice_over_many_disconnects(door: DoorUnderTest) -> None:
    (start,) = await append(door, edge())
    appended: list[int] = []
    told: list[int] = []
    chance = random.Random(7)

    async def produce() -> None:
        while len(appended) < EVENTS:
            appended.extend(await append(door, *(edge() for _ in range(25))))
            await asyncio.sleep(0.005)

    async def listen(most: int) -> None:
        seen = str(told[-1] if told else start)
        async with opened(door.session, "GET", f"{door.url}/v1/events", key=door.key, Last_Event_ID=seen) as answer:
            async for event in events(answer):
                if event.name != "open":
                    told.append(event.id or 0)
                    most -= 1
                if not most or len(told) == EVENTS:
                    return

    async with asyncio.timeout(120):
        producing = asyncio.create_task(produce())
        for _ in range(DISCONNECTS):
            await listen(chance.randint(1, 2 * EVENTS // DISCONNECTS - 2))
        while len(told) < EVENTS:
            await listen(EVENTS)
        await producing

    assert told == appended


async def test_a_listener_that_reads_slowly_gets_all_and_one_that_reads_nothing_is_closed(door: DoorUnderTest) -> None:
    (start,) = await append(door, edge())
    large = [fact("y" * 9_000) for _ in range(600)]

    _, writer = await asyncio.open_connection("127.0.0.1", door.port, limit=4_096)
    writer.write(f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.key}\r\n\r\n".encode())
    await writer.drain()
    async with opened(door.session, "GET", f"{door.url}/v1/events?after={start}", key=door.key) as answer:
        told = aiter(events(answer))
        await anext(told)
        sequences = [seq for part in range(0, 600, 100) for seq in await append(door, *large[part : part + 100])]
        heard = []
        async with asyncio.timeout(60):
            while len(heard) < 600:
                heard.append((await anext(told)).id)
                if len(heard) % 100 == 0:
                    await asyncio.sleep(0.2)
    assert heard == sequences

    async with asyncio.timeout(30):
        while (
            'engram_live_closed_total{kind="sse",reason="slow"}'
            not in (await door.call("GET", "/metrics", key=None)).raw.decode()
        ):
            await asyncio.sleep(0.1)
    writer.close()


async def test_the_log_is_read_once_for_all_who_listen(door: DoorUnderTest) -> None:
    async def heard(answer: aiohttp.ClientResponse) -> list[int | None]:
        told = aiter(events(answer))
        await anext(told)
        ready.release()
        return [(await anext(told)).id for _ in range(100)]

    ready = asyncio.Semaphore(0)
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        answers = [
            await stack.enter_async_context(opened(door.session, "GET", f"{door.url}/v1/events", key=door.key))
            for _ in range(25)
        ]
        listening = [asyncio.create_task(heard(answer)) for answer in answers]
        for _ in listening:
            await ready.acquire()
        readers = [each.name for each in await door.bus.jetstream.consumers_info(LOG.name)]
        sequences = [sequence for _ in range(10) for sequence in await append(door, *(edge() for _ in range(10)))]
        told = await asyncio.gather(*listening)

    assert len([name for name in readers if name.startswith("live-")]) == 1
    assert told == [sequences] * 25


async def test_ids_that_were_never_given_are_refused(door: DoorUnderTest) -> None:
    for given in ("x", "-1", str(10**12)):
        refused = await door.call("GET", "/v1/events", headers={"Last-Event-ID": given})
        assert (refused.status, refused.error["code"]) == (400, "INVALID_REQUEST")


async def test_events_that_are_older_than_the_log_are_said_to_be_lost(broker: NatsServer, door: DoorUnderTest) -> None:
    sequences = await append(door, edge(), edge(), edge())
    await door.bus.jetstream.purge_stream(LOG.name, seq=sequences[2])

    told = await listened(door, 2, query=f"?after={sequences[0]}")

    assert [event.name for event in told] == ["open", "lost", "edge-put"]
    assert told[1].data == {"after": sequences[0], "first": sequences[2]}


async def test_a_tenant_has_so_many_streams_and_no_more(door: DoorUnderTest) -> None:
    async with asyncio.timeout(10):
        while b'engram_live_connections{kind="sse"} 0' not in (await door.call("GET", "/metrics", key=None)).raw:
            await asyncio.sleep(0.05)
    answers = []
    for _ in range(41):
        answer = opened(door.session, "GET", f"{door.url}/v1/events", key=door.key)
        answers.append((answer, await answer.__aenter__()))
    statuses = [response.status for _, response in answers]
    for answer, _ in answers:
        await answer.__aexit__(None, None, None)

    assert statuses == [200] * 40 + [429]


async def test_a_quiet_stream_gives_signs_of_life_and_ends_with_its_key(door: DoorUnderTest) -> None:
    key = await door.new_key("acme")
    async with asyncio.timeout(30), opened(door.session, "GET", f"{door.url}/v1/events", key=key) as answer:
        lines = []
        async for line in answer.content:
            lines.append(line)
            if line == b": here\n":
                await change_key(door, key, revoked=True)
                break
        rest = await answer.content.read()

    assert b"event: error" in rest and b"UNAUTHORIZED" in rest


async def test_a_broker_that_is_started_again_loses_no_event(tmp_path: Path) -> None:
    with nats_server(tmp_path / "nats") as server:
        async with (
            asyncio.timeout(60),
            open_door(server, tmp_path / "door") as door,
            opened(door.session, "GET", f"{door.url}/v1/events", key=door.key) as answer,
        ):
            told: AsyncIterator[Event] = aiter(events(answer))
            await anext(told)
            before = await append(door, edge(), edge())
            heard = [(await anext(told)).id, (await anext(told)).id]
            server.kill()
            server.start()
            after = await append(door, edge(), edge())
            heard += [(await anext(told)).id, (await anext(told)).id]

    assert heard == before + after
