"""One tenant's graph in memory: compressed sparse rows, and on top of them what came since they were built.

Nodes, memories and edges are numbered from 0. Each edge stands in the rows of both its ends, the strongest first, so
that a bound on what is read of a hub keeps its strongest edges. Weights are changed in place; new edges and mentions
go to an overlay, and once that has grown to a tenth, the whole is to be built anew (`ripe`). Nothing here waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from engram_contracts.questions import Edge, Node
from engram_graph.reads_duckdb import GraphRows, node_of
from engram_graph.records import GraphChange, Triple
from engram_graph.validity import Stretch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.signedinteger[Any]]
    Floats = NDArray[np.float64]

RIPE_SHARE, RIPE_LEAST = 0.1, 2_000
LISTED_EVIDENCE = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER, _EVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Rows:
    """Entries of several nodes' rows: which of the nodes asked for, the node at the other end, the edge."""

    origin: Ints
    other: Ints
    edge: Ints

    def only(self, keep: NDArray[np.bool_]) -> Rows:
        """The entries where `keep` is true."""
        return Rows(self.origin[keep], self.other[keep], self.edge[keep])


class Column:
    """An array that grows at its end; `array` may be longer than what was appended."""

    def __init__(self, values: NDArray[Any]) -> None:  # any number type; each column keeps the one it was given
        self.array = values
        self._count = len(values)

    def append(self, value: float) -> None:
        """Add a value."""
        if self._count == len(self.array):
            self.array = np.concatenate([self.array, np.zeros(max(64, self._count // 8), self.array.dtype)])
        self.array[self._count] = value
        self._count += 1


class Graph:
    """A tenant's graph as of log sequence `sequence`, kept current by `apply`.

    `ids` and `memory_ids` name nodes and memories by number; of the memories, `living` are not forgotten.
    """

    def __init__(self, rows: GraphRows) -> None:
        self.sequence = rows.sequence
        self.ids = rows.node_ids
        self.memory_ids = rows.memory_ids
        self.living = len(rows.memory_ids)
        self.attributes = {int(_index(rows.node_keys, [key])[0]): text for key, text in rows.attributes.items()}
        self._node_keys, self._new_nodes = rows.node_keys, dict[int, int]()
        self._memory_keys, self._new_memories = rows.memory_keys, dict[int, int]()
        self._types, self._codes = list(rows.types), {name: code for code, name in enumerate(rows.types)}
        self._lay_edges(rows)
        self._lay_rows()
        self._lay_mentions(rows)
        self._extra_edges: dict[int, list[int]] = {}
        self._extra_triples: dict[Triple, list[int]] = {}
        self._extra_evidence: dict[int, list[int]] = {}
        self._lost_evidence: dict[int, set[int]] = {}
        self._extra_mentions: dict[int, list[int]] = {}
        self._extra_named: dict[int, list[int]] = {}
        self._memory_numbers: dict[str, int] = {}
        self._lost_mentions: dict[int, set[int]] = {}
        self._withdrawn: set[str] = set()
        self._overlay = 0

    # Building

    def _lay_edges(self, rows: GraphRows) -> None:
        source = _index(self._node_keys, rows.evidence_source)
        target = _index(self._node_keys, rows.evidence_target)
        memory = _index(self._memory_keys, rows.evidence_memory)
        sizes = (len(self.ids), len(self.ids), len(self._types), len(self.memory_ids))
        source, target, kind, memory = _sorted((source, target, rows.evidence_type, memory), sizes)
        first = np.flatnonzero(_differs(source) | _differs(target) | _differs(kind))
        self._evidence_start = np.append(first, len(source))
        self._evidence_memory = memory.astype(np.int32)
        manual = rows.edges
        ends = [_index(self._node_keys, [edge[n] for edge in manual]) for n in (0, 2)]
        self._source = Column(np.concatenate([source[first], ends[0]]).astype(np.int32))
        self._target = Column(np.concatenate([target[first], ends[1]]).astype(np.int32))
        codes = np.array([self._code(edge[1]) for edge in manual], np.int16)
        self._kind = Column(np.concatenate([kind[first].astype(np.int16), codes]))
        weights = np.array([edge[3] for edge in manual], np.float64)
        self._weight = Column(np.concatenate([np.diff(self._evidence_start).astype(np.float64), weights]))
        self._start = Column(_times(len(first), [edge[4] for edge in manual], _NEVER))
        self._end = Column(_times(len(first), [edge[5] for edge in manual], _EVER))
        self._timed = bool((self._start.array != _NEVER).any() or (self._end.array != _EVER).any())
        self._found, self._edges = len(first), len(first) + len(manual)
        self._manual = {
            self._found + n: Stretch(weight=edge[3], valid_from=edge[4], valid_to=edge[5], evidence=tuple(edge[6]))
            for n, edge in enumerate(manual)
        }

    def _lay_rows(self) -> None:
        source, target, weight = self._source.array, self._target.array, self._weight.array
        ends = np.concatenate([source, target])
        strongest = np.argsort(-weight, kind="stable")
        rank = np.empty(len(strongest), np.int64)
        rank[strongest] = np.arange(len(strongest))
        self._base = len(self.ids)
        here, place = _sorted((ends, np.concatenate([rank, rank])), (self._base, len(rank)))
        edge = strongest[place]
        self._row_start = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=self._base))])
        self._row_edge = edge.astype(np.int32)
        self._row_other = (source[edge] + target[edge] - here).astype(np.int32)
        self._strength = Column(np.bincount(ends, np.concatenate([weight, weight]), self._base).astype(np.float64))
        lone = self._lone_edges()
        self._degree = Column(np.bincount(np.concatenate([source[lone], target[lone]]), minlength=self._base))

    def _lone_edges(self) -> Ints:
        """Edges without those that have the ends and type of another one, so that each triple counts once."""
        if not self._manual:
            return np.arange(self._edges)
        pair = self._source.array.astype(np.int64) * len(self.ids) + self._target.array
        return np.unique(pair * len(self._types) + self._kind.array, return_index=True)[1]

    def _lay_mentions(self, rows: GraphRows) -> None:
        node = _index(self._node_keys, rows.mention_node)
        memory = _index(self._memory_keys, rows.mention_memory)
        _, sorted_memory = _sorted((node, memory), (len(self.ids), len(self.memory_ids)))
        self._mention_memory = sorted_memory.astype(np.int32)
        counts = np.bincount(node, minlength=self._base)
        self._mention_start = np.concatenate([[0], np.cumsum(counts)])
        self._mentions = Column(counts)
        self._named_node = node[np.argsort(memory, kind="stable")].astype(np.int32)
        self._named_start = np.concatenate([[0], np.cumsum(np.bincount(memory, minlength=len(self.memory_ids)))])

    @property
    def bytes(self) -> int:
        """Roughly how much memory it takes."""
        arrays = (
            self._evidence_memory, self._evidence_start, self._row_other, self._row_edge, self._row_start,
            self._mention_memory, self._mention_start, self._named_node, self._named_start,
            self._node_keys, self._memory_keys,
        )  # fmt: skip
        columns = (self._source, self._target, self._kind, self._weight, self._start, self._end)
        kept = sum(array.nbytes for array in arrays) + sum(column.array.nbytes for column in columns)
        return kept + 110 * (len(self.ids) + len(self.memory_ids)) + 250 * (self._overlay + len(self._manual))

    @property
    def ripe(self) -> bool:
        """Whether so much came since it was built that building it anew pays."""
        return self._overlay > max(RIPE_LEAST, RIPE_SHARE * (self._edges + len(self._mention_memory)))

    # Keeping current

    def apply(self, change: GraphChange) -> None:
        """Take up what a batch changed."""
        for memory, node in change.lost_mentions:
            self._lose_mention(self.node(node), self._memory(memory))
        for triple, memory in change.lost_evidence:
            self._lose_evidence(self._triple(triple), self._memory(memory))
        for key in change.dropped_nodes:
            self._drop_node(self.node(key))
        for triple in change.cut:
            self._cut(self._triple(triple))
        self._withdrawn.update(change.withdrawn)
        self.living += len(change.memories) - len(change.withdrawn)
        for key, name, attributes in change.nodes:
            self._put_node(key, name, attributes)
        for key, name in change.memories:
            self._new_memories[key] = len(self.memory_ids)
            self.memory_ids.append(name)
        for memory, node in change.new_mentions:
            self._add_mention(self.node(node), self._memory(memory))
        for triple, memory in change.new_evidence:
            self._add_evidence(self._triple(triple), self._memory(memory))
        for triple, stretches in change.edges.items():
            self._put_stretches(self._triple(triple), stretches)

    def node(self, key: int) -> int:
        """The number of the node with this key, or -1."""
        return _number(key, self._new_nodes, self._node_keys)

    def degree(self, key: int) -> int:
        """How many edges the node with this key has; 0 where there is none."""
        number = self.node(key)
        return int(self._degree.array[number]) if number >= 0 else 0

    def _memory(self, key: int) -> int:
        return _number(key, self._new_memories, self._memory_keys)

    def _triple(self, triple: Triple) -> Triple:
        return self.node(triple[0]), triple[1], self.node(triple[2])

    def _code(self, kind: str) -> int:
        code = self._codes.setdefault(kind, len(self._types))
        if code == len(self._types):
            self._types.append(kind)
        return code

    def _put_node(self, key: int, name: str, attributes: str) -> None:
        number = self.node(key)
        if number < 0:
            number = self._new_nodes[key] = len(self.ids)
            self.ids.append(name)
            for column in (self._strength, self._degree, self._mentions):
                column.append(0)
        self.ids[number] = name
        if attributes:
            self.attributes[number] = attributes

    def _drop_node(self, node: int) -> None:
        if node < 0:
            return
        for edge in {int(each) for each in self.rows(np.array([node])).edge}:
            self._weigh(edge, 0.0)
        self._lost_mentions[node] = {int(each) for each in self._base_mentions(node)}
        for memory in self._extra_mentions.pop(node, ()):
            self._extra_named[memory].remove(node)
        self._mentions.array[node] = 0

    def _add_mention(self, node: int, memory: int) -> None:
        lost = self._lost_mentions.get(node)
        if lost is not None and memory in lost:
            lost.discard(memory)
        else:
            self._extra_mentions.setdefault(node, []).append(memory)
            self._extra_named.setdefault(memory, []).append(node)
            self._overlay += 1
        self._mentions.array[node] += 1

    def _lose_mention(self, node: int, memory: int) -> None:
        extra = self._extra_mentions.get(node, [])
        if memory in extra:
            extra.remove(memory)
            self._extra_named[memory].remove(node)
        else:
            self._lost_mentions.setdefault(node, set()).add(memory)
        self._mentions.array[node] -= 1

    def _add_evidence(self, triple: Triple, memory: int) -> None:
        edge = next((edge for edge in self._find(triple) if edge not in self._manual), None)
        if edge is None:
            edge = self._new_edge(triple, None)
        lost = self._lost_evidence.get(edge)
        if lost is not None and memory in lost:
            lost.discard(memory)
        else:
            self._extra_evidence.setdefault(edge, []).append(memory)
        self._weigh(edge, float(self._weight.array[edge]) + 1)

    def _lose_evidence(self, triple: Triple, memory: int) -> None:
        edge = next((edge for edge in self._find(triple) if edge not in self._manual), None)
        if edge is None:
            return
        extra = self._extra_evidence.get(edge, [])
        if memory in extra:
            extra.remove(memory)
        else:
            self._lost_evidence.setdefault(edge, set()).add(memory)
        self._weigh(edge, float(self._weight.array[edge]) - 1)

    def _cut(self, triple: Triple) -> None:
        for edge in self._find(triple):
            if edge not in self._manual:
                self._extra_evidence.pop(edge, None)
                self._lost_evidence[edge] = {int(each) for each in self._base_evidence(edge)}
            self._weigh(edge, 0.0)

    def _put_stretches(self, triple: Triple, stretches: Sequence[Stretch]) -> None:
        for edge in self._find(triple):
            if edge in self._manual:
                self._weigh(edge, 0.0)
        for stretch in stretches:
            edge = self._new_edge(triple, stretch)
            self._weigh(edge, stretch.weight)

    def _new_edge(self, triple: Triple, stretch: Stretch | None) -> int:
        source, kind, target = triple
        edge, self._edges = self._edges, self._edges + 1
        start, end = (None, None) if stretch is None else (stretch.valid_from, stretch.valid_to)
        values = (source, target, self._code(kind), 0.0, micros(start, _NEVER), micros(end, _EVER))
        columns = (self._source, self._target, self._kind, self._weight, self._start, self._end)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        if stretch is not None:
            self._manual[edge] = stretch
            self._timed |= start is not None or end is not None
        self._extra_triples.setdefault(triple, []).append(edge)
        for end_node in (source, target):
            self._extra_edges.setdefault(end_node, []).append(edge)
        self._overlay += 1
        return edge

    def _weigh(self, edge: int, weight: float) -> None:
        """Set a weight, and with it the strength and degree of both ends."""
        before = float(self._weight.array[edge])
        ends = int(self._source.array[edge]), int(self._target.array[edge])
        triple = ends[0], self._types[self._kind.array[edge]], ends[1]
        others = 0
        if (before > 0) != (weight > 0):
            others = sum(self._weight.array[each] > 0 for each in self._find(triple) if each != edge)
        self._weight.array[edge] = weight
        for end in ends:
            self._strength.array[end] += weight - before
            if others == 0:
                self._degree.array[end] += (weight > 0) - (before > 0)

    def _find(self, triple: Triple) -> list[int]:
        """All edges of this triple: at most one that was found, and those put by hand."""
        source, kind, target = triple
        edges = list(self._extra_triples.get(triple, ()))
        if 0 <= source < self._base and 0 <= target < self._base and kind in self._codes:
            here, there = (source, target) if self._row_length(source) <= self._row_length(target) else (target, source)
            low, high = self._row_start[here], self._row_start[here + 1]
            row = self._row_edge[low:high][self._row_other[low:high] == there]
            right = (self._source.array[row] == source) & (self._kind.array[row] == self._codes[kind])
            edges += row[right].tolist()
        return edges

    def _row_length(self, node: int) -> int:
        return int(self._row_start[node + 1] - self._row_start[node])

    # Reading

    @property
    def strength(self) -> Floats:
        """The sum of the weights of each node's edges."""
        return self._strength.array

    @property
    def mention_counts(self) -> Ints:
        """How many memories mention each node."""
        return self._mentions.array

    @property
    def weights(self) -> Floats:
        """The weight of each edge; 0 for one that is gone."""
        return self._weight.array

    def rows(self, nodes: Ints, *, most: int | None = None) -> Rows:
        """The entries of these nodes' rows, gone edges left out; of each at most about `most`, the strongest."""
        based = np.where(nodes < self._base, nodes, -1)
        start = self._row_start[based]
        length = np.where(based >= 0, self._row_start[based + 1] - start, 0)
        if most is not None:
            length = np.minimum(length, most)
        origin, place = _ragged(start, length)
        found = Rows(origin, self._row_other[place], self._row_edge[place])
        if self._extra_edges:
            found = self._with_extra(nodes, found)
        return found.only(self._weight.array[found.edge] > 0)

    def _with_extra(self, nodes: Ints, found: Rows) -> Rows:
        numbers = nodes.tolist()
        extra = [(place, edge) for place, node in enumerate(numbers) for edge in self._extra_edges.get(node, ())]
        if not extra:
            return found
        origin, edge = np.array(extra, np.int64).T
        here = nodes[origin]
        source, target = self._source.array[edge], self._target.array[edge]
        other = np.where(source == here, target, source)
        return Rows(
            np.concatenate([found.origin, origin]),
            np.concatenate([found.other, other]),
            np.concatenate([found.edge, edge]),
        )

    def valid(self, rows: Rows, *, at: datetime, kind: str | None = None) -> Rows:
        """The entries that are valid at a moment, and of a type."""
        if self._timed:
            moment = micros(at, 0)
            holds = (self._start.array[rows.edge] <= moment) & (moment < self._end.array[rows.edge])
            rows = rows.only(holds)
        if kind is not None:
            rows = rows.only(self._kind.array[rows.edge] == self._codes.get(kind, -1))
        return rows

    def mentions(self, nodes: Ints, *, most: int) -> tuple[Ints, Ints]:
        """Which of the nodes, and the memory, for each mention; of each node about the `most` newest."""
        based = np.where(nodes < self._base, nodes, -1)
        end = self._mention_start[based + 1]
        length = np.where(based >= 0, np.minimum(end - self._mention_start[based], most), 0)
        origin, place = _ragged(end - length, length)
        memory = self._mention_memory[place]
        for number, node in enumerate(nodes.tolist()):
            lost, extra = self._lost_mentions.get(node), self._extra_mentions.get(node)
            if lost:
                keep = (origin != number) | ~np.isin(memory, list(lost))
                origin, memory = origin[keep], memory[keep]
            if extra:
                origin = np.concatenate([origin, np.full(len(extra), number)])
                memory = np.concatenate([memory, extra])
        return origin, memory

    def named(self, memories: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """Which of the memories, and the node, for each mention, and whether it is the first that the memory makes."""
        last = len(self._named_start) - 1
        based = np.where(memories < last, memories, -1)
        start = self._named_start[based]
        length = np.where(based >= 0, self._named_start[based + 1] - start, 0)
        origin, place = _ragged(start, length)
        node = self._named_node[place].astype(np.int64)
        extra = [
            (number, each)
            for number, memory in enumerate(memories.tolist())
            for each in self._extra_named.get(memory, ())
        ]
        if extra:
            more = np.array(extra, np.int64).T
            origin, node = np.concatenate([origin, more[0]]), np.concatenate([node, more[1]])
        if self._lost_mentions:
            keep = self._kept(memories[origin], node)
            origin, node = origin[keep], node[keep]
        order = np.argsort(origin, kind="stable")
        origin, node = origin[order], node[order]
        return origin, node, _differs(origin)

    def _kept(self, memories: Ints, nodes: Ints) -> NDArray[np.bool_]:
        lost, pairs = self._lost_mentions, zip(memories.tolist(), nodes.tolist(), strict=True)
        return np.array([memory not in lost.get(node, ()) for memory, node in pairs], np.bool_)

    def numbers_of(self, memory_ids: Iterable[str]) -> list[int]:
        """The numbers of these memories, -1 for one that is not there."""
        known = self._memory_numbers
        for number in range(len(known), len(self.memory_ids)):
            known[self.memory_ids[number]] = number
        return [known.get(memory_id, -1) for memory_id in memory_ids]

    def _base_mentions(self, node: int) -> Ints:
        if node >= self._base:
            return np.array([], np.int64)
        return self._mention_memory[self._mention_start[node] : self._mention_start[node + 1]]

    def _base_evidence(self, edge: int) -> Ints:
        if edge >= self._found:
            return np.array([], np.int64)
        return self._evidence_memory[self._evidence_start[edge] : self._evidence_start[edge + 1]]

    # Answers

    def surroundings(self, node: int, *, at: datetime, limit: int) -> tuple[list[Edge], list[str]]:
        """A node's strongest edges valid at a moment, and the newest memories that mention it; `limit` of each."""
        rows = self.valid(self.rows(np.array([node])), at=at)
        best = np.argsort(-self._weight.array[rows.edge], kind="stable")[: 2 * limit]
        edges = self.describe_edges(rows.edge[best].tolist())[:limit]
        _, memories = self.mentions(np.array([node]), most=limit + len(self._lost_mentions.get(node, ())))
        newest = sorted(memories.tolist(), reverse=True)[:limit]
        return edges, [self.memory_ids[memory] for memory in newest]

    def describe_node(self, node: int) -> Node:
        """A node as the contracts have it."""
        counts = int(self._mentions.array[node]), int(self._degree.array[node])
        return node_of(self.ids[node], self.attributes.get(node), mentions=counts[0], degree=counts[1])

    def describe_edges(self, edges: Iterable[int]) -> list[Edge]:
        """Edges as the contracts have them, the strongest first. One put by hand stands before the same one found."""
        found: dict[tuple[int, int, int], list[int]] = {}
        source, target, kind = self._source.array, self._target.array, self._kind.array
        for edge in edges:
            found.setdefault((int(source[edge]), int(kind[edge]), int(target[edge])), []).append(edge)
        described = [self._describe(triple, each) for triple, each in found.items()]
        return sorted(described, key=lambda edge: (-edge.weight, edge.source, edge.type, edge.target))

    def _describe(self, triple: tuple[int, int, int], edges: Sequence[int]) -> Edge:
        first = next((edge for edge in edges if edge in self._manual), edges[0])
        stretch = self._manual.get(first)
        evidence = [memory for edge in sorted(edges, key=lambda each: each != first) for memory in self._evidence(edge)]
        return Edge.model_construct(
            source=self.ids[triple[0]],
            type=self._types[triple[1]],
            target=self.ids[triple[2]],
            weight=float(self._weight.array[first]),
            valid_from=stretch.valid_from if stretch else None,
            valid_to=stretch.valid_to if stretch else None,
            evidence=tuple(dict.fromkeys(evidence))[:LISTED_EVIDENCE],
        )

    def _evidence(self, edge: int) -> list[str]:
        """Ids of memories an edge came from, the newest first, about as many as are listed."""
        stretch = self._manual.get(edge)
        if stretch is not None:
            return [memory_id for memory_id in stretch.evidence if memory_id not in self._withdrawn]
        lost = self._lost_evidence.get(edge, ())
        base = self._base_evidence(edge)[-LISTED_EVIDENCE - len(lost) :].tolist()
        known = [*(memory for memory in base if memory not in lost), *self._extra_evidence.get(edge, ())]
        return [self.memory_ids[memory] for memory in sorted(known, reverse=True)[:LISTED_EVIDENCE]]


def _index(keys: Ints, wanted: Any) -> Ints:  # an array or a list of keys that are all there
    """Places of keys among ascending keys: by a table where the keys lie close enough, else by bisection."""
    asked = np.asarray(wanted, np.int64)
    if not len(keys) or keys[-1] - keys[0] > 4 * (len(keys) + len(asked)):
        return np.searchsorted(keys, asked)
    table = np.zeros(keys[-1] - keys[0] + 1, np.int64)
    table[keys - keys[0]] = np.arange(len(keys))
    places: Ints = table[asked - keys[0]]
    return places


def _sorted(columns: Sequence[Ints], sizes: Sequence[int]) -> list[Ints]:
    """Rows sorted by the first column, then the second, and so on; each column's values lie below its size.

    Packed into one number a row where they fit: that sorts several times as fast as columns do.
    """
    if math.prod(sizes) >= 2**62:
        order = np.lexsort(tuple(reversed(columns)))
        return [column[order] for column in columns]
    packed = np.zeros(len(columns[0]), np.int64)
    for column, size in zip(columns, sizes, strict=True):
        packed = packed * size + column
    packed.sort()
    unpacked: list[Ints] = []
    for size in reversed(sizes):
        packed, column = np.divmod(packed, max(size, 1))
        unpacked.insert(0, column)
    return unpacked


def _number(key: int, new: dict[int, int], keys: Ints) -> int:
    number = new.get(key)
    if number is not None:
        return number
    place = int(np.searchsorted(keys, key))
    return place if place < len(keys) and keys[place] == key else -1


def _differs(sorted_values: NDArray[Any]) -> NDArray[np.bool_]:  # any number type
    """Where a value differs from the one before it; the first always does."""
    differs = np.ones(len(sorted_values), np.bool_)
    differs[1:] = sorted_values[1:] != sorted_values[:-1]
    return differs


def _ragged(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """For stretches of an array: the number of the stretch, and the place, of each element."""
    origin = np.repeat(np.arange(len(start)), length)
    before = np.cumsum(length) - length
    return origin, np.arange(len(origin)) + (start - before)[origin]


def _times(found: int, moments: Sequence[datetime | None], default: int) -> Ints:
    return np.array([default] * found + [micros(moment, default) for moment in moments], np.int64)


def micros(moment: datetime | None, default: int) -> int:
    """Microseconds since 1970 in UTC."""
    if moment is None:
        return default
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
