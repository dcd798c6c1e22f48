"""The graph service: what it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from engram_contracts.auditing import ListApplied, ListRecorded, MendRecorded, RebuildRecord, RecordPositions
from engram_contracts.commands import GRAPH
from engram_contracts.erasing import CompactRecorded, EraseRecorded, ExportRecorded, ListOfUser
from engram_contracts.questions import (
    Activate,
    Check,
    CountRecorded,
    FindJob,
    FindPath,
    GetHistory,
    GetMemory,
    GetNode,
    ListMemories,
    ListNodes,
    Neighbours,
    Question,
    Walk,
)  # fmt: skip
from engram_contracts.topology import GRAPH_LOG, GRAPH_WORK
from engram_graph import reads_duckdb as record
from engram_graph.csr import Graph
from engram_graph.draft import FACTS
from engram_graph.erasing import Eraser
from engram_graph.exporting import Exporter
from engram_graph.following import Follower
from engram_graph.graphs import Graphs
from engram_graph.handlers import Questions, Work
from engram_graph.mending import Auditor, MendingFollower
from engram_graph.partitions import Partitions
from engram_graph.rebuilding import Rebuilder
from engram_graph.settings import Settings
from engram_graph.store_duckdb import Reading
from engram_graph.vocabularies import Vocabularies
from engram_runtime.bus import Bus
from engram_runtime.service import Answer, Following, Service, Taking
from engram_runtime.vault import vault_of


@asynccontextmanager
async def open_service(settings: Settings, bus: Bus) -> AsyncIterator[Service]:
    """The service over the partitions in `<data_dir>/graph`; a partition has one process at a time."""
    chosen = settings.graph
    partitions = Partitions(
        settings.data_dir / "graph", chosen.partitions, memory_limit=chosen.memory_limit, vault=vault_of(bus)
    )
    vocabularies = Vocabularies(
        lambda tenant: partitions.read(tenant, record.known_nodes), most_nodes=chosen.known_nodes
    )
    graphs = Graphs(lambda tenant: partitions.read(tenant, build), most_bytes=chosen.csr_bytes)
    questions = Questions(partitions, vocabularies, graphs, now)
    work = Work(bus, now)
    turn = asyncio.Lock()
    followers = {
        number: MendingFollower(
            number, partitions, vocabularies=vocabularies, graphs=graphs, bus=bus, clock=now, turn=turn
        )
        for number in chosen.partitions
    }
    auditor = Auditor(partitions, followers)
    rebuilder = Rebuilder(
        bus,
        partitions,
        followers,
        vocabularies=vocabularies,
        graphs=graphs,
        folder=settings.data_dir / "graph",
        settings=chosen,
        clock=now,
    )
    eraser = Eraser(partitions, followers, vocabularies=vocabularies, graphs=graphs, folder=settings.data_dir / "graph")
    try:
        yield Service(
            name="graph",
            answers={**answers(questions), **audits(auditor, rebuilder), **erases(eraser, Exporter(partitions))},
            takes=tuple(Taking(consumer=consumer, handler=work.take, commands=GRAPH) for consumer in GRAPH_WORK),
            follows=tuple(_following(number, follower) for number, follower in followers.items()),
            checks={"store": lambda: store(partitions)},
        )
    finally:
        await rebuilder.close()
        await graphs.close()
        await partitions.close()


def answers(questions: Questions) -> dict[type[Question[Any]], Answer]:
    """Who answers which question."""
    return {
        GetMemory: questions.get_memory,
        GetHistory: questions.get_history,
        ListMemories: questions.list_memories,
        CountRecorded: questions.count_recorded,
        FindJob: questions.find_job,
        GetNode: questions.get_node,
        ListNodes: questions.list_nodes,
        Neighbours: questions.neighbours,
        FindPath: questions.find_path,
        Activate: questions.activate,
        Walk: questions.walk,
    }


def audits(auditor: Auditor, rebuilder: Rebuilder) -> dict[type[Question[Any]], Answer]:
    """Who answers what the operator's command asks."""
    return {
        ListRecorded: auditor.kept,
        ListApplied: auditor.applied,
        MendRecorded: auditor.mend,
        RecordPositions: auditor.positions,
        RebuildRecord: rebuilder.rebuild,
    }


def erases(eraser: Eraser, exporter: Exporter) -> dict[type[Question[Any]], Answer]:
    """Who answers what erases, and what tells everything before."""
    return {
        EraseRecorded: eraser.erase,
        CompactRecorded: eraser.compact,
        ListOfUser: eraser.of_user,
        ExportRecorded: exporter.page,
    }


async def store(partitions: Partitions) -> Check:
    """Whether every partition that was needed so far could be opened."""
    trouble = "; ".join(partitions.trouble.values())
    return Check(ok=not trouble, detail=trouble or None)


def build(cursor: Reading, tenant: str) -> Graph:
    """A tenant's graph, built from the record."""
    return Graph(record.graph(cursor, tenant))


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def _following(number: int, follower: Follower) -> Following:
    return Following(
        consumer=GRAPH_LOG[number],
        handler=follower.apply,
        position=follower.position,
        messages=dict(FACTS),
        appended=follower.appended,
        rewind=follower.rewind,
    )
