"""What the graph does by itself, through its handlers: following the log, a large graph, and activation.

PYTHONPATH=tests python -m benchmarks.graph_scale [--nodes 100000 --edges 1000000 --memories 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.bench import CONVERSATIONS
from benchmarks.figures import Report, Row, at_most, p
from benchmarks.machine import describe
from benchmarks.texts import NAMES, Texts
from engram_contracts.facts import Fact
from engram_contracts.ids import new_id, partition_of
from engram_contracts.questions import Activate, CountRecorded, FindPath, GetNode, Neighbours, Question
from engram_graph.service import open_service
from engram_graph.settings import Settings
from engram_runtime.service import Delivery, Service
from support.memories import embedding, memory, remembered
from support.recording_bus import RecordingBus

SMALL, LARGE = "small", "large"
BATCH = 500
FILL = """
INSERT INTO nodes SELECT $tenant, i, 'name:N' || i, 'rule', NULL FROM range(1, $nodes + 1) t(i);
INSERT INTO memories SELECT $tenant, 0, i, 'm' || i, 1, 'active', now()::TIMESTAMP, now()::TIMESTAMP,
    now()::TIMESTAMP, NULL, NULL, NULL, NULL, 'note', NULL, [], '{}' FROM range(1, $memories + 1) t(i);
CREATE TEMP TABLE pairs AS SELECT least(a, b) AS source, greatest(a, b) AS target, memory FROM (
    SELECT 1 + floor($nodes * pow(random(), 2))::BIGINT AS a, 1 + floor($nodes * random())::BIGINT AS b,
        1 + floor($memories * random())::BIGINT AS memory FROM range($edges)) WHERE a <> b;
INSERT INTO evidence SELECT DISTINCT $tenant, source, 'co_occurs', target, memory, 'rule' FROM pairs;
INSERT INTO mentions SELECT DISTINCT $tenant, memory, unnest([source, target]), 'rule' FROM pairs;
UPDATE watermark SET next_memory = $memories + 1, next_node = $nodes + 1;
"""
"""A graph whose nodes are joined at random, some far more often than others (the share of node x is 1/sqrt(x))."""


async def main() -> None:
    """Measure, and print the table."""
    arguments = parse()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="graph-scale-") as folder:
        small, large = Path(folder, SMALL), Path(folder, LARGE)
        async with open_service(Settings(data_dir=small), RecordingBus()) as service:
            report.rows("Following the log", await following(service, arguments.memories), FOLLOWING)
            report.rows("Activation", await activation(service, arguments.memories), "")
        await fill(large, arguments.nodes, arguments.edges)
        async with open_service(Settings(data_dir=large), RecordingBus()) as service:
            report.rows(f"{arguments.nodes} nodes, {arguments.edges} edges", await scale(service, arguments.nodes), "")
        machine = describe(Path(folder))
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), "\n")
    print(report.text())


FOLLOWING = "Extraction, all tables, one transaction a batch; the wall clock includes waiting for other programs."


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--memories", type=int, default=10_000)
    return parser.parse_args()


async def following(service: Service, count: int) -> list[Row]:
    """Batches of 500 until `count` memories are stored, then single ones."""
    supply = Texts(CONVERSATIONS if CONVERSATIONS.exists() else None).texts(count + 100)
    facts = [fact(number, text) for number, text in enumerate(supply, start=1)]
    apply = service.follows[partition_of(SMALL)].handler
    batches: list[float] = []
    processor = time.process_time()
    for start in range(0, count, BATCH):
        batches.append(await timed(lambda start=start: apply(facts[start : start + BATCH])))  # type: ignore[misc]  # a lambda
    processor = time.process_time() - processor
    alone = time.process_time()
    singles = [await timed(lambda each=each: apply([each])) for each in facts[count:]]  # type: ignore[misc]  # a lambda
    alone = time.process_time() - alone
    return [
        Row("a memory, batches of 500, p50", p(50, batches) / BATCH * 1e6, "us", at_most(300)),
        Row("a memory, batches of 500, processor", processor / count * 1e6, "us", at_most(300)),
        Row("the slowest batch", max(batches) * 1e3, "ms"),
        Row("a single memory, p50", p(50, singles) * 1e3, "ms", at_most(8)),
        Row("a single memory, p95", p(95, singles) * 1e3, "ms"),
        Row("a single memory, processor", alone / len(singles) * 1e3, "ms"),
    ]


def fact(number: int, text: str) -> Delivery[Fact]:
    """The fact that a text is to be kept."""
    kept = memory(number, text, id=new_id(), speaker=NAMES[number % len(NAMES)], session_id=f"s{number // 20}")
    return remembered(number, kept, EMBEDDING, tenant=SMALL, command=new_id())


EMBEDDING = embedding()


async def activation(service: Service, count: int) -> list[Row]:
    """Questions about a tenant of so many memories."""
    asked = Texts(CONVERSATIONS if CONVERSATIONS.exists() else None).questions(500)
    texts = [f"{text} What did {random.choice(NAMES)} say?" for text in asked]
    times, replies = await ask(service, [Activate(tenant=SMALL, text=text) for text in texts])
    found = sum(len(reply.memory_ids) for reply in replies) / len(replies)
    return [
        Row(f"activate, {count} memories, p50", p(50, times) * 1e3, "ms", at_most(1)),
        Row("activate, p95", p(95, times) * 1e3, "ms"),
        Row("memories found, mean", found, ""),
    ]


async def fill(folder: Path, nodes: int, edges: int) -> None:
    """A partition that holds a large graph of one tenant."""
    async with open_service(Settings(data_dir=folder), RecordingBus()) as service:
        await service.answers[CountRecorded](CountRecorded(tenant=LARGE))
    with duckdb.connect(str(folder / "graph" / f"p{partition_of(LARGE)}.duckdb")) as connection:
        values = {"tenant": LARGE, "nodes": nodes, "memories": edges // 4, "edges": edges}
        for statement in filter(str.strip, FILL.split(";")):
            wanted = {name: value for name, value in values.items() if f"${name}" in statement}
            connection.execute(statement, wanted)


async def scale(service: Service, nodes: int) -> list[Row]:
    """Questions to the large graph; the first one has to build it."""
    first = await timed(lambda: service.answers[GetNode](GetNode(tenant=LARGE, node="name:N1")))
    chance = random.Random(1)
    names = [f"name:N{1 + int(nodes * chance.random() ** 2)}" for _ in range(300)]
    one, _ = await ask(service, [Neighbours(tenant=LARGE, node=name, hops=1) for name in names])
    two, replies = await ask(service, [Neighbours(tenant=LARGE, node=name, hops=2) for name in names])
    hubs, _ = await ask(service, [Neighbours(tenant=LARGE, node=f"name:N{n}", hops=2) for n in range(1, 51)])
    three, _ = await ask(service, [Neighbours(tenant=LARGE, node=name, hops=3) for name in names[:100]])
    near, _ = await ask(service, [Activate(tenant=LARGE, text=f"what of {name[5:]}?") for name in names])
    pairs = zip(names[:50], names[50:100], strict=True)
    paths, _ = await ask(service, [FindPath(tenant=LARGE, source=one, target=other) for one, other in pairs])
    listed = sum(len(reply.edges) for reply in replies) / len(replies)
    return [
        Row("building the graph, once", first * 1e3, "ms"),
        Row("neighbours, 1 hop, p95", p(95, one) * 1e3, "ms"),
        Row("neighbours, 2 hops, p50", p(50, two) * 1e3, "ms"),
        Row("neighbours, 2 hops, p95", p(95, two) * 1e3, "ms", at_most(20)),
        Row("neighbours, 2 hops, of the 50 greatest hubs, p95", p(95, hubs) * 1e3, "ms"),
        Row("neighbours, 3 hops, p95", p(95, three) * 1e3, "ms"),
        Row("edges with evidence in a 2-hop answer, mean", listed, ""),
        Row("activate, p95", p(95, near) * 1e3, "ms"),
        Row("shortest path, p50", p(50, paths) * 1e3, "ms"),
        Row("shortest path, p95", p(95, paths) * 1e3, "ms"),
    ]


async def ask(service: Service, questions: Sequence[Question[Any]]) -> tuple[list[float], list[Any]]:
    """Seconds that each answer took, and the answers, one after the other; the first is asked once before."""
    await service.answers[type(questions[0])](questions[0])
    times, replies = [], []
    for question in questions:
        began = time.perf_counter()
        replies.append(await service.answers[type(question)](question))
        times.append(time.perf_counter() - began)
    return times, replies


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    """Seconds that something took."""
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


if __name__ == "__main__":
    asyncio.run(main())
