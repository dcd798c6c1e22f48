"""The auditor: after the storm, what was promised is compared with what every store holds.

While the system runs it waits until everything is worked off and reads the dead letters; after it has ended it opens
the stores' own files, so that nothing it sees went through the code that is tested.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from nats.js.errors import NotFoundError

from engram_contracts.topology import CONSUMERS, DEAD, WORK, Consumer
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.settings import NatsSettings
from support.journal import Journal, Story, fingerprint

SHOWN = 5
FOLLOWERS = tuple(consumer for consumer in CONSUMERS if consumer.stream is not WORK)
PAGE = 1_000


@dataclass(frozen=True)
class Buried:
    """A dead letter: whose, from which stage, for which command and memory, and the headers it carries."""

    tenant: str
    stage: str
    command: str | None
    memory_id: str | None
    headers: dict[str, str]
    body: bytes
    sequence: int

    @property
    def told(self) -> bool:
        """Whether it carries its context: why, which error, where, how often, since when, and where it was sent."""
        wanted = ("Reason", "Error", "Code", "Stage", "Attempts", "First", "Last", "Subject", "Stream", "Sequence")
        return all(self.headers.get(f"Engram-Dead-{name}") for name in wanted)


@dataclass(frozen=True)
class Found:
    """A memory as a store holds it; one that was forgotten has no text."""

    tenant: str
    id: str
    name: str | None
    version: int = 1
    size: int = 0


@dataclass
class Verdict:
    """What the auditor found: each list holds what must not be."""

    acked: int = 0
    kept: int = 0
    dead: Counter[str] = field(default_factory=Counter)
    """How many were buried, by stage and reason."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    ghosts: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, tuple[int, list[str]]]:
        """How many of each kind, with the first of them."""
        kinds = ("lost", "doubled", "ghosts", "strays", "crossed", "unequal")
        return {kind: (len(getattr(self, kind)), getattr(self, kind)[:SHOWN]) for kind in kinds if getattr(self, kind)}

    def __str__(self) -> str:
        dead = f"{self.dead.total()} dead" + (f" ({_counted(self.dead)})" if self.dead else "")
        return f"{self.acked} acknowledged, {self.kept} kept, {dead}, faults: {self.faults or 'none'}"


def _counted(dead: Counter[str]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in dead.most_common(SHOWN))


# --- while it runs ------------------------------------------------------------------------------------------


async def until_drained(nats: NatsSettings, *, within: float) -> float:
    """Seconds until no work waits and every follower has seen all; raises with what is left when time runs out."""
    began = time.monotonic()
    left: dict[str, object] = {"broker": "not reached"}
    try:
        async with asyncio.timeout(within), open_bus(nats, name="auditor") as bus:
            while left:
                left = await _left(bus)
                await asyncio.sleep(0.1 if left else 0)
    except TimeoutError:
        raise AssertionError(f"not drained after {within:g} s; left: {left}") from None
    return time.monotonic() - began


async def _left(bus: NatsBus) -> dict[str, object]:
    try:
        left: dict[str, object] = {}
        state = (await bus.jetstream.stream_info(WORK.name, subjects_filter=">")).state
        if state.messages:
            left["work"] = state.subjects or state.messages
        for consumer in FOLLOWERS:
            behind = await _behind(bus, consumer)
            if behind:
                left[f"{consumer.stream.name}/{consumer.name}"] = behind
    except Exception as error:  # the broker may still be away
        return {"broker": repr(error)}
    return left


async def _behind(bus: NatsBus, consumer: Consumer) -> int:
    try:
        info = await bus.jetstream.consumer_info(consumer.stream.name, consumer.name)
    except NotFoundError:
        return 0
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


async def dead_letters(nats: NatsSettings) -> list[Buried]:
    """Every dead letter there is, read from the stream itself."""
    async with open_bus(nats, name="auditor") as bus:
        return await letters_of(bus)


async def letters_of(bus: NatsBus) -> list[Buried]:
    """Every dead letter there is, read from the stream itself."""
    archive = bus.archive(DEAD)
    found: list[Buried] = []
    start = 1
    while some := await archive.read(start, pattern="engram.dead.>", limit=500):
        for stored in some:
            _, _, stage, tenant = stored.subject.split(".")
            body = _json(stored.body)
            memory = body.get("memory_id") or (body.get("memory") or {}).get("id")
            command = body.get("id") or body.get("command")
            found.append(Buried(tenant, stage, command, memory, dict(stored.headers), stored.body, stored.sequence))
        start = some[-1].sequence + 1
    return found


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# --- after it has ended -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What the graph's files hold: memories, and how often each command took effect."""

    memories: list[Found]
    commands: Counter[tuple[str, str]]


def read_record(data_dir: Path) -> Record:
    """The record, from every partition's file."""
    memories: list[Found] = []
    commands: Counter[tuple[str, str]] = Counter()
    for file in sorted((data_dir / "graph").glob("p*.duckdb")):
        with duckdb.connect(str(file), read_only=True) as connection:
            rows = connection.execute("SELECT tenant, id, version, record FROM memories").fetchall()
            memories += [_recorded(*row) for row in rows]
            jobs = connection.execute("SELECT tenant, command, count(*) FROM jobs GROUP BY ALL").fetchall()
            commands.update({(tenant, command): count for tenant, command, count in jobs})
    return Record(memories, commands)


def _recorded(tenant: str, identity: str, version: int, record: str | None) -> Found:
    if record is None:
        return Found(tenant, identity, None, version)
    content = json.loads(record)["content"]
    return Found(tenant, identity, fingerprint(content), version, len(content.encode()))


def read_edge(data_dir: Path) -> tuple[list[Found], list[str]]:
    """What the index's shard holds: memories, and points that belong to none."""
    import qdrant_edge as edge  # noqa: PLC0415 (36 MB that an audit of a server does without)

    shard = edge.EdgeShard.load(str(data_dir / "vectors" / "current" / "shard"))
    try:
        points: list[tuple[str, dict[str, Any]]] = []
        offset = None
        while True:
            some, offset = shard.scroll(edge.ScrollRequest(limit=PAGE, offset=offset, with_payload=True))
            points += [(point.id.hex, dict(point.payload or {})) for point in some]
            if offset is None:
                return _indexed(points)
    finally:
        shard.close()


def read_qdrant(rest: int, collection: str = "engram") -> tuple[list[Found], list[str]]:
    """The same of a Qdrant server."""
    points: list[tuple[str, dict[str, Any]]] = []
    offset = None
    while True:
        body = json.dumps({"limit": PAGE, "offset": offset, "with_payload": True}).encode()
        url = f"http://127.0.0.1:{rest}/collections/{collection}/points/scroll"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20.0) as answer:
            page = json.loads(answer.read())["result"]
        points += [(point["id"].replace("-", ""), point["payload"]) for point in page["points"]]
        offset = page["next_page_offset"]
        if offset is None:
            return _indexed(points)


def _indexed(points: Sequence[tuple[str, dict[str, Any]]]) -> tuple[list[Found], list[str]]:
    """Memories by their first points; the others must follow one of these."""
    heads: dict[str, Found] = {}
    chunks: dict[str, int] = {}
    for identity, payload in points:
        if not identity.endswith("0000"):
            continue
        entry = json.loads(payload["record"])
        memory = entry.get("memory")
        if memory is not None:
            name = fingerprint(memory["content"])
            heads[identity] = Found(payload["tenant"], memory["id"], name, memory.get("version", 1))
            chunks[identity] = max(1, len(entry.get("spans", ())))
    tails = [identity for identity, _ in points if not identity.endswith("0000")]
    strays = [each for each in tails if int(each[-4:], 16) >= chunks.get(each[:-4] + "0000", 0)]
    return list(heads.values()), strays


@dataclass(frozen=True)
class Ledger:
    """What metering's file holds: totals by tenant and meter, memories' sizes, and commands charged twice."""

    totals: dict[tuple[str, str], int]
    sizes: dict[tuple[str, str], list[int | None]]
    doubled: list[tuple[str, str, str]]


def read_ledger(data_dir: Path) -> Ledger:
    """The ledger, from its file."""
    with duckdb.connect(str(data_dir / "metering" / "ledger.duckdb"), read_only=True) as connection:
        totals = connection.execute("SELECT tenant, meter, sum(amount)::BIGINT FROM ledger GROUP BY ALL").fetchall()
        sizes = connection.execute("SELECT tenant, memory_id::VARCHAR, list(bytes) FROM sizes GROUP BY ALL").fetchall()
        doubled = connection.execute(
            "SELECT tenant, event_id, meter FROM ledger GROUP BY ALL HAVING count(*) > 1"
        ).fetchall()
    return Ledger(
        {(tenant, meter): total for tenant, meter, total in totals},
        {(tenant, identity): held for tenant, identity, held in sizes},
        [(tenant, event, meter) for tenant, event, meter in doubled],
    )


def audit(
    journal: Journal,
    data_dir: Path,
    dead: Sequence[Buried],
    *,
    index: Callable[[], tuple[list[Found], list[str]]] | None = None,
    spared: Callable[[Story], bool] = lambda _: False,
    net: bool = False,
) -> Verdict:
    """Compare the journal with the record, the index, the ledger and the dead letters.

    `index` reads an index that is not the embedded one. `spared` names what may be missing (what a setting does not
    promise). With `net`, memories that the ledger counted as created and deleted again may be gone from the record.
    """
    record = read_record(data_dir)
    indexed, strays = index() if index else read_edge(data_dir)
    stories = journal.stories()
    verdict = Verdict(acked=journal.written, strays=[f"point {each}" for each in strays])
    verdict.dead.update(f"{letter.stage}: {letter.headers.get('Engram-Dead-Reason')}" for letter in dead)
    _check_record(verdict, journal, stories, record, {b.memory_id for b in dead}, spared)
    _check_doubles(verdict, record, indexed)
    _check_index(verdict, record.memories, indexed)
    _check_ledger(verdict, record.memories, read_ledger(data_dir), net=net)
    return verdict


def _check_record(
    verdict: Verdict,
    journal: Journal,
    stories: dict[str, Story],
    record: Record,
    buried: set[str | None],
    spared: Callable[[Story], bool],
) -> None:
    held = {memory.id: memory for memory in record.memories}
    verdict.kept = len(held)
    for identity, story in stories.items():
        memory = held.get(identity)
        if memory is None:
            if identity not in buried and not spared(story):
                verdict.lost.append(f"{story.tenant}/{identity}")
        elif memory.tenant != story.tenant:
            verdict.crossed.append(f"{identity} of {story.tenant} lies at {memory.tenant}")
        elif identity not in buried and not spared(story):
            verdict.lost += [f"{story.tenant}/{identity}: {what}" for what in _missing(story, memory)]
    for memory in record.memories:
        owner = journal.sent.get(memory.name) if memory.name else memory.tenant
        if owner is None or (memory.name is None and memory.id not in stories):
            verdict.ghosts.append(f"{memory.tenant}/{memory.id} was never sent")
        elif owner != memory.tenant:
            verdict.crossed.append(f"{memory.id} was sent by {owner} and lies at {memory.tenant}")


def _missing(story: Story, memory: Found) -> Iterator[str]:
    """What was acknowledged of a memory and did not take effect, or did so twice."""
    if story.forgotten_acked and memory.name is not None:
        yield "was to be forgotten"
    if memory.name is None:
        if not story.forgetting:
            yield "is forgotten, and nobody asked"
        return
    allowed = {story.revised} if story.revision_acked else {story.first, story.revised}
    if memory.name not in allowed:
        yield "does not say what was acknowledged"
    if memory.version != (2 if memory.name == story.revised else 1):
        yield f"has version {memory.version}"


def _check_doubles(verdict: Verdict, record: Record, indexed: Sequence[Found]) -> None:
    for where, memories in (("record", record.memories), ("index", indexed)):
        ids = Counter((memory.tenant, memory.id) for memory in memories)
        texts = Counter(memory.name for memory in memories if memory.name)
        verdict.doubled += [f"{where}: id {key}" for key, count in ids.items() if count > 1]
        verdict.doubled += [f"{where}: text {name}" for name, count in texts.items() if count > 1]
    verdict.doubled += [f"record: command {key}" for key, count in record.commands.items() if count > 1]


def _check_index(verdict: Verdict, recorded: Sequence[Found], indexed: Sequence[Found]) -> None:
    kept = {(m.tenant, m.id): (m.name, m.version) for m in recorded if m.name is not None}
    found = {(m.tenant, m.id): (m.name, m.version) for m in indexed}
    for key in kept.keys() - found.keys():
        verdict.lost.append(f"index: {key}")
    for key in found.keys() - kept.keys():
        verdict.ghosts.append(f"index: {key}")
    for key in kept.keys() & found.keys():
        if kept[key] != found[key]:
            verdict.unequal.append(f"index: {key} is {found[key]}, the record {kept[key]}")


def _check_ledger(verdict: Verdict, recorded: Sequence[Found], ledger: Ledger, *, net: bool) -> None:
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for memory in recorded:
        counts[memory.tenant, "memories_created"] += 1
        counts[memory.tenant, "memories_deleted"] += memory.name is None
        counts[memory.tenant, "storage_bytes"] += memory.size
    for tenant, meter in [key for key in counts if net and key[1] == "memories_deleted"]:
        counts[tenant, "memories_created"] += ledger.totals.get((tenant, meter), 0) - counts.pop((tenant, meter))
    for (tenant, meter), wanted in counts.items():
        if (told := ledger.totals.get((tenant, meter), 0)) != wanted:
            verdict.unequal.append(f"ledger: {tenant} has {told} {meter}, the record {wanted}")
    _check_sizes(verdict, {(m.tenant, m.id): m.size if m.name is not None else None for m in recorded}, ledger, net=net)
    verdict.doubled += [f"ledger: {entry}" for entry in ledger.doubled]


def _check_sizes(verdict: Verdict, sizes: dict[tuple[str, str], int | None], ledger: Ledger, *, net: bool) -> None:
    for key, held in ledger.sizes.items():
        if len(held) > 1:
            verdict.doubled.append(f"ledger: size of {key}")
        elif key not in sizes:
            if not (net and held == [None]):
                verdict.ghosts.append(f"ledger: {key}")
        elif held != [sizes[key]]:
            verdict.unequal.append(f"ledger: {key} has {held} bytes, the record {sizes[key]}")
    verdict.unequal += [f"ledger: nothing of {key}" for key in sizes.keys() - ledger.sizes.keys()]
