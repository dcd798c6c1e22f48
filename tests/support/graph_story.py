"""Stories for the graph: facts of two tenants that share a partition, and what the record holds after them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from engram_contracts.facts import (
    Citation,
    EdgeDropped,
    EdgePut,
    Fact,
    Linked,
    NodeDropped,
    NodePut,
    Thought,
)  # fmt: skip
from engram_contracts.ids import derived_id, partition_of
from engram_graph.service import open_service
from engram_graph.settings import GraphSettings, Settings
from engram_runtime.service import Delivery, Service
from support.memories import START, delivered, embedding, forgotten, judged, memory, memory_id, remembered, revised
from support.recording_bus import RecordingBus

TENANTS = ("acme", next(f"t{n}" for n in range(1000) if partition_of(f"t{n}") == partition_of("acme")))
PARTITION = partition_of("acme")

SENTENCES = (
    "Ann met Bob Stone in Paris yesterday. Ann was happy.",
    'I read "Little Women" last Friday with Carol.',
    "Nothing of note today.",
    "Bob Stone moved to Berlin on 8 May 2023, near the Green Tea Club.",
    "Carol and Dave like the Green Tea Club. @dave_42 #tea",
    "Will you come to Oslo? We met Will in June 2023.",
    "green tea club again, two weeks ago",
)
SPEAKERS = (None, "Ann", "Bob Stone", "Carol", "Dave")
NODES = ("person:Ann", "name:Carol", "company:Acme", "name:Paris", "tag:tea", "place:Oslo")
EMBEDDING = embedding()


def story(seed: int, length: int) -> list[Delivery[Fact]]:
    """Facts in the order of the log, sequence numbers with gaps; some repeat a command, some cannot be applied."""
    chance = random.Random(seed)
    told: list[Delivery[Fact]] = []
    sequence, remembered_so_far = 0, 0
    for _ in range(length):
        sequence += chance.choice((1, 1, 1, 2, 5))
        if told and chance.random() < 0.05:
            again = chance.choice(told)
            told.append(delivered(sequence, again.message, tenant=again.tenant))
            continue
        remembered_so_far += chance.random() < 0.5
        told.append(_fact(chance, sequence, max(1, remembered_so_far)))
    return told


def _fact(chance: random.Random, sequence: int, newest: int) -> Delivery[Fact]:
    tenant = chance.choice(TENANTS)
    number = chance.randint(1, newest)
    kinds = ("remember", "revise", "forget", "judge", "link", "think", "node", "edge")
    kind = chance.choices(kinds, (40, 12, 8, 8, 8, 4, 12, 16))[0]
    if kind == "remember":
        text = " ".join(chance.sample(SENTENCES, chance.randint(1, 2)))
        tags = tuple(chance.sample(("tea", "work"), chance.randint(0, 2)))
        new = memory(newest, text, speaker=chance.choice(SPEAKERS), tags=tags)
        return remembered(sequence, new, EMBEDDING, tenant=tenant)
    if kind == "revise":
        changes: dict[str, Any] = chance.choice(
            (
                {"content": chance.choice(SENTENCES)},
                {"speaker": chance.choice(SPEAKERS)},
                {"kind": "fact"},
                {"bogus": 1},
            )
        )
        return revised(sequence, number, changes, tenant=tenant)
    if kind == "forget":
        return forgotten(sequence, number, tenant=tenant)
    if kind == "judge":
        return judged(sequence, number, chance.choice(("useful", "wrong")), tenant=tenant, note="so it is")
    return delivered(sequence, _graph_fact(chance, kind, sequence, memory_id(number)), tenant=tenant)


def _graph_fact(chance: random.Random, kind: str, sequence: int, about: str) -> Fact:
    at = START + timedelta(days=1, seconds=sequence)
    how: dict[str, Any] = {"command": derived_id("command", str(sequence)), "accepted_at": at, "at": at}
    one, other = chance.sample(NODES, 2)
    since = chance.choice((None, START, START + timedelta(days=30)))
    if kind == "link":
        return Linked(**how, memory_id=about, nodes=(one,), edges=((one, "likes", other),))
    if kind == "think":
        cited = Citation(memory_id=about, quote="words", score=0.5)
        return Thought(**how, question="what?", answer="words", mode="extractive", citations=(cited,))
    if kind == "node":
        put = NodePut(**how, node=one, attributes={"n": sequence})
        return put if chance.random() < 0.7 else NodeDropped(**how, node=one)
    if chance.random() < 0.3:
        return EdgeDropped(**how, source=one, type=chance.choice(("likes", "co_occurs")), target=other)
    until = since + timedelta(days=10) if since and chance.random() < 0.5 else None
    weight = float(chance.randint(1, 5))
    return EdgePut(
        **how,
        source=one,
        type="likes",
        target=other,
        weight=weight,
        valid_from=since,
        valid_to=until,
        evidence=(about,),
    )


def opened(folder: Path, bus: RecordingBus | None = None, **settings: Any) -> AbstractAsyncContextManager[Service]:
    """The graph service over a folder, without a broker."""
    return open_service(Settings(data_dir=folder, graph=GraphSettings(**settings)), bus or RecordingBus())


async def follow(service: Service, deliveries: Sequence[Delivery[Fact]], *, partition: int = PARTITION) -> list[Any]:
    """Hand deliveries to the partition's follower; the outcomes."""
    return list(await service.follows[partition].handler(deliveries))


DUMPS = {
    "position": "SELECT sequence FROM watermark",
    "memories": """SELECT tenant, id, version, state, created_at, updated_at, moment, expires_at, user_id, agent_id,
        session_id, kind, speaker, tags, record FROM memories""",
    "versions": """SELECT tenant, m.id, v.version, v.since, v.change, v.record
        FROM versions v JOIN memories m USING (tenant) WHERE v.memory = m.key""",
    "feedback": """SELECT tenant, m.id, f.version, f.given, f.verdict, f.query, f.note, f.actor
        FROM feedback f JOIN memories m USING (tenant) WHERE f.memory = m.key""",
    "jobs": """SELECT tenant, command, memory_id, op, accepted_at, embedded_at, log_sequence, thought FROM jobs""",
    "nodes": "SELECT tenant, id, origin, attributes FROM nodes",
    "mentions": """SELECT n.tenant, m.id, n.id, x.origin FROM mentions x LEFT JOIN memories m ON m.key = memory
        LEFT JOIN nodes n ON n.key = node WHERE m.tenant = x.tenant AND n.tenant = x.tenant""",
    "evidence": """SELECT e.tenant, s.id, e.type, t.id, m.id, e.origin FROM evidence e
        LEFT JOIN nodes s ON s.key = source LEFT JOIN nodes t ON t.key = target
        LEFT JOIN memories m ON m.key = memory""",
    "edges": """SELECT e.tenant, s.id, type, t.id, weight, valid_from, valid_to, evidence FROM edges e
        LEFT JOIN nodes s ON s.key = source LEFT JOIN nodes t ON t.key = target""",
    "counts": "SELECT (SELECT count(*) FROM versions), (SELECT count(*) FROM mentions)",
}


def dump(folder: Path, partition: int = PARTITION) -> dict[str, list[str]]:
    """All that a partition holds, keys replaced by what they stand for, in an order that depends on nothing else.

    Ends of `co_occurs` are sorted: which of two nodes has the lower key depends on when a node was made anew.
    """
    connection = duckdb.connect(str(folder / "graph" / f"p{partition}.duckdb"))
    try:
        return {name: sorted(map(_line, connection.execute(query).fetchall())) for name, query in DUMPS.items()}
    finally:
        connection.close()


def _line(row: tuple[Any, ...]) -> str:
    if len(row) > 3 and row[2] == "co_occurs":
        first, second = sorted((str(row[1]), str(row[3])))
        row = (row[0], first, row[2], second, *row[4:])
    return repr(row)
