"""Events, answers and WebSockets through proxies: one that speaks HTTP and cuts what is idle, one of bytes alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from engram_contracts.facts import EdgePut
from engram_contracts.ids import new_id
from engram_contracts.topology import log_subject
from engram_runtime.bus import Entry
from support.door import DoorUnderTest
from support.events import events, opened
from support.fake_model import FakeModel, Reply, fake_model
from support.live_room import live_room
from support.reverse_proxy import reverse_proxy
from support.servers import nats_server
from support.toxic import ToxicProxy, Toxin, toxic_proxy
from support.waiting import holds

ANSWER = "The dog is called Juno, she is a greyhound [1]."
BEAT, IDLE = 0.5, 3.0
"""Seconds; doors look once a second who needs a sign of life."""


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[FakeModel]:
    async with fake_model(Reply(text=ANSWER)) as running:
        yield running


@pytest.fixture(scope="module")
async def door(model: FakeModel, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DoorUnderTest]:
    serve = {"beat_seconds": BEAT, "slow_seconds": 1.0}
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        async with live_room(server, tmp_path_factory.mktemp("door"), model, serve=serve) as door:
            yield door


@pytest.fixture
def tunnel(door: DoorUnderTest) -> Any:
    with toxic_proxy(door.port, chance=itertools.repeat(0.0)) as proxy:
        yield proxy


@pytest.fixture(params=["reverse", "tunnel"])
async def behind(
    request: pytest.FixtureRequest, door: DoorUnderTest, tunnel: ToxicProxy
) -> AsyncIterator[DoorUnderTest]:
    """The door as who is on the other side of a proxy sees it."""
    if request.param == "tunnel":
        yield replace(door, url=f"http://127.0.0.1:{tunnel.port}")
        return
    async with reverse_proxy(door.url) as proxy:
        yield replace(door, url=proxy.url)


async def happen(door: DoorUnderTest) -> None:
    now = datetime.now(UTC)
    edge = EdgePut(command=new_id(), accepted_at=now, at=now, source="person:Ann", type="knows", target="person:Ben")
    await door.bus.append([Entry(subject=log_subject("default", edge.event), body=edge.encode(), id=new_id())])


@contextlib.asynccontextmanager
async def subscribed(door: DoorUnderTest, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket that gets the tenant's events."""
    async with door.session.ws_connect(f"{door.url}/v1/ws", **options) as socket:
        await socket.send_json({"type": "hello", "key": door.key})
        await socket.send_json({"type": "subscribe", "id": "s"})
        assert [(await socket.receive_json())["type"] for _ in range(2)] == ["welcome", "frame"]
        yield socket


async def open_connections(door: DoorUnderTest, kind: str) -> float:
    return await metric(door, f'engram_live_connections{{kind="{kind}"}}')


async def closed_as(door: DoorUnderTest, kind: str, reason: str) -> float:
    return await metric(door, f'engram_live_closed_total{{kind="{kind}",reason="{reason}"}}')


async def metric(door: DoorUnderTest, name: str) -> float:
    """A figure of the door itself."""
    async with door.session.get(f"http://127.0.0.1:{door.port}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


async def test_events_and_commands_pass_at_once(behind: DoorUnderTest) -> None:
    async with (
        asyncio.timeout(30),
        subscribed(behind) as socket,
        opened(behind.session, "GET", f"{behind.url}/v1/events", key=behind.key) as answer,
    ):
        told = aiter(events(answer))
        await anext(told)
        await happen(behind)
        heard = [(await anext(told)).name, (await socket.receive_json())["event"]]
        await socket.send_json({"type": "recall", "id": "r", "body": {"query": "tea"}})
        found = await socket.receive_json()

    assert heard == ["edge-put", "edge-put"]
    assert (found["type"], found["id"], found["status"]) == ("answer", "r", 200)


async def test_what_is_quiet_longer_than_a_proxy_allows_is_kept_by_signs_of_life(door: DoorUnderTest) -> None:
    async with asyncio.timeout(30), reverse_proxy(door.url, idle=IDLE) as proxy:
        behind = replace(door, url=proxy.url)
        async with (
            subscribed(behind) as socket,
            opened(behind.session, "GET", f"{behind.url}/v1/events", key=behind.key) as answer,
        ):
            told = aiter(events(answer))
            await anext(told)
            reading = asyncio.create_task(socket.receive_json())
            await asyncio.sleep(1.3 * IDLE)
            await happen(behind)
            heard = [(await anext(told)).name, (await reading)["event"]]

    assert heard == ["edge-put", "edge-put"]


async def test_an_answer_comes_piece_by_piece(behind: DoorUnderTest, model: FakeModel) -> None:
    model.then(Reply(text=ANSWER, ill="hang midway"))
    body = {"question": "What is Tom's dog called?"}

    async with (
        asyncio.timeout(30),
        opened(behind.session, "POST", f"{behind.url}/v1/think", key=behind.key, body=body) as answer,
    ):
        names = []
        async for event in events(answer):
            names.append(event.name)
            if event.name == "token":
                break

    assert names == ["accepted", "token"]
    await behind.call("DELETE", answer.headers["Location"])


async def test_who_leaves_is_noticed_behind_the_proxy(behind: DoorUnderTest) -> None:
    assert await holds(lambda: gone(behind)), "somebody is left of what came before"

    async with subscribed(behind), opened(behind.session, "GET", f"{behind.url}/v1/events", key=behind.key) as answer:
        await anext(aiter(events(answer)))
        assert await open_connections(behind, "ws") == await open_connections(behind, "sse") == 1

    assert await holds(lambda: gone(behind))


async def gone(door: DoorUnderTest) -> bool:
    return await open_connections(door, "ws") == await open_connections(door, "sse") == 0


async def test_a_proxy_that_ends_is_noticed_on_both_sides(door: DoorUnderTest) -> None:
    async with reverse_proxy(door.url) as proxy, contextlib.AsyncExitStack() as clients:
        behind = replace(door, url=proxy.url)
        socket = await clients.enter_async_context(subscribed(behind))
        answer = await clients.enter_async_context(
            opened(behind.session, "GET", f"{behind.url}/v1/events", key=behind.key)
        )
        told = aiter(events(answer))
        await anext(told)
        closing = clients.pop_all()

    async with asyncio.timeout(30):
        with contextlib.suppress(aiohttp.ClientError, StopAsyncIteration):
            await anext(told)
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert await holds(lambda: gone(door))
        await closing.aclose()


async def test_a_websocket_whose_network_swallows_everything_is_closed_as_silent(
    door: DoorUnderTest, tunnel: ToxicProxy
) -> None:
    before = await closed_as(door, "ws", "silent")
    async with subscribed(replace(door, url=f"http://127.0.0.1:{tunnel.port}")):
        tunnel.infect(Toxin(ill="black hole"))

        assert await holds(lambda: more_than(door, before))
        tunnel.cure()


async def more_than(door: DoorUnderTest, before: float) -> bool:
    return await closed_as(door, "ws", "silent") > before
