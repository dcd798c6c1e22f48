"""What abuse costs a real door: bodies that grow, nest or are no text, endless heads, connections that say little.

Each attack tells what it cost (`pytest -s`). `CHAOS_LONG=1` (`make guard-long`) makes twenty times as many requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from engram_runtime.keys import create_key, create_tenant, load_pepper
from engram_runtime.nats_bus import open_bus
from engram_runtime.provision import provision
from engram_runtime.settings import NatsSettings
from support.servers import ROOT, free_port, nats_server, wait_for_port
from support.waiting import holds

MOST_GROWTH = 64 * 1024 * 1024
MOST_HELD = 0.25
HALF_OPEN = 500
TIMES = 20 if os.environ.get("CHAOS_LONG") else 1
HEAD_SECONDS = 3.0

BOMB = gzip.compress(b" " * 100_000_000)

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Watched:
    url: str
    port: int
    key: str
    file: Path

    def told(self) -> dict[str, float]:
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    async def cost(self, what: str, before: float) -> None:
        """Say what was the worst since `begin`, and hold it against the bounds."""
        await asyncio.sleep(0.3)
        told = self.told()
        grown = max(told["most"], told["resident"]) - before
        print(  # noqa: T201 (what -s shows)
            f"{what}: {grown / 2**20:.1f} MiB more at most, the event loop held for {told['held'] * 1e3:.0f} ms at most"
        )
        assert grown <= MOST_GROWTH
        assert told["held"] <= MOST_HELD

    async def begin(self) -> float:
        """Forget what was the worst so far; the bytes that the door has in hand now."""
        reset = self.file.with_suffix(".reset")
        reset.touch()
        assert await holds(lambda: not reset.exists())
        await asyncio.sleep(0.3)
        return self.told()["resident"]


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    folder = tmp_path_factory.mktemp("abuse")
    with nats_server(folder / "nats") as server:
        async with open_bus(NatsSettings(url=server.url), name="test") as bus:
            await provision(bus.jetstream)
            await create_tenant(bus, "default")
            key = await create_key(bus, "default", "admin", "admin", load_pepper(folder / "data", None))
        port = free_port()
        serve = {"port": port, "head_seconds": HEAD_SECONDS, "idle_seconds": HEAD_SECONDS}
        flags = {"data_dir": str(folder / "data"), "nats": {"url": server.url}, "serve": serve}
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
        environ |= {"ENGRAM_CONFIG": os.devnull, "PYTHONPATH": str(ROOT / "tests")}
        command = [sys.executable, "-m", "support.watched_door", json.dumps(flags), str(folder / "told.json")]
        with (folder / "door.log").open("wb") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            wait_for_port(port, process, seconds=60.0)
            watched = Watched(f"http://127.0.0.1:{port}", port, key, folder / "told.json")
            assert await holds(lambda: bool(watched.told()))
            yield watched
        finally:
            process.terminate()
            process.wait()


async def statuses(door: Watched, raw: bytes, times: int, **headers: str) -> set[int]:
    sent = {"Authorization": f"Bearer {door.key}", "Content-Type": "application/json", **headers}

    async def one(session: aiohttp.ClientSession) -> int:
        async with session.post(f"{door.url}/v1/memories", data=raw, headers=sent) as answer:
            assert (await answer.json())["error"]["code"] == "INVALID_REQUEST"
            return answer.status

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:
        return set(await asyncio.gather(*(one(session) for _ in range(times))))


async def bombs(door: Watched) -> set[int]:
    return await statuses(door, BOMB, 24 * TIMES, **{"Content-Encoding": "gzip"})


async def nested(door: Watched) -> set[int]:
    return await statuses(door, b'{"content":"x","metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 24 * TIMES)


async def no_text(door: Watched) -> set[int]:
    return await statuses(door, b'{"content":"' + b"\xff\xfe" * 100_000 + b'"}', 24 * TIMES)


async def heads(door: Watched) -> set[int]:
    found = set()
    for _ in range(8 * TIMES):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        head = b"".join(b"X-H%d: v\r\n" % n for n in range(10_000))
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
            await writer.drain()
            found.add(int((await reader.readline()).split()[1]))
        writer.close()
    return found


async def crowds(door: Watched) -> set[int]:
    """As many values as fit into a body, each of them wrong."""
    found = set()
    for one in ('"k%d":1', "{}", "[]"):
        many = ",".join(one % n if "%" in one else one for n in range(300_000))
        body = "{" + many + "}" if "%" in one else '{"memories":[' + many + "]}"
        found |= await statuses(door, body.encode(), 8 * TIMES)
    return found


@pytest.mark.parametrize(
    ("attack", "refused"), [(bombs, {413}), (nested, {400}), (no_text, {400}), (heads, {400}), (crowds, {413})]
)  # fmt: skip
async def test_what_is_sent_to_harm_is_refused_and_costs_little(
    door: Watched, attack: Callable[[Watched], Awaitable[set[int]]], refused: set[int]
) -> None:
    before = await door.begin()

    answered = await attack(door)

    assert answered == refused
    await door.cost(attack.__name__, before)


async def test_connections_that_say_little_are_closed_and_keep_nobody_out(door: Watched) -> None:
    before = await door.begin()
    opened = [await asyncio.open_connection("127.0.0.1", door.port) for _ in range(HALF_OPEN)]
    for _, writer in opened[::2]:
        writer.write(b"POST /v1/memories HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    async with asyncio.TaskGroup() as tasks:
        trickling = tasks.create_task(_trickle([writer for _, writer in opened[::4]]))
        ends = await _ends(door, opened)
        trickling.cancel()

    assert all(ends)
    await door.cost(f"{HALF_OPEN} half-open connections", before)
    for _, writer in opened:
        writer.close()


async def _ends(door: Watched, opened: list[Opened]) -> list[bool]:
    """Whether each was closed, and others served meanwhile."""
    async with aiohttp.ClientSession() as session, session.get(f"{door.url}/health") as answer:
        assert answer.status == 200
    return await asyncio.wait_for(asyncio.gather(*(_ended(reader) for reader, _ in opened)), 30.0)


async def _trickle(writers: list[asyncio.StreamWriter]) -> None:
    while True:
        for writer in writers:
            writer.write(b"a")
        await asyncio.sleep(0.2)


async def _ended(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1_024):
            pass
    return True
