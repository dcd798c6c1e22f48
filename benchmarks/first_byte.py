"""How long the first piece of a streamed answer takes from the model's mouth to the client, beside the model alone.

`python -m benchmarks.first_byte` (about half a minute). The model is a server in a process of its own that says, as the
beginning of its answer, when it spoke; all processes of a machine read the same clock. `said to heard` is from then
until the client has the first piece, `asked to heard` from the question, with recall, queue and prompt in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.apart import apart
from benchmarks.figures import markdown, number, p
from support.fake_model import PIECE, Reply, fake_model
from support.system import System, embedded_system

QUESTIONS, AT_ONCE = 150, 4
QUESTION = "When does the kiln cool?"
MEMORIES = [f"The kiln cools on day {day} after the glaze is fired." for day in range(40)]
MICROS = 1_000_000
WIDTH = 3 * PIECE
"""Digits of the time that an answer begins with."""


@dataclass(frozen=True, slots=True)
class First:
    """When a first piece was asked for, said and heard, in seconds of the machine's clock."""

    asked: float
    said: float
    heard: float


@contextlib.asynccontextmanager
async def speaking() -> AsyncIterator[str]:
    """The model, which begins each answer with the time."""

    def now(_: dict[str, Any]) -> str:
        return f"{time.monotonic_ns() // 1_000:0{WIDTH}d} On the third day, once the glaze is fired [1]."

    async with fake_model(Reply(text=now)) as model:
        yield model.base_url


async def pieces_of_model(session: aiohttp.ClientSession, url: str) -> AsyncIterator[str]:
    """What the model says, asked by nobody else."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    async with session.post(f"{url}/chat/completions", json=body) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {") and (choices := json.loads(line[6:])["choices"]):
                yield choices[0]["delta"].get("content", "")


async def pieces_of_stream(session: aiohttp.ClientSession, system: System) -> AsyncIterator[str]:
    """What the door streams over HTTP."""
    headers = {**system.headers, "Accept": "text/event-stream"}
    async with session.post(f"{system.url}/v1/think", json={"question": QUESTION}, headers=headers) as answer:
        event = b""
        async for line in answer.content:
            event = line[7:].strip() if line.startswith(b"event: ") else event
            if line.startswith(b"data: ") and event == b"token":
                yield json.loads(line[6:])["text"]


async def pieces_of_socket(session: aiohttp.ClientSession, system: System) -> AsyncIterator[str]:
    """What the door streams on a WebSocket."""
    async with session.ws_connect(f"{system.url}/v1/ws", headers=system.headers) as socket:
        await socket.receive_json()
        await socket.send_json({"type": "think", "id": "t", "body": {"question": QUESTION}, "stream": True})
        while (said := await socket.receive_json())["type"] == "frame":
            if said["event"] == "token":
                yield said["data"]["text"]


async def first(pieces: AsyncIterator[str]) -> First:
    """When the first piece came. The answer is heard to its end."""
    asked, heard, text = time.monotonic(), 0.0, ""
    async for piece in pieces:
        heard = heard or time.monotonic()
        text += piece
    return First(asked, int(text[:WIDTH]) / MICROS, heard)


async def asked(make: Any, *, at_once: int) -> list[First]:
    """So many questions, some of them at once."""
    numbers = iter(range(QUESTIONS))

    async def one_after_the_other() -> list[First]:
        return [await first(make()) for _ in numbers]

    return [one for some in await asyncio.gather(*(one_after_the_other() for _ in range(at_once))) for one in some]


def cells(what: str, firsts: list[First]) -> list[str]:
    """A line of the table, in milliseconds."""
    said = [1_000 * (one.heard - one.said) for one in firsts]
    whole = [1_000 * (one.heard - one.asked) for one in firsts]
    return [what, *(number(figure(ms)) for ms in (said, whole) for figure in (_p50, _p95, max))]


def _p50(values: list[float]) -> float:
    return p(50, values)


def _p95(values: list[float]) -> float:
    return p(95, values)


HEADINGS = (
    "first piece, ms", "said to heard p50", "p95", "max", "asked to heard p50", "p95", "max",
)  # fmt: skip


async def measure(system: System, model: str) -> list[list[str]]:
    """Every way to the model, alone and with others."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        body = {"memories": [{"content": text} for text in MEMORIES]}
        async with session.post(f"{system.url}/v1/memories?wait=done", json=body, headers=system.headers) as answer:
            assert answer.status == 201, await answer.text()
        ways: dict[str, Any] = {
            "the model itself": lambda: pieces_of_model(session, model),
            "POST /v1/think": lambda: pieces_of_stream(session, system),
            "/v1/ws": lambda: pieces_of_socket(session, system),
        }
        for make in ways.values():
            await first(make())
        return [
            cells(f"{what}, {at_once} at once", await asked(make, at_once=at_once))
            for at_once in (1, AT_ONCE)
            for what, make in ways.items()
        ]


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory(prefix="engram-first-") as folder, apart(speaking) as model:
        llm = {"ENGRAM_LLM_BASE_URL": model, "ENGRAM_LLM_MODEL": "m"}
        with embedded_system(Path(folder), environ=llm) as system:
            print(markdown(HEADINGS, asyncio.run(measure(system, model))))


if __name__ == "__main__":
    main()
