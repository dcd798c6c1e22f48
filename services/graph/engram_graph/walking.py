"""Walks over a graph in memory: neighbourhoods, spreading activation, shortest paths. Nothing here waits.

Activation is handed on as by a random walker: a node passes `DECAY` of what it has, split over its edges by weight.
A hub therefore gives each neighbour little, and a bound on frontier and row length keeps every walk small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from engram_graph.csr import Graph

if TYPE_CHECKING:
    from networkx import DiGraph
    from numpy.typing import NDArray

    Ints = NDArray[np.signedinteger[Any]]
    Floats = NDArray[np.float64]

DECAY = 0.5

FRONTIER, ROW = 512, 512
"""Nodes walked on from at each hop of a neighbourhood, and edges read of each."""

EDGES_LISTED, EDGES_READ = 2_000, 20_000
"""Edges of a neighbourhood in the answer, and of one node's row looked through for them."""

SPREAD_FRONTIER, SPREAD_ROW = 32, 64
"""The same for activation."""

NEWEST = 1_000
"""Memories of one activated node that are considered."""

PATH_NODES = 200_000
"""Nodes a search for a path may visit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Nodes around a node, the strongest first, with hops and activation, and the edges among them."""

    nodes: list[int]
    hops: list[int]
    activation: list[float]
    edges: list[int]
    truncated: bool


def around(graph: Graph, node: int, *, hops: int, limit: int, at: datetime, kind: str | None = None) -> Around:
    """What lies within some hops of a node over edges valid at a moment."""
    distance = np.zeros(len(graph.ids), np.int8)
    received = np.zeros(len(graph.ids))
    distance[node] = -1
    frontier, active, truncated = np.array([node]), np.array([1.0]), False
    for hop in range(1, hops + 1):
        reached, arrived, cut = _step(graph, frontier, active, at=at, kind=kind)
        received[reached] += arrived
        new = distance[reached] == 0
        reached, arrived = reached[new], arrived[new]
        distance[reached] = hop
        best = _strongest(arrived, FRONTIER)
        truncated |= cut or (hop < hops and len(best) < len(reached))
        frontier, active = reached[best], arrived[best]
        if not len(frontier):
            break
    found = np.flatnonzero(distance > 0)
    order = np.lexsort((found, distance[found], -received[found]))[:limit]
    chosen = found[order]
    edges, cut = _edges_among(graph, np.append(chosen, node), at=at, kind=kind)
    return Around(
        nodes=chosen.tolist(),
        hops=distance[chosen].tolist(),
        activation=received[chosen].tolist(),
        edges=edges,
        truncated=bool(truncated or cut or len(chosen) < len(found)),
    )


def _step(graph: Graph, frontier: Ints, active: Floats, *, at: datetime, kind: str | None) -> tuple[Ints, Floats, bool]:
    """The nodes one hop on, what arrives at each, and whether a long row was cut."""
    rows = graph.rows(frontier, most=ROW)
    cut = len(rows.edge) > 0 and int(np.bincount(rows.origin).max()) >= ROW
    rows = graph.valid(rows, at=at, kind=kind)
    share = DECAY * graph.weights[rows.edge] / graph.strength[frontier][rows.origin]
    nodes, arrived = _summed(rows.other, active[rows.origin] * share, len(graph.ids))
    return nodes, arrived, bool(cut)


def _edges_among(graph: Graph, nodes: Ints, *, at: datetime, kind: str | None) -> tuple[list[int], bool]:
    inside = _marked(nodes, len(graph.ids))
    rows = graph.rows(nodes, most=EDGES_READ)
    rows = graph.valid(rows.only(inside[rows.other]), at=at, kind=kind)
    edges = np.unique(rows.edge)
    best = _strongest(graph.weights[edges], EDGES_LISTED)
    return edges[best].tolist(), len(best) < len(edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Memories that activation reached, the strongest first: number, score in 0..1, and the way there as nodes."""

    memories: list[int]
    scores: list[float]
    paths: list[tuple[int, ...]]


def spread(graph: Graph, seeds: Sequence[int], *, steps: int, limit: int, at: datetime) -> Spread:
    """Memories near some nodes: activation spreads over edges, and memories collect it from the nodes they mention.

    A node counts for the memories that mention it by how rare it is: `ln(1 + N/n) / ln(1 + N)` where `n` of `N`
    memories mention it. A memory's score is `1 - exp(-sum)`.
    """
    wave = _Wave(graph, at, seeds)
    for _ in range(steps):
        wave.pass_on()
    nodes = np.fromiter(wave.active, np.int64, len(wave.active))
    total = max(graph.living, 1)
    rarity = np.log1p(total / np.maximum(graph.mention_counts[nodes], 1)) / np.log1p(total)
    worth = np.fromiter(wave.active.values(), np.float64, len(nodes)) * rarity
    return _collect(graph, nodes, worth, wave.parents, limit)


class _Wave:
    """Activation on its way: what each node has received, and from which node first."""

    def __init__(self, graph: Graph, at: datetime, seeds: Sequence[int]) -> None:
        self._graph = graph
        self._at = at
        self._frontier: Ints = np.array(seeds, np.int64)
        self._sent = np.ones(len(seeds))
        self.active = dict.fromkeys(seeds, 1.0)
        self.parents: dict[int, int] = {}

    def pass_on(self) -> None:
        """One step from the frontier over its edges."""
        graph, frontier = self._graph, self._frontier
        rows = graph.valid(graph.rows(frontier, most=SPREAD_ROW), at=self._at)
        value = self._sent[rows.origin] * DECAY * graph.weights[rows.edge] / graph.strength[frontier][rows.origin]
        nodes, arrived = _summed(rows.other, value, len(graph.ids))
        best = _strongest(arrived, SPREAD_FRONTIER)
        self._frontier, self._sent = nodes[best], arrived[best]
        wanted = _marked(self._frontier, len(graph.ids))[rows.other]
        givers = _greatest(rows.other[wanted], frontier[rows.origin[wanted]], value[wanted])
        for node, amount in zip(self._frontier.tolist(), self._sent.tolist(), strict=True):
            if node not in self.active:
                self.parents[node] = givers[node]
            self.active[node] = self.active.get(node, 0.0) + amount


def _collect(graph: Graph, nodes: Ints, worth: Floats, parents: dict[int, int], limit: int) -> Spread:
    origin, memory = graph.mentions(nodes, most=NEWEST)
    memories, sums = _summed(memory, worth[origin], len(graph.memory_ids))
    best = (
        np.lexsort((-memories, -sums))[:limit] if len(memories) <= limit else _newest_strongest(memories, sums, limit)
    )
    chosen = memories[best]
    wanted = _marked(chosen, len(graph.memory_ids))[memory]
    origin, memory = origin[wanted], memory[wanted]
    reached_by = _greatest(memory, nodes[origin], worth[origin])
    numbers = chosen.tolist()
    return Spread(
        memories=numbers,
        scores=(-np.expm1(-sums[best])).tolist(),
        paths=[_way(reached_by[number], parents) for number in numbers],
    )


def _newest_strongest(memories: Ints, sums: Floats, limit: int) -> Ints:
    """The `limit` greatest sums, the newest memory first among equals."""
    bound = np.partition(sums, len(sums) - limit)[len(sums) - limit]
    among = np.flatnonzero(sums >= bound)
    return among[np.lexsort((-memories[among], -sums[among]))[:limit]]


def _way(node: int, parents: dict[int, int]) -> tuple[int, ...]:
    way = [node]
    while way[-1] in parents:
        way.append(parents[way[-1]])
    return tuple(reversed(way))


def shortest_path(
    graph: Graph, source: int, target: int, *, most: int, at: datetime
) -> tuple[list[int], list[int]] | None:
    """Nodes and edges of a shortest path of at most `most` hops, the strongest of several, or `None`."""
    if source == target:
        return [source], []
    levels = _meet(graph, source, target, most, at)
    if levels is None:
        return None
    return _strongest_way(graph, source, target, levels, at)


def _meet(graph: Graph, source: int, target: int, most: int, at: datetime) -> tuple[Ints, Ints, int] | None:
    """Distances from both ends (-1 where not reached) once they meet, and the length of the way between."""
    distances = [np.full(len(graph.ids), -1, np.int64) for _ in range(2)]
    frontiers = [np.array([source]), np.array([target])]
    for distance, frontier in zip(distances, frontiers, strict=True):
        distance[frontier] = 0
    visited = 2
    for length in range(1, most + 1):
        side = 0 if len(frontiers[0]) <= len(frontiers[1]) else 1
        frontiers[side] = _outward(graph, frontiers[side], distances[side], at)
        visited += len(frontiers[side])
        if (distances[1 - side][frontiers[side]] >= 0).any():
            return distances[0], distances[1], length
        if not len(frontiers[side]) or visited > PATH_NODES:
            return None
    return None


def _outward(graph: Graph, frontier: Ints, distance: Ints, at: datetime) -> Ints:
    reached = np.unique(graph.valid(graph.rows(frontier), at=at).other)
    new = reached[distance[reached] < 0]
    distance[new] = distance[frontier[0]] + 1
    return new


def _strongest_way(
    graph: Graph, source: int, target: int, levels: tuple[Ints, Ints, int], at: datetime
) -> tuple[list[int], list[int]]:
    """Of all shortest paths, the one of the strongest edges; only the nodes that lie on one are looked at."""
    import networkx as nx  # noqa: PLC0415  # half a second to import, and only paths need it

    from_source, from_target, length = levels
    middle = np.flatnonzero((from_source >= 0) & (from_target >= 0) & (from_source + from_target == length))
    small: DiGraph[int] = nx.DiGraph()
    for here, nearer, edge in _inward(graph, middle, from_source, at):
        _offer(small, nearer, here, edge, float(graph.weights[edge]))
    for here, nearer, edge in _inward(graph, middle, from_target, at):
        _offer(small, here, nearer, edge, float(graph.weights[edge]))
    nodes = nx.shortest_path(small, source, target, weight="cost")
    return nodes, [small.edges[pair]["edge"] for pair in pairwise(nodes)]


def _inward(graph: Graph, nodes: Ints, distance: Ints, at: datetime) -> Iterator[tuple[int, int, int]]:
    """Edges on shortest ways from nodes at one distance back to where it is 0: (farther end, nearer end, edge)."""
    for left in range(int(distance[nodes[0]]), 0, -1):
        rows = graph.valid(graph.rows(nodes), at=at)
        rows = rows.only(distance[rows.other] == left - 1)
        yield from zip(nodes[rows.origin].tolist(), rows.other.tolist(), rows.edge.tolist(), strict=True)
        nodes = np.unique(rows.other)


def _offer(small: DiGraph[int], here: int, there: int, edge: int, weight: float) -> None:
    """Add a step, unless there is one over a stronger edge."""
    if not small.has_edge(here, there) or small.edges[here, there]["cost"] > 1 / weight:
        small.add_edge(here, there, edge=edge, cost=1 / weight)


def _marked(places: Ints, size: int) -> NDArray[np.bool_]:
    """True at each of the places."""
    marked = np.zeros(size, np.bool_)
    marked[places] = True
    return marked


def _greatest(receivers: Ints, givers: Ints, values: Floats) -> dict[int, int]:
    """For each receiver, the giver of the greatest value."""
    order = np.argsort(values, kind="stable")
    return dict(zip(receivers[order].tolist(), givers[order].tolist(), strict=True))


def _summed(places: Ints, values: Floats, size: int) -> tuple[Ints, Floats]:
    """The places that occur, ascending, and the sum of the values at each."""
    if size <= 16 * len(places):
        all_sums = np.asarray(np.bincount(places, values, size), np.float64)
        there = np.flatnonzero(np.bincount(places, minlength=size))
        return there, all_sums[there]
    occurring, inverse = np.unique(places, return_inverse=True)
    return occurring, np.asarray(np.bincount(inverse, values, len(occurring)), np.float64)


def _strongest(values: Floats, most: int) -> Ints:
    """Places of the greatest values, at most so many, the greatest first."""
    if len(values) > most:
        among = np.argpartition(-values, most)[:most]
        return among[np.argsort(-values[among], kind="stable")]
    return np.argsort(-values, kind="stable")
