"""`engram restart` under load: every process is a new one, and no request of a client that never retries failed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp

from support.system import System, embedded_system

ENGRAM = str(Path(sys.executable).with_name("engram"))
WRITERS, READERS = 3, 3


async def test_every_process_is_replaced_and_no_request_fails(tmp_path: Path) -> None:
    answers: Counter[str] = Counter()
    with embedded_system(tmp_path) as system:
        before = system.pids
        async with aiohttp.ClientSession(headers=system.headers) as session:
            stop = asyncio.Event()
            clients = [asyncio.create_task(write(session, system, stop, answers, n)) for n in range(WRITERS)]
            clients += [asyncio.create_task(read(session, system, stop, answers)) for _ in range(READERS)]
            await reached(answers, 50)
            code, told = await restart(system)
            await reached(answers, answers.total() + 50)
            stop.set()
            await asyncio.gather(*clients)
        after = system.pids
        niceness = {name: of_threads(after[name]) for name in ("graph", "metering", "vectors")}

    assert code == 0, told
    assert set(answers) == {"POST /v1/memories 202", "POST /v1/recall 200", "GET /v1/memories 200"}, answers
    assert all(after[name] != process for name, process in before.items())
    assert niceness == {"graph": {5}, "metering": {10}, "vectors": {0}}


def of_threads(process: int) -> set[int]:
    """The niceness of its threads."""
    stats = [file.read_text() for file in Path(f"/proc/{process}/task").glob("*/stat")]
    return {int(stat.rpartition(")")[2].split()[16]) for stat in stats}


async def test_where_nothing_runs_restart_says_so(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        ENGRAM, "--data-dir", str(tmp_path), "restart", stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()

    assert process.returncode == 3
    assert b"engram serve" in told


async def restart(system: System) -> tuple[int | None, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    process = await asyncio.create_subprocess_exec(
        ENGRAM, "--data-dir", str(system.data_dir), "restart", env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, told = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode, told.decode()


async def write(session: aiohttp.ClientSession, system: System, stop: asyncio.Event, answers: Counter, n: int) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        await ask(session, system, answers, "POST", "/v1/memories", {"content": f"Writer {n} saw {number} herons."})
        await asyncio.sleep(0.02)


async def read(session: aiohttp.ClientSession, system: System, stop: asyncio.Event, answers: Counter) -> None:
    while not stop.is_set():
        await ask(session, system, answers, "POST", "/v1/recall", {"query": "herons", "limit": 3})
        await ask(session, system, answers, "GET", "/v1/memories", None)
        await asyncio.sleep(0.05)


async def ask(
    session: aiohttp.ClientSession, system: System, answers: Counter, method: str, path: str, body: object
) -> None:
    try:
        async with session.request(method, system.url + path, json=body) as answer:
            text = await answer.text()
            said = "" if answer.status < 300 else f" {text[:300]}"
            answers[f"{method} {path} {answer.status}{said}"] += 1
    except aiohttp.ClientError as error:
        answers[f"{method} {path} {error!r}"] += 1


async def reached(answers: Counter, count: int) -> None:
    deadline = time.monotonic() + 30
    while answers.total() < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
