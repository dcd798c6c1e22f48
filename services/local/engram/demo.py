"""`engram demo`: start everything, remember a conversation, show what can be done with it, stop.

It speaks to the system as any client does: over HTTP, and to the broker for the state of the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engram import ingest, operating, reading, showing
from engram.door import Door
from engram_contracts.errors import Internal, NotFound

CONVERSATION = Path(__file__).with_name("conversation.jsonl")
QUESTIONS = (
    "What is Joel allergic to?",
    "When is the wedding in Porto?",
    "Which town did Pavel move to?",
    "Who will lead the night team?",
)
PUZZLE = "Why did Joel not run in Rotterdam?"
STOP_SECONDS = 35.0
SETTLE_SECONDS = 60.0
LEDGER_SECONDS, LEDGER_PAUSE = 3.0, 0.3

Json = dict[str, Any]


def show(file: Path | None, data_dir: Path | None, *, quiet: bool = False) -> Json:
    """Run the demonstration on a conversation, the shipped one by default; what was answered, step by step.

    Its `exit_code` is that of the system it started. The data is kept where `data_dir` is given; `quiet` shows nothing.
    Raises the error family when something does not work.
    """
    showing.console.quiet = quiet
    began = time.monotonic()
    path = file or CONVERSATION
    records = reading.read(path, reading.text_of(path))
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="engram-demo-")))
        system = stack.enter_context(_system(folder.absolute()))
        told = asyncio.run(_tour(system, path, records))
        code = _stop(system.process)
    showing.note(f"Everything stopped with exit code {code}; the whole demonstration took {_since(began)}.")
    return {**told, "exit_code": code, "seconds": round(time.monotonic() - began, 1)}


@dataclass(frozen=True, slots=True)
class _System:
    process: subprocess.Popen[str]
    folder: Path


@contextlib.contextmanager
def _system(folder: Path) -> Iterator[_System]:
    """`engram serve` with its defaults, on free ports, ready; nothing of this machine's configuration counts."""
    began = time.monotonic()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    command = [
        sys.executable,
        "-m",
        "engram",
        "serve",
        "--port",
        "0",
        "--config",
        os.devnull,
        "--data-dir",
        str(folder),
    ]
    with showing.waiting("starting nats-server and the services"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)  # noqa: S603 (this program)
        said = _ready(process)
    try:
        if said:
            raise Internal(f"engram serve ended before it was ready: {said}")
        showing.heading("Engram runs", f"ready after {_since(began)}, everything in {folder}")
        yield _System(process, folder)
    finally:
        _stop(process)


def _ready(process: subprocess.Popen[str]) -> str | None:
    """Return when the supervisor says it is ready; what it said instead if it ended."""
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        if ": ready on " in line:
            return None
        said.append(line.strip())
    return " / ".join(said[-3:]) or "nothing was said"


def _stop(process: subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    return process.wait(STOP_SECONDS)


async def _tour(system: _System, path: Path, records: list[Json]) -> Json:
    async with Door.find(url=None, key=None, data_dir=system.folder) as door:
        return {
            "remembered": await _remember(door, path, records),
            "recalled": await _recall(door, QUESTIONS if path == CONVERSATION else await _topics(door)),
            "walked": await _walk(door),
            "thought": await _think(door, PUZZLE if path == CONVERSATION else (await _topics(door))[0]),
            "changed": await _change(door),
            "used": await _use(door),
            "parts": await _parts(system),
        }


async def _parts(system: _System) -> Json:
    showing.heading("The parts", "engram status")
    status = await operating.status(system.folder)
    showing.status(status)
    return status


async def _remember(door: Door, path: Path, records: list[Json]) -> Json:
    sessions = len({record.get("session_id") for record in records})
    showing.heading("Remember", f"{len(records)} memories of {sessions} sessions from {path.name}")
    began = time.monotonic()
    with showing.progress(len(records), "accepted by the door", quiet=False) as advance:
        made = await ingest.send(door, records, advance)
    accepted = _since(began)
    last = await ingest.settle(door, made[-1]["job"], within=SETTLE_SECONDS)
    showing.note(f"accepted after {accepted}, all indexed and linked after {_since(began)}; the last of them:")
    showing.timeline(last)
    await ingest.send(door, records, lambda _: None)
    total = (await door.call("GET", "/v1/memories", limit=1))["data"]["total"]
    showing.note(f"sent a second time, nothing was added: {total} memories")
    return {"memories": total, "last": last}


async def _topics(door: Door) -> tuple[str, ...]:
    """Questions about what a conversation speaks of most."""
    nodes = (await door.call("GET", "/v1/graph/nodes", limit=3))["data"]["nodes"]
    return tuple(f"What about {node['name']}?" for node in nodes) or ("What is this about?",)


async def _recall(door: Door, questions: tuple[str, ...]) -> Json:
    answers: Json = {}
    showing.heading("Recall", "dense and sparse search, neighbours in the conversation, the graph; no language model")
    for question in questions:
        answers[question] = answer = await door.call("POST", "/v1/recall", {"query": question, "limit": 3})
        showing.question(question, answer["meta"]["took_ms"])
        showing.recollection(answer)
    return answers


async def _walk(door: Door) -> Json:
    people = (await door.call("GET", "/v1/graph/nodes", type="person", limit=1))["data"]["nodes"]
    nodes = people or (await door.call("GET", "/v1/graph/nodes", limit=1))["data"]["nodes"]
    if not nodes:
        return {}
    centre = nodes[0]["id"]
    showing.heading("Walk the graph", f"two steps around {centre}, with the memories that say so")
    around = (await door.call("GET", "/v1/graph/neighbours", node=centre, hops=2, limit=30))["data"]
    cited = [edge["evidence"][0] for edge in showing.shown_edges(centre, around) if edge["evidence"]]
    showing.walk(centre, around, await _texts(door, cited))
    return {"centre": centre, **around}


async def _texts(door: Door, ids: list[str]) -> dict[str, Json]:
    unique = list(dict.fromkeys(ids))
    found = await asyncio.gather(*(door.call("GET", f"/v1/memories/{identity}") for identity in unique))
    return {identity: answer["data"] for identity, answer in zip(unique, found, strict=True)}


async def _think(door: Door, question: str) -> Json:
    showing.heading("Think", "without a model the answer is taken from the memories, and says so")
    answer = await door.call("POST", "/v1/think", {"question": question, "limit": 5})
    showing.question(question, answer["meta"]["took_ms"])
    showing.thought(answer["data"], await _texts(door, [cited["memory_id"] for cited in answer["data"]["citations"]]))
    return {"question": question, **answer["data"]}


async def _change(door: Door) -> Json:
    showing.heading("Change and forget", "edited, deleted; every version until then is in its history")
    memory = {"content": "Dinner with the museum is on Friday at seven.", "kind": "plan", "speaker": "Mara"}
    made = (await door.call("POST", "/v1/memories", memory, wait="done"))["data"]
    where = f"/v1/memories/{made['id']}"
    await door.call("PATCH", where, {"content": "Dinner with the museum is on Saturday at eight."}, wait="done")
    found = await door.call("POST", "/v1/recall", {"query": "dinner with the museum", "limit": 1})
    showing.recollection(found)
    history = (await door.call("GET", f"{where}/history"))["data"]["versions"]
    await door.call("DELETE", where, wait="done")
    showing.history(history)
    gone = await _gone(door, where)
    showing.note(gone)
    return {"versions": history, "gone": gone}


async def _gone(door: Door, where: str) -> str:
    try:
        await door.call("GET", where)
    except NotFound as error:
        return f"deleted: {error.message}"
    raise Internal(f"{where} is still there after it was deleted")


async def _use(door: Door) -> Json:
    showing.heading("Usage", "counted from what happened, once each")
    usage = await _settled_usage(door)
    showing.usage(usage)
    return usage


async def _settled_usage(door: Door) -> Json:
    """Usage once the ledger has caught up: it counts what happened, a moment after it happened."""
    deadline, seen = time.monotonic() + LEDGER_SECONDS, -1
    while True:
        usage: Json = (await door.call("GET", "/v1/usage"))["data"]
        counted = usage["totals"].get("embedding_tokens", 0)
        if counted == seen or time.monotonic() > deadline:
            return usage
        seen = counted
        await asyncio.sleep(LEDGER_PAUSE)


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
