"""The WebSocket: who gets in, commands by the door's one way in, subscriptions, and why it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket as socketlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engram_contracts.control import KeyRecord, TenantRecord
from engram_contracts.facts import EdgePut, Remembered, UsageBatch
from engram_contracts.ids import new_id
from engram_contracts.live import CLOSE_CODES
from engram_contracts.memory import Memory
from engram_contracts.topology import KEYS, TENANTS, USAGE, log_subject
from engram_runtime.bus import Appended, Entry
from engram_runtime.keys import key_id
from support.door import DoorUnderTest
from support.fake_model import FakeModel, Reply, fake_model
from support.live_room import live_room
from support.metering_story import embedding
from support.servers import NatsServer, nats_server

ANSWER = "The dog is called Juno, she is a greyhound [1]."


class Socket:
    """A client of the WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, **message: Any) -> None:
        await self.socket.send_json(message)

    async def hear(self) -> Any:
        async with asyncio.timeout(20):
            message = await self.socket.receive()
        assert message.type is aiohttp.WSMsgType.TEXT, (message, self.socket.close_code)
        return message.json()

    async def ask(self, **message: Any) -> Any:
        await self.say(**message)
        return await self.hear()

    async def closed(self) -> int:
        """The code it is closed with, whatever comes before."""
        async with asyncio.timeout(20):
            while not self.socket.closed:
                await self.socket.receive()
        assert self.socket.close_code in CLOSE_CODES
        return self.socket.close_code or 0


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[FakeModel]:
    async with fake_model(Reply(text=ANSWER)) as running:
        yield running


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
async def door(
    broker: NatsServer, model: FakeModel, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[DoorUnderTest]:
    serve = {
        "hello_seconds": 0.5, "slow_seconds": 1.0, "beat_seconds": 1.0, "unread_bytes": 16 * 1024,
        "tenant_streams": 10,
    }  # fmt: skip
    async with live_room(broker, tmp_path_factory.mktemp("door"), model, serve=serve) as door:
        yield door


@contextlib.asynccontextmanager
async def connected(door: DoorUnderTest, query: str = "", **options: Any) -> AsyncIterator[Socket]:
    async with door.session.ws_connect(f"{door.url}/v1/ws{query}", **options) as socket:
        yield Socket(socket)


@contextlib.asynccontextmanager
async def welcomed(door: DoorUnderTest, key: str | None = None, **options: Any) -> AsyncIterator[Socket]:
    async with connected(door, **options) as socket:
        assert (await socket.ask(type="hello", key=key or door.key))["type"] == "welcome"
        yield socket


async def append(door: DoorUnderTest, *facts: Any) -> list[int]:
    entries = [Entry(subject=log_subject("default", fact.event), body=fact.encode(), id=new_id()) for fact in facts]
    outcomes = await door.bus.append(entries)
    return [outcome.sequence for outcome in outcomes if isinstance(outcome, Appended)]


def edge() -> EdgePut:
    now = datetime.now(UTC)
    return EdgePut(command=new_id(), accepted_at=now, at=now, source="person:Ann", type="knows", target="person:Ben")


def large() -> Remembered:
    now, identity = datetime.now(UTC), new_id()
    memory = Memory(id=identity, content="y" * 9_000, created_at=now, updated_at=now)
    return Remembered(command=identity, accepted_at=now, at=now, memory=memory, embedding=embedding(3))


async def test_a_key_opens_it_in_the_first_message_or_in_a_header(door: DoorUnderTest) -> None:
    async with connected(door) as socket:
        first = await socket.ask(type="hello", key=door.key)
    async with connected(door, headers={"Authorization": f"Bearer {door.key}"}) as socket:
        second = await socket.hear()

    assert first == second == {"type": "welcome", "tenant": "default", "role": "admin", "heartbeat_seconds": 1.0}


async def test_a_ticket_opens_it_once(door: DoorUnderTest) -> None:
    ticket = (await door.call("POST", "/v1/ws-tickets")).data["ticket"]
    other = (await door.call("POST", "/v1/ws-tickets")).data["ticket"]

    async with connected(door, f"?ticket={ticket}") as socket:
        assert (await socket.hear())["type"] == "welcome"
        assert (await socket.ask(type="status", id="1", job="job_1"))["status"] == 404
    async with connected(door) as socket:
        assert (await socket.ask(type="hello", ticket=other))["type"] == "welcome"
    for used in (ticket, "wst_nonsense"):
        async with connected(door) as socket:
            await socket.say(type="hello", ticket=used)
            assert await socket.closed() == 4401
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await door.session.ws_connect(f"{door.url}/v1/ws?ticket={ticket}")


async def test_who_says_nothing_or_has_no_key_that_counts_is_closed(door: DoorUnderTest) -> None:
    for said, code in (
        (None, 4401), ({"type": "hello", "key": "nonsense"}, 4401), ({"type": "hello"}, 4400), ({"type": "ping"}, 4400),
    ):  # fmt: skip
        async with connected(door) as socket:
            if said is not None:
                await socket.say(**said)
            assert await socket.closed() == code
    with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
        await door.session.ws_connect(f"{door.url}/v1/ws?key={door.key}")
    assert (await door.call("GET", "/v1/ws")).status == 426


async def test_commands_are_served_like_requests(door: DoorUnderTest) -> None:
    key = await door.new_key("acme")
    async with welcomed(door, key) as socket:
        kept = await socket.ask(type="remember", id="a", body={"content": "I like tea"}, idempotency_key="k-1")
        again = await socket.ask(type="remember", id="b", body={"content": "I like tea"}, idempotency_key="k-1")
        status = await socket.ask(type="status", id="c", job=kept["body"]["data"]["job"])
        found = await socket.ask(type="recall", id="d", body={"query": "tea", "limit": 3})
        bad = await socket.ask(type="recall", id="e", body={"query": ""})
        missing = await socket.ask(type="forget", id="f", memory_id=new_id())
        judged = await socket.ask(type="feedback", id="g", memory_id=new_id(), body={"verdict": "useful"})

    assert (kept["type"], kept["id"], kept["status"], again["status"]) == ("answer", "a", 202, 202)
    assert kept["body"]["data"] == again["body"]["data"]
    assert (status["status"], status["body"]["data"]["state"]) == (200, "accepted")
    assert len(found["body"]["data"]["hits"]) >= 3
    assert (bad["status"], bad["body"]["error"]["field"]) == (400, "query")
    assert (missing["status"], judged["status"]) == (404, 404)
    routes = await metered(door, "acme")
    assert {"remember", "get_job", "recall", "forget", "judge"} <= set(routes)


async def test_what_was_sent_takes_effect_and_is_metered_though_its_sender_leaves(door: DoorUnderTest) -> None:
    key = await door.new_key("hasty")
    async with welcomed(door, key) as socket:
        await socket.say(type="remember", id="a", body={"content": "I like tea"})
        await socket.say(type="stop", id="a")

    async with asyncio.timeout(20):
        while "remember" not in await metered(door, "hasty"):
            await asyncio.sleep(0.05)


async def metered(door: DoorUnderTest, tenant: str) -> list[str]:
    """The routes that a tenant's usage tells of."""
    batches = await door.bus.archive(USAGE).read(1, pattern="engram.usage.>", limit=1_000)
    events = [event for batch in batches for event in UsageBatch.model_validate_json(batch.body).events]
    return [event.route for event in events if event.tenant == tenant]


async def test_a_role_may_do_no_more_than_over_http(door: DoorUnderTest) -> None:
    key = await door.new_key("acme", "reader")

    async with welcomed(door, key) as socket:
        refused = await socket.ask(type="remember", id="a", body={"content": "x"})

    assert (refused["status"], refused["body"]["error"]["code"]) == (403, "FORBIDDEN")


async def test_an_answer_is_streamed_and_can_be_stopped(door: DoorUnderTest, model: FakeModel) -> None:
    body = {"question": "What is Tom's dog called?"}
    async with welcomed(door) as socket:
        await socket.say(type="think", id="t", body=body, stream=True)
        told = [await socket.hear()]
        while told[-1]["type"] != "stopped":
            told.append(await socket.hear())
        whole = await socket.ask(type="think", id="u", body=body)
        model.then(Reply(text=ANSWER * 50, between=0.02))
        await socket.say(type="think", id="v", body=body, stream=True)
        while (await socket.hear())["event"] != "token":
            pass
        await socket.say(type="stop", id="v")
        while (last := await socket.hear())["type"] != "stopped":
            pass

    assert {message["id"] for message in told} == {"t"} and last == {"type": "stopped", "id": "v"}
    assert [message["event"] for message in told[:2]] == ["accepted", "token"]
    assert [message["event"] for message in told[-4:-1]] == ["citations", "usage", "done"]
    assert "".join(message["data"]["text"] for message in told if message.get("event") == "token") == ANSWER
    assert (whole["status"], whole["body"]["data"]["answer"]) == (200, ANSWER)


async def test_subscriptions_are_filtered_and_resumed(door: DoorUnderTest) -> None:
    async with welcomed(door) as socket:
        await socket.say(type="subscribe", id="all")
        assert (await socket.hear())["event"] == "open"
        first = await append(door, edge(), large())
        heard = [await socket.hear(), await socket.hear()]
        await socket.say(type="stop", id="all")
        assert (await socket.hear())["type"] == "stopped"
    second = await append(door, large(), edge())
    async with welcomed(door) as socket:
        await socket.say(type="subscribe", id="again", after=first[0], filter={"kinds": ["remembered"]})
        opened = await socket.hear()
        resumed = [await socket.hear(), await socket.hear()]

    assert [message["data"]["sequence"] for message in heard] == first
    assert [message["event"] for message in heard] == ["edge-put", "remembered"]
    assert opened == {"type": "frame", "id": "again", "event": "open", "data": {"position": first[0]}}
    assert [message["data"]["sequence"] for message in resumed] == [first[1], second[0]]


async def test_what_cannot_be_understood_is_told_and_then_closed(door: DoorUnderTest) -> None:
    async with welcomed(door) as socket:
        await socket.socket.send_str("{")
        broken = await socket.hear()
        unknown = await socket.ask(type="dance", id="x")
        assert (await socket.ask(type="ping"))["type"] == "pong"
        for _ in range(8):
            await socket.say(type="dance", id="x")
        assert await socket.closed() == 4400

    assert broken["type"] == unknown["type"] == "error" and broken["error"]["code"] == "INVALID_REQUEST"


async def test_who_reads_too_slowly_is_closed_with_its_code(door: DoorUnderTest) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=narrow)) as session,
        session.ws_connect(f"{door.url}/v1/ws", max_msg_size=0) as opened,
    ):
        socket = Socket(opened)
        await socket.ask(type="hello", key=door.key)
        assert (await socket.ask(type="subscribe", id="s"))["event"] == "open"
        transport = opened._conn.transport  # type: ignore[union-attr]  # it is there while it is open
        transport.pause_reading()
        await append(door, *(large() for _ in range(100)))
        await asyncio.sleep(2.0)
        transport.resume_reading()

        assert await socket.closed() == 4480


def narrow(address: Any) -> Any:
    """A connection on which little is on its way."""
    made = socketlib.socket(*address[:3])
    made.setsockopt(socketlib.SOL_SOCKET, socketlib.SO_RCVBUF, 4_096)
    made.setblocking(False)
    return made


async def test_who_does_not_answer_pings_is_closed(door: DoorUnderTest) -> None:
    async with welcomed(door, autoping=False) as socket:
        codes = []
        async with asyncio.timeout(20):
            while not socket.socket.closed:
                message = await socket.socket.receive()
                codes.append(message.type)

    assert socket.socket.close_code == 4408
    assert codes.count(aiohttp.WSMsgType.PING) >= 2


async def test_it_is_closed_with_the_right_to_be_there(door: DoorUnderTest) -> None:
    revoked, suspended = await door.new_key("acme"), await door.new_key("globex")
    async with welcomed(door, revoked) as one, welcomed(door, suspended) as other:
        keys, tenants = door.bus.bucket(KEYS), door.bus.bucket(TENANTS)
        name = str(key_id(revoked))
        record = KeyRecord.model_validate_json(await keys.get(name) or b"")
        await keys.put(name, record.model_copy(update={"revoked": True}).encode())
        tenant = TenantRecord.model_validate_json(await tenants.get("globex") or b"")
        await tenants.put("globex", tenant.model_copy(update={"status": "suspended"}).encode())

        assert (await one.closed(), await other.closed()) == (4401, 4403)


async def test_a_tenant_has_so_many_connections_and_no_more(door: DoorUnderTest) -> None:
    key = await door.new_key("acme2")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(welcomed(door, key))
        async with connected(door) as socket:
            await socket.say(type="hello", key=key)
            assert await socket.closed() == 4429


async def test_a_door_that_leaves_says_so(model: FakeModel, broker: NatsServer, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with live_room(broker, tmp_path, model) as door:
            socket = Socket(await session.ws_connect(f"{door.url}/v1/ws"))
            assert (await socket.ask(type="hello", key=door.key))["type"] == "welcome"
            closing = asyncio.create_task(socket.closed())
        assert await closing == 1001
