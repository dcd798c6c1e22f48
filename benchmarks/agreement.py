"""Whether all parts of Engram agree on real conversations: what was sent is fetched, recalled, counted and connected.

    python -m benchmarks.agreement FOLDER

sends every turn of the LoCoMo conversations in FOLDER through HTTP to an Engram of its own and compares. Exits 1
when anything differs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks import locomo
from benchmarks.locomo import Conversation, Record
from engram.door import Door
from engram.ingest import send
from engram_contracts.errors import NotFound
from engram_contracts.questions import CountIndexed, CountRecorded
from engram_contracts.topology import LOG
from engram_runtime.nats_bus import NatsBus, open_bus
from support.system import System, embedded_system

T = TypeVar("T")
R = TypeVar("R")

TENANT = "default"
AT_ONCE = 8
SETTLE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison. `missing` names what is not as it should be, the first few."""

    what: str
    expected: int
    found: int
    missing: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether what was found is what was expected."""
        return self.expected == self.found and not self.missing


@dataclass(frozen=True, slots=True)
class Sent:
    """A memory that was sent, with the id and the job it was given."""

    record: Record
    id: str
    job: str


async def check(system: System, conversations: Sequence[Conversation]) -> list[Line]:
    """Send the conversations to an Engram that holds nothing else, wait until all is done, and compare."""
    door = Door(system.url, system.admin_key)
    async with door, open_bus(system.nats, name="engram-agreement") as bus:
        sent = await _ingest(door, [memory for talk in conversations for memory in talk.memories])
        return [
            await _finished(door, sent),
            Line("ids, each once", len(sent), len({one.id for one in sent})),
            await _fetched(door, sent),
            await _recalled(door, sent),
            *await _counted(door, bus, len(sent)),
            *await _connected(door, conversations, {one.id for one in sent}),
        ]


async def _ingest(door: Door, records: Sequence[Record]) -> list[Sent]:
    made = await send(door, records, lambda _: None)
    return [Sent(record, one["id"], one["job"]) for record, one in zip(records, made, strict=True)]


async def _finished(door: Door, sent: Sequence[Sent]) -> Line:
    async def state(one: Sent) -> str | None:
        job: Record = {}
        async for _ in _until_deadline():
            job = (await door.call("GET", f"/v1/jobs/{one.job}"))["data"]
            if job["state"] in ("done", "dead"):
                break
        return None if job["state"] == "done" else f"{one.record['key']} is {job['state']}"

    return _line("jobs done", await _each(sent, state))


async def _fetched(door: Door, sent: Sequence[Sent]) -> Line:
    async def differs(one: Sent) -> str | None:
        try:
            stored = (await door.call("GET", f"/v1/memories/{one.id}"))["data"]
        except NotFound:
            return f"{one.record['key']} is not there"
        wrong = [name for name in one.record.keys() - {"key"} if stored.get(name) != one.record[name]]
        return f"{one.record['key']} differs in {', '.join(wrong)}" if wrong else None

    return _line("fetched by id, as sent", await _each(sent, differs))


async def _recalled(door: Door, sent: Sequence[Sent]) -> Line:
    async def missed(one: Sent) -> str | None:
        body = {"query": one.record["content"], "limit": 10, "filters": {"user_id": one.record["user_id"]}}
        hits = (await door.call("POST", "/v1/recall", body))["data"]["hits"]
        return None if one.id in [hit["memory"]["id"] for hit in hits] else f"{one.record['key']} is not in its top 10"

    return _line("recalled by its own words", await _each(sent, missed))


async def _counted(door: Door, bus: NatsBus, sent: int) -> list[Line]:
    """Every store's own count, each given time to come to it."""

    async def indexed() -> int:
        return (await bus.ask(CountIndexed(tenant=TENANT), within=5.0)).memories

    async def recorded() -> int:
        return (await bus.ask(CountRecorded(tenant=TENANT), within=5.0)).memories

    async def listed() -> int:
        return len({memory["id"] async for memory in _pages(door)})

    async def logged() -> int:
        info = await bus.jetstream.stream_info(LOG.name, subjects_filter=f"engram.log.*.{TENANT}.remembered")
        return sum((info.state.subjects or {}).values())

    async def metered() -> int:
        usage = (await door.call("GET", "/v1/usage"))["data"]
        return int(usage["totals"].get("memories_created", 0))

    counts = {
        "counted in Qdrant": indexed,
        "counted in DuckDB": recorded,
        "listed page by page": listed,
        "remembered facts on the log": logged,
        "memories_created in the usage ledger": metered,
    }
    return [Line(what, sent, await _settled(count, sent)) for what, count in counts.items()]


async def _connected(door: Door, conversations: Sequence[Conversation], ids: set[str]) -> list[Line]:
    speakers = sorted({speaker for talk in conversations for speaker in talk.speakers})
    edges = {speaker: await _edges(door, speaker) for speaker in speakers}
    evidence = {memory for some in edges.values() for edge in some for memory in edge.get("evidence", [])}
    alone = tuple(speaker for speaker, some in edges.items() if not any(edge.get("evidence") for edge in some))
    return [
        Line("speakers connected, with evidence", len(speakers), len(speakers) - len(alone), alone),
        Line("evidence that was sent", len(evidence), len(evidence & ids), tuple(sorted(evidence - ids))),
    ]


async def _edges(door: Door, speaker: str) -> list[Record]:
    try:
        answer = await door.call("GET", "/v1/graph/neighbours", node=f"person:{speaker}", hops=1, limit=200)
    except NotFound:
        return []
    edges: list[Record] = answer["data"]["edges"]
    return edges


async def _pages(door: Door) -> AsyncIterator[Record]:
    cursor: str | None = None
    while True:
        page = await door.call("GET", "/v1/memories", limit=500, cursor=cursor)
        for memory in page["data"]["memories"]:
            yield memory
        cursor = page["meta"].get("next")
        if cursor is None:
            return


async def _settled(count: Callable[[], Awaitable[int]], wanted: int) -> int:
    """The count, as soon as it is what is wanted or at the deadline."""
    found = -1
    async for _ in _until_deadline():
        found = await count()
        if found == wanted:
            break
    return found


async def _until_deadline() -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_SECONDS
    yield
    while loop.time() < deadline:
        await asyncio.sleep(0.1)
        yield


async def _each(items: Iterable[T], ask: Callable[[T], Awaitable[R]]) -> list[R]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with gate:
            return await ask(item)

    return await asyncio.gather(*(one(item) for item in items))


def _line(what: str, troubles: Sequence[str | None]) -> Line:
    told = tuple(trouble for trouble in troubles if trouble)
    return Line(what, len(troubles), len(troubles) - len(told), told)


def table(lines: Iterable[Line]) -> Table:
    """The comparisons, readable."""
    shown = Table("what", "expected", "found", "", title="Agreement")
    for line in lines:
        shown.add_row(line.what, str(line.expected), str(line.found), "agrees" if line.agrees else "DIFFERS")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 when everything agrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the LoCoMo conversations lie")
    folder: Path = parser.parse_args(arguments).folder
    with tempfile.TemporaryDirectory() as scratch, embedded_system(Path(scratch)) as system:
        lines = asyncio.run(check(system, locomo.load(folder)))
    Console().print(table(lines))
    for line in lines:
        for trouble in line.missing[:20]:
            print(f"{line.what}: {trouble}")
    return 0 if all(line.agrees for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
