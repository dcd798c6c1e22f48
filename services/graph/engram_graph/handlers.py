"""One method per question the graph answers, and the work it turns into facts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import datetime

from engram_contracts.commands import Command, DropEdge, DropNode, Judge, PutEdge, PutNode
from engram_contracts.errors import EngramError, NotFound, Rejected
from engram_contracts.facts import EdgeDropped, EdgePut, Fact, Judged, NodeDropped, NodePut
from engram_contracts.memory import MAX_METADATA_BYTES, Memory
from engram_contracts.questions import (
    Activate,
    Activated,
    Count,
    CountRecorded,
    FindJob,
    FindPath,
    Found,
    GetHistory,
    GetMemory,
    GetNode,
    History,
    ListMemories,
    ListNodes,
    MemoryPage,
    Neighbourhood,
    Neighbours,
    NodeDetail,
    NodePage,
    Path,
    Reached,
    Walk,
    Walked,
)  # fmt: skip
from engram_contracts.topology import log_subject
from engram_graph import reads_duckdb as record
from engram_graph.csr import Graph
from engram_graph.extraction import seeds
from engram_graph.graphs import Graphs
from engram_graph.hopping import named_in, walk
from engram_graph.partitions import Partitions
from engram_graph.parts import listed, part
from engram_graph.vocabularies import Vocabularies
from engram_graph.vocabulary import Vocabulary
from engram_graph.walking import around, shortest_path, spread
from engram_runtime.bus import Bus, Entry
from engram_runtime.service import Delivery, Outcome

_EDGE_FIELDS = {"source", "type", "target", "weight", "valid_from", "valid_to", "evidence"}

Clock = Callable[[], datetime]


class Questions:
    """Answers from the record, and from the graphs in memory."""

    def __init__(self, partitions: Partitions, vocabularies: Vocabularies, graphs: Graphs, clock: Clock) -> None:
        self._partitions = partitions
        self._vocabularies = vocabularies
        self._graphs = graphs
        self._clock = clock

    async def get_memory(self, question: GetMemory) -> Memory:
        """The current record of a memory."""
        return await self._partitions.read(question.tenant, record.memory, question.memory_id)

    async def get_history(self, question: GetHistory) -> History:
        """All versions of a memory, and the verdicts on it."""
        return await self._partitions.read(question.tenant, record.history, question.memory_id)

    async def list_memories(self, question: ListMemories) -> MemoryPage:
        """A page of memories, newest first; the first page tells the total."""
        return await self._partitions.read(
            question.tenant, record.memories, question.filters, limit=question.limit, after=question.after
        )

    async def count_recorded(self, question: CountRecorded) -> Count:
        """How many living memories the record holds."""
        return Count(memories=await self._partitions.read(question.tenant, record.count))

    async def find_job(self, question: FindJob) -> Found:
        """What became of a command."""
        return Found(found=await self._partitions.read(question.tenant, record.job, question.command))

    async def list_nodes(self, question: ListNodes) -> NodePage:
        """A page of nodes, those mentioned most first."""
        if question.within is not None:
            own = await self._partitions.read(question.tenant, part, question.within)
            return listed(own.graph, question)
        page = await self._partitions.read(
            question.tenant,
            record.nodes,
            kind=question.type,
            prefix=question.prefix,
            limit=question.limit,
            after=question.after,
        )
        vocabulary, graph = await self._graph(question.tenant)
        known = ((node, vocabulary.get(node.id)) for node in page.nodes)
        nodes = [
            node if each is None else node.model_copy(update={"degree": graph.degree(each.key)}) for node, each in known
        ]
        return page.model_copy(update={"nodes": tuple(nodes)})

    async def get_node(self, question: GetNode) -> NodeDetail:
        """A node, its strongest edges that are valid now, and the newest memories that mention it."""
        graph, number = await self._place(question, question.node)
        edges, memories = graph.surroundings(number, at=self._clock(), limit=question.limit)
        return NodeDetail.model_construct(
            node=graph.describe_node(number), edges=tuple(edges), memory_ids=tuple(memories)
        )

    async def neighbours(self, question: Neighbours) -> Neighbourhood:
        """What lies within some hops of a node, and the edges among that."""
        graph, number = await self._place(question, question.node)
        found = around(
            graph, number, hops=question.hops, limit=question.limit, at=question.at or self._clock(),
            kind=question.edge_type,
        )  # fmt: skip
        reached = [
            Reached.model_construct(node=graph.describe_node(node), hops=hops, activation=activation)
            for node, hops, activation in zip(found.nodes, found.hops, found.activation, strict=True)
        ]
        edges = tuple(graph.describe_edges(found.edges))
        return Neighbourhood.model_construct(nodes=tuple(reached), edges=edges, truncated=found.truncated)

    async def find_path(self, question: FindPath) -> Path:
        """A shortest path between two nodes over edges valid now."""
        vocabulary, graph = await self._seen(question)
        source, target = (_placed(vocabulary, graph, node) for node in (question.source, question.target))
        found = await asyncio.to_thread(shortest_path, graph, source, target, most=question.max_hops, at=self._clock())
        if found is None:
            raise NotFound(
                f"no path of {question.max_hops} hops or fewer leads from {question.source!r} to {question.target!r}"
            )
        nodes, edges = found
        return Path.model_construct(
            nodes=tuple(graph.ids[node] for node in nodes),
            edges=tuple(graph.describe_edges([edge])[0] for edge in edges),
        )

    async def activate(self, question: Activate) -> Activated:
        """Memories near the nodes that a text names."""
        now = self._clock()
        vocabulary, graph = await self._graph(question.tenant)
        named = seeds(question.text, vocabulary, now=now)
        numbers = [number for node in named if (number := graph.node(node.key)) >= 0]
        if not numbers:
            return Activated(memory_ids=(), activations=())
        found = spread(graph, numbers, steps=question.steps, limit=question.limit, at=now)
        return Activated.model_construct(
            memory_ids=tuple(graph.memory_ids[memory] for memory in found.memories),
            activations=tuple(found.scores),
            paths=tuple(tuple(graph.ids[node] for node in path) for path in found.paths),
            seeds=tuple(graph.ids[number] for number in numbers),
        )

    async def walk(self, question: Walk) -> Walked:
        """Where a walk leads that starts from some memories and from the nodes that a text names."""
        vocabulary, graph = await self._graph(question.tenant)
        numbers = [number for node in named_in(question.text, vocabulary) if (number := graph.node(node.key)) >= 0]
        starts = zip(graph.numbers_of(question.memory_ids), question.masses, strict=False)
        known = {number: mass for number, mass in starts if number >= 0 and mass > 0}
        if not numbers or not known:
            return Walked()
        found = walk(graph, numbers, known, limit=question.limit)
        return Walked.model_construct(
            memory_ids=tuple(graph.memory_ids[memory] for memory in found.memories),
            shares=tuple(found.shares),
            paths=tuple((graph.ids[node],) for node in found.through),
            seeds=tuple(graph.ids[number] for number in numbers),
        )

    async def _graph(self, tenant: str) -> tuple[Vocabulary, Graph]:
        graph = await self._graphs.get(tenant)
        return await self._vocabularies.get(tenant), graph

    async def _place(self, question: GetNode | Neighbours, node: str) -> tuple[Graph, int]:
        """The graph that is asked, and the number in it of the node that an id means."""
        vocabulary, graph = await self._seen(question)
        return graph, _placed(vocabulary, graph, node)

    async def _seen(self, question: GetNode | Neighbours | FindPath) -> tuple[Vocabulary, Graph]:
        """The tenant's graph, or the part of it that is asked."""
        if question.within is None:
            return await self._graph(question.tenant)
        own = await self._partitions.read(question.tenant, part, question.within)
        return own.vocabulary, own.graph


class Work:
    """Commands on nodes and edges, and verdicts on memories: each becomes a fact on the log, under the command's id."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock

    async def take(self, deliveries: Sequence[Delivery[Command]]) -> list[Outcome]:
        """Append a fact for each command that is sound; a repeat is known to the log, and to whoever follows it."""
        outcomes: list[Outcome] = [None] * len(deliveries)
        entries: list[tuple[int, Entry]] = []
        for number, delivery in enumerate(deliveries):
            try:
                entries.append((number, self._entry(delivery)))
            except EngramError as error:
                outcomes[number] = error
        appended = await self._bus.append([entry for _, entry in entries]) if entries else []
        for (number, _), result in zip(entries, appended, strict=True):
            outcomes[number] = result if isinstance(result, Exception) else None
        return outcomes

    def _entry(self, delivery: Delivery[Command]) -> Entry:
        fact = fact_of(delivery.message, at=self._clock())
        return Entry(
            subject=log_subject(delivery.tenant, fact.event),
            body=fact.encode(),
            id=fact.command,
            correlation=delivery.correlation,
            trace=delivery.trace,
        )


def _placed(vocabulary: Vocabulary, graph: Graph, node: str) -> int:
    """The number of the node that an id means."""
    known = vocabulary.resolve(node)
    number = graph.node(known.key) if known is not None else -1
    if number < 0:
        raise NotFound(f"there is no node {node!r}")
    return number


def fact_of(command: Command, *, at: datetime) -> Fact:
    """The fact that a command on nodes, edges or a memory becomes. Raises `Rejected` where it can never hold."""
    common = {"command": command.id, "accepted_at": command.accepted_at, "at": at, "actor": command.actor}
    match command:
        case PutNode():
            _check_attributes(command.attributes)
            return NodePut(**common, node=command.node, attributes=command.attributes)
        case DropNode():
            return NodeDropped(**common, node=command.node)
        case PutEdge():
            _check_edge(command)
            fields = command.model_dump(
                include={"source", "type", "target", "weight", "valid_from", "valid_to", "evidence"}
            )
            return EdgePut(**common, **fields)
        case DropEdge():
            return EdgeDropped(**common, source=command.source, type=command.type, target=command.target)
        case Judge():
            return Judged(
                **common,
                memory_id=command.memory_id,
                owner=command.owner,
                verdict=command.verdict,
                query=command.query,
                note=command.note,
            )
    raise Rejected(f"the graph has no use for a command {command.op!r}")


def _check_attributes(attributes: dict[str, object]) -> None:
    try:
        size = len(json.dumps(attributes, allow_nan=False).encode())
    except ValueError as error:
        raise Rejected("attributes must be JSON values; NaN and infinity are none", field="attributes") from error
    if size > MAX_METADATA_BYTES:
        raise Rejected(f"attributes take {size} bytes; the limit is {MAX_METADATA_BYTES}", field="attributes")


def _check_edge(command: PutEdge) -> None:
    if command.source == command.target:
        raise Rejected("an edge joins two different nodes", field="target")
    if command.valid_from is not None and command.valid_to is not None and command.valid_from >= command.valid_to:
        raise Rejected("valid_from must lie before valid_to", field="valid_from")
