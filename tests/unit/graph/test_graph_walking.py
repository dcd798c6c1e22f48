"""Walks over compressed rows give what plain dictionaries give."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_graph.csr import Graph
from engram_graph.reads_duckdb import GraphRows
from engram_graph.walking import DECAY, around, shortest_path, spread

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODES, MEMORIES = 9, 12
TYPES = ("co_occurs", "mentioned")


@dataclass(frozen=True)
class Plain:
    """A graph as lists: evidence (source, type, target, memory), mentions (node, memory), edges put by hand."""

    evidence: frozenset[tuple[int, int, int, int]]
    mentions: frozenset[tuple[int, int]]
    manual: tuple[tuple[int, int, float, int | None, int | None], ...]

    def weights(self) -> dict[tuple[int, str, int], float]:
        """Every edge that is valid now: those put by hand have the type `knows`."""
        found: dict[tuple[int, str, int], float] = defaultdict(float)
        for source, kind, target, _ in self.evidence:
            found[source, TYPES[kind], target] += 1
        for source, target, weight, start, end in self.manual:
            if (start is None or start <= 0) and (end is None or end > 0):
                found[source, "knows", target] = weight
        return found

    def strength(self) -> dict[int, float]:
        """The sum of the weights at each node, whatever their validity."""
        found: dict[int, float] = defaultdict(float)
        for source, _, target, _ in self.evidence:
            found[source] += 1
            found[target] += 1
        for source, target, weight, _, _ in self.manual:
            found[source] += weight
            found[target] += weight
        return found

    def graph(self) -> Graph:
        """The same as compressed rows."""
        columns = np.array(sorted(self.evidence), np.int64).reshape(-1, 4).T
        mentions = np.array(sorted(self.mentions), np.int64).reshape(-1, 2).T
        rows = GraphRows(
            sequence=0,
            node_keys=np.arange(NODES) + 10,
            node_ids=[f"name:{n}" for n in range(NODES)],
            attributes={},
            memory_keys=np.arange(MEMORIES) + 100,
            memory_ids=[f"m{n}" for n in range(MEMORIES)],
            mention_node=mentions[0] + 10,
            mention_memory=mentions[1] + 100,
            types=list(TYPES),
            evidence_source=columns[0] + 10,
            evidence_target=columns[2] + 10,
            evidence_type=columns[1],
            evidence_memory=columns[3] + 100,
            edges=[
                (source + 10, "knows", target + 10, weight, moment(start), moment(end), [])
                for source, target, weight, start, end in self.manual
            ],
        )
        return Graph(rows)


def moment(days: int | None) -> datetime | None:
    return None if days is None else NOW + timedelta(days=days)


node, memory = st.integers(0, NODES - 1), st.integers(0, MEMORIES - 1)
pair = st.tuples(node, node).filter(lambda ends: ends[0] != ends[1])
day = st.none() | st.integers(-3, 3)
by_hand = st.dictionaries(
    pair, st.tuples(st.floats(0.5, 4), day, day).filter(lambda t: None in t[1:] or t[1] < t[2]), max_size=4
)
plain = st.builds(
    Plain,
    st.frozensets(
        st.tuples(pair, st.integers(0, 1), memory).map(lambda t: (t[0][0], t[1], t[0][1], t[2])), max_size=30
    ),
    st.frozensets(st.tuples(node, memory), max_size=40),
    by_hand.map(lambda found: tuple((*ends, *how) for ends, how in found.items())),
)


@settings(max_examples=80, deadline=None)
@given(plain, node, st.integers(1, 3))
def test_a_neighbourhood_is_what_plain_walking_finds(story: Plain, start: int, hops: int) -> None:
    found = around(story.graph(), start, hops=hops, limit=1_000, at=NOW)

    distance, received = plain_walk(story, start, hops)
    assert dict(zip(found.nodes, found.hops, strict=True)) == distance
    assert dict(zip(found.nodes, found.activation, strict=True)) == pytest.approx(received)
    assert sorted(found.activation, reverse=True) == found.activation
    assert not found.truncated


@settings(max_examples=100, deadline=None)
@given(plain, node)
def test_edges_among_the_nodes_found_are_described_with_their_evidence(story: Plain, start: int) -> None:
    graph = story.graph()

    found = around(graph, start, hops=2, limit=1_000, at=NOW)

    inside = {start, *found.nodes}
    described = {(each.source, each.type, each.target): each for each in graph.describe_edges(found.edges)}
    expected = {
        (f"name:{source}", kind, f"name:{target}"): weight
        for (source, kind, target), weight in story.weights().items()
        if {source, target} <= inside
    }
    assert {triple: each.weight for triple, each in described.items()} == expected
    for source, kind, target, known in story.evidence:
        edge = described.get((f"name:{source}", TYPES[kind], f"name:{target}"))
        assert edge is None or f"m{known}" in edge.evidence


@settings(max_examples=80, deadline=None)
@given(plain, st.sets(node, min_size=1, max_size=3), st.integers(1, 3))
def test_activation_is_what_plain_spreading_gives(story: Plain, seeds: set[int], steps: int) -> None:
    found = spread(story.graph(), sorted(seeds), steps=steps, limit=1_000, at=NOW)

    expected = plain_spread(story, seeds, steps)
    assert dict(zip(found.memories, found.scores, strict=True)) == pytest.approx(expected)
    assert found.scores == sorted(found.scores, reverse=True)
    linked = {frozenset((source, target)) for source, _, target in story.weights()}
    for number, path in zip(found.memories, found.paths, strict=True):
        assert path[0] in seeds
        assert (path[-1], number) in story.mentions
        assert all(frozenset(step) in linked for step in pairwise(path))


@settings(max_examples=80, deadline=None)
@given(plain, node, node, st.integers(1, 6))
def test_a_shortest_path_is_found_where_there_is_one(story: Plain, source: int, target: int, most: int) -> None:
    graph = story.graph()

    found = shortest_path(graph, source, target, most=most, at=NOW)

    distance = {source: 0, **plain_walk(story, source, NODES)[0]}.get(target)
    if distance is None or distance > most:
        assert found is None
    else:
        assert found is not None
        nodes, edges = found
        assert (nodes[0], nodes[-1], len(nodes), len(edges)) == (source, target, distance + 1, distance)
        for step, edge in zip(pairwise(nodes), graph.describe_edges(edges[:1]), strict=False):
            assert {edge.source, edge.target} == {f"name:{end}" for end in step}


def test_of_equally_short_paths_the_strongest_is_taken() -> None:
    weak, strong = (
        ((0, 1, 0.5, None, None), (1, 3, 0.5, None, None)),
        ((0, 2, 2.0, None, None), (2, 3, 2.0, None, None)),
    )
    story = Plain(frozenset(), frozenset(), (*weak, *strong))

    found = shortest_path(story.graph(), 0, 3, most=4, at=NOW)

    assert found is not None
    assert found[0] == [0, 2, 3]


def plain_step(story: Plain, sent: dict[int, float]) -> dict[int, float]:
    strength = story.strength()
    arrived: dict[int, float] = defaultdict(float)
    for (source, _, target), weight in story.weights().items():
        for here, there in ((source, target), (target, source)):
            if here in sent:
                arrived[there] += sent[here] * DECAY * weight / strength[here]
    return arrived


def plain_walk(story: Plain, start: int, hops: int) -> tuple[dict[int, int], dict[int, float]]:
    distance, received, sent = {start: 0}, defaultdict[int, float](float), {start: 1.0}
    for hop in range(1, hops + 1):
        arrived = plain_step(story, sent)
        for reached, amount in arrived.items():
            received[reached] += amount
        sent = {reached: amount for reached, amount in arrived.items() if reached not in distance}
        distance |= dict.fromkeys(sent, hop)
    del distance[start]
    return distance, {reached: received[reached] for reached in distance}


def plain_spread(story: Plain, seeds: set[int], steps: int) -> dict[int, float]:
    active = defaultdict[int, float](float, dict.fromkeys(seeds, 1.0))
    sent = dict.fromkeys(seeds, 1.0)
    for _ in range(steps):
        sent = plain_step(story, sent)
        for reached, amount in sent.items():
            active[reached] += amount
    counts: dict[int, int] = defaultdict(int)
    for mentioned, _ in story.mentions:
        counts[mentioned] += 1
    sums: dict[int, float] = defaultdict(float)
    for mentioned, known in story.mentions:
        if mentioned in active:
            sums[known] += active[mentioned] * math.log1p(MEMORIES / counts[mentioned]) / math.log1p(MEMORIES)
    return {known: 1 - math.exp(-total) for known, total in sums.items()}
