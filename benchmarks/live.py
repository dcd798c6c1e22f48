"""What listeners cost who remembers and recalls: 500 open connections on the same door, on another one, and none.

`python -m benchmarks.live` (about five minutes). The listeners live in a process of their own; half of them are
WebSockets, half event streams, and one in ten never reads. They take turns between the door that is asked and a second
one, where the machine has the same to do. Figures go to standard output as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, cast

import aiohttp
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.servers import free_port, wait_for_port
from support.system import System, embedded_system

LISTENERS, DEAF = 500, 50
PER_SECOND = 20.0
WINDOW = 5.0
WINDOWS = 12
PLACES = ("none", "on another", "on the same")
"""Where the listeners are, in turn."""
LARGE = "y" * 9_000
CONTENT = "The kiln was opened and every bowl had come out green. " * 20


class Listener(asyncio.Protocol):
    """A client that counts what it gets; a `deaf` one stops reading once it is in."""

    def __init__(self, kind: str, key: str, *, deaf: bool, counts: Counter[str]) -> None:
        self.kind, self.deaf, self.counts = kind, deaf, counts
        self._key = key
        self._begun = False
        self._tail = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        path = "/v1/ws" if self.kind == "ws" else "/v1/events"
        upgrade = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
        )
        head = f"GET {path} HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer {self._key}\r\n"
        self._transport.write((head + (upgrade if self.kind == "ws" else "") + "\r\n").encode())

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._begun:
            self._begin(data)
        seen = self._tail + data
        self.counts["events"] += seen.count(b'"remembered","at"')
        self._tail = seen[-16:]
        if self.kind == "ws" and b"\x89\x00" in data:
            self._transport.write(b"\x8a\x80\0\0\0\0")

    def _begin(self, data: bytes) -> None:
        assert self._transport is not None
        self._begun = True
        self.counts["open" if data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")) else "refused"] += 1
        if self.kind == "ws":
            said = b'{"type":"subscribe","id":"s"}'
            self._transport.write(b"\x81" + bytes([0x80 | len(said)]) + b"\0\0\0\0" + said)
        if self.deaf:
            asyncio.get_running_loop().call_later(0.5, self._transport.pause_reading)

    def connection_lost(self, _: Exception | None) -> None:
        self.counts["lost deaf" if self.deaf else "lost"] += 1


def listen(key: str, pipe: Connection) -> None:
    """A process of listeners: told the port of a door to connect to, `close` or `end`."""
    os.nice(19)  # clients have machines of their own
    uvloop.run(_listen(key, pipe))


async def _listen(key: str, pipe: Connection) -> None:
    loop = asyncio.get_running_loop()
    counts: Counter[str] = Counter()
    transports: list[asyncio.BaseTransport] = []
    while (told := await loop.run_in_executor(None, pipe.recv)) != "end":
        if isinstance(told, int):
            for number in range(LISTENERS):
                made = await loop.create_connection(
                    partial(Listener, ("ws", "sse")[number % 2], key, deaf=number < DEAF, counts=counts),
                    "127.0.0.1",
                    told,
                )
                transports.append(made[0])
            while counts["open"] + counts["refused"] < len(transports):
                await asyncio.sleep(0.05)
        if told == "close":
            for transport in transports:
                transport.abort()  # type: ignore[attr-defined]  # each is a socket's
            transports.clear()
            await asyncio.sleep(1.5)
            pipe.send(dict(counts))
            counts.clear()
            continue
        pipe.send(dict(counts))


async def produce(
    session: aiohttp.ClientSession, system: System, seconds: float, content: str = CONTENT
) -> list[float]:
    """Remember so many times a second; how long each took, in milliseconds."""
    return await _paced(session, f"{system.url}/v1/memories", {"content": content}, seconds)


async def recall(session: aiohttp.ClientSession, system: System, seconds: float) -> list[float]:
    """Recall so many times a second; how long each took, in milliseconds."""
    return await _paced(session, f"{system.url}/v1/recall", {"query": "green bowls", "limit": 10}, seconds)


async def _paced(session: aiohttp.ClientSession, url: str, body: dict[str, Any], seconds: float) -> list[float]:
    took: list[float] = []
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        async with session.post(url, json=body) as answer:
            assert answer.status in (200, 202), await answer.text()
            await answer.read()
        took.append((time.monotonic() - now) * 1_000)
        await asyncio.sleep(max(1 / PER_SECOND - (time.monotonic() - now), 0))
    return took


def figures(took: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Milliseconds by where the listeners were, in all windows together and in the one in the middle."""
    every = {place: [one for window in windows for one in window] for place, windows in took.items()}
    return {
        "p50_ms": {place: share(values, 0.5) for place, values in every.items()},
        "p95_ms": {place: share(values, 0.95) for place, values in every.items()},
        "median_of_windows_p95_ms": {
            place: round(median(share(window, 0.95) for window in windows), 2) for place, windows in took.items()
        },
        "requests": {place: len(values) for place, values in every.items()},
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(values: list[float], part: float) -> float:
    """The value that so many of all lie below."""
    return round(sorted(values)[int(len(values) * part)], 2)


def port_of(system: System) -> int:
    """Where its door listens."""
    return int(system.url.rsplit(":", 1)[1])


@contextlib.contextmanager
def second_door(system: System, port: int) -> Iterator[None]:
    """Another door of the same system."""
    broker = system.nats
    assert broker.password is not None
    settings = {
        "ENGRAM_DATA_DIR": str(system.data_dir), "ENGRAM_SERVE_PORT": str(port), "ENGRAM_NATS_URL": broker.url,
        "ENGRAM_NATS_USER": str(broker.user), "ENGRAM_NATS_PASSWORD": broker.password.get_secret_value(),
        "ENGRAM_DURABILITY": "process", "ENGRAM_CONFIG": os.devnull,
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "engram_api"], env={**os.environ, **settings})
    try:
        wait_for_port(port, process, seconds=60.0)
        yield
    finally:
        process.terminate()
        process.wait()


async def measure(system: System, pipe: Connection, other: int) -> dict[str, Any]:
    """Windows with the listeners nowhere, there and here, in turn."""
    took: dict[str, list[list[float]]] = {place: [] for place in PLACES}
    recalled: dict[str, list[list[float]]] = {place: [] for place in PLACES}
    cpu = dict.fromkeys(PLACES, 0.0)
    told: list[dict[str, int]] = []
    door = system.pids["api"]
    memory = [resident(door)]
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(headers=system.headers) as session:
        await produce(session, system, 2.0)
        for number in range(len(PLACES) * WINDOWS):
            kind = PLACES[number % len(PLACES)]
            if kind != "none":
                pipe.send(port_of(system) if kind == "on the same" else other)
                await loop.run_in_executor(None, pipe.recv)
            before = cpu_seconds(door)
            written, read = await asyncio.gather(produce(session, system, WINDOW), recall(session, system, WINDOW))
            took[kind].append(written)
            recalled[kind].append(read)
            cpu[kind] += cpu_seconds(door) - before
            memory.append(resident(door))
            pipe.send("close")
            told.append(await loop.run_in_executor(None, pipe.recv))
        pipe.send(port_of(system))
        await loop.run_in_executor(None, pipe.recv)
        await produce(session, system, 15.0, LARGE)
        await asyncio.sleep(8.0)  # a WebSocket is given a moment to read why it is closed
        memory.append(resident(door))
        async with session.get(f"{system.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
    return {
        "remember": figures(took),
        "recall": figures(recalled),
        "door_cpu_share": {kind: round(value / (WINDOW * WINDOWS), 3) for kind, value in cpu.items()},
        "door_rss_mib": [round(value / 2**20) for value in memory],
        "listeners": told,
        "closed": [line for line in lines if line.startswith("engram_live_closed_total{")],
        "load_average": os.getloadavg(),
    }


def main() -> None:
    """Measure, and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_system(Path(folder), environ={"ENGRAM_SERVE_SLOW_SECONDS": "3"}) as system,
    ):
        ours, theirs = multiprocessing.Pipe()
        other = free_port()
        process = multiprocessing.Process(target=listen, args=(system.admin_key, theirs))
        process.start()
        with second_door(system, other):
            print(json.dumps(asyncio.run(measure(system, ours, other)), indent=1))
        ours.send("end")
        process.join()


if __name__ == "__main__":
    main()
