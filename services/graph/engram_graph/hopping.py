"""From memory to memory over what they mention: personalised PageRank on a bounded part of the graph. Nothing waits.

A question of several hops names one thing and asks for what stands with it elsewhere. The walk starts anew, again and
again, from the memories that a search found and from the nodes the question names; where it spends most time are the
memories that belong together. Figures from HotpotQA: `benchmarks/quality`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engram_graph.csr import Graph
from engram_graph.dates import find_dates
from engram_graph.tokens import TOKEN, plain
from engram_graph.vocabulary import LONGEST, Known, Vocabulary
from engram_graph.words import COMMON

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.signedinteger[Any]]
    Floats = NDArray[np.float64]

RESTART = 0.2
"""How often the walk starts anew."""
ABOUT = 25.0
"""Weight of the link to a memory from what it names first, which is mostly what it is about; others weigh 1.

On its way back that link weighs 1 too: what leaves a memory goes evenly to all it names, or much of it would only
return.
"""
STEPS = 20
NEWEST = 48
"""Memories of one node that are walked to."""
MEMORIES = 2_500
"""Memories on the whole; beyond, those nearest to the starts stay."""
NAMED = 12
ARTICLES = frozenset({"the", "a", "an"})


@dataclass(frozen=True, slots=True)
class Hops:
    """Memories by their share of the walk's time, greatest first, and the node through which most of it came."""

    memories: list[int]
    shares: list[float]
    through: list[int]


def named_in(text: str, vocabulary: Vocabulary) -> list[Known]:
    """The nodes a question names, the longest name at each place; single words only with a capital or digit."""
    found = {node.id: node for node in _named(TOKEN.findall(text), vocabulary)}
    dates = (vocabulary.get(f"date:{date}") for date in find_dates(text, None))
    found |= {node.id: node for node in dates if node is not None}
    return list(found.values())[:NAMED]


def walk(graph: Graph, nodes: Sequence[int], memories: Mapping[int, float], *, limit: int) -> Hops:
    """Where a walk from these nodes and memories (with their masses) spends its time."""
    around = _around(graph, np.array(nodes, np.int64), np.fromiter(memories, np.int64, len(memories)))
    origin, mentioned, first = graph.named(around)
    places, node = np.unique(np.concatenate([np.array(nodes, np.int64), mentioned]), return_inverse=True)
    starts, node = node[: len(nodes)], node[len(nodes) :]
    restart = np.zeros(len(places) + len(around))
    restart[starts] = 1.0 / len(nodes)
    masses = np.fromiter(memories.values(), np.float64, len(memories))
    restart[len(places) : len(places) + len(memories)] = masses / masses.sum()
    links = _Links(node, len(places) + origin, np.where(first, ABOUT, 1.0), len(restart))
    shares = links.walked(restart / 2)
    best = np.argsort(-shares[len(places) :], kind="stable")[:limit]
    through = _through(links, shares, len(places), node, origin)
    return Hops(around[best].tolist(), shares[len(places) + best].tolist(), places[through[best]].tolist())


class _Links:
    """Links from nodes to memories by weight, and back evenly; each end passes on its share in proportion to them."""

    def __init__(self, here: Ints, there: Ints, weight: Floats, size: int) -> None:
        self._source = np.concatenate([here, there])
        self._target = np.concatenate([there, here])
        weights = np.concatenate([weight, np.ones(len(weight))])
        total = np.bincount(self._source, weights, size)
        self._passed = weights / total[self._source]
        self._size = size

    def walked(self, restart: Floats) -> Floats:
        """Shares of the walk's time after `STEPS` steps."""
        shares = restart
        for _ in range(STEPS):
            arrived = np.bincount(self._target, self._passed * shares[self._source], self._size)
            shares = RESTART * restart + (1 - RESTART) * arrived
        return np.asarray(shares, np.float64)

    def into_memories(self, shares: Floats) -> Floats:
        """What each link brings from its node to its memory."""
        half = len(self._source) // 2
        return np.asarray((self._passed * shares[self._source])[:half], np.float64)


def _through(links: _Links, shares: Floats, nodes: int, node: Ints, memory: Ints) -> Ints:
    """For each memory, the node that brings it most; 0 for one that mentions nothing."""
    order = np.argsort(links.into_memories(shares), kind="stable")
    through = np.zeros(len(shares) - nodes, np.int64)
    through[memory[order]] = node[order]
    return through


def _around(graph: Graph, nodes: Ints, memories: Ints) -> Ints:
    """The memories, those that mention the nodes, and those that share a mention with one of both; the first first."""
    near = _joined(memories, graph.mentions(nodes, most=NEWEST)[1])
    named = np.unique(np.concatenate([nodes, graph.named(near)[1]]))
    return _joined(near, graph.mentions(named, most=NEWEST)[1])[:MEMORIES]


def _joined(first: Ints, more: Ints) -> Ints:
    both = np.concatenate([first, more]).astype(np.int64)
    return both[np.sort(np.unique(both, return_index=True)[1])]


def _named(pairs: Sequence[tuple[str, str]], vocabulary: Vocabulary) -> Iterator[Known]:
    words, at = [plain(word) for _, word in pairs], 0
    while at < len(words):
        for length in range(min(LONGEST, len(words) - at), 0, -1):
            node = vocabulary.named(" ".join(words[at : at + length]))
            if node is not None and _is_name([word for _, word in pairs[at : at + length]]):
                yield node
                at += length - 1
                break
        at += 1


def _is_name(words: Sequence[str]) -> bool:
    rest = words[1:] if len(words) > 1 and words[0].lower() in ARTICLES else words
    if len(rest) > 1:
        return True
    return not rest[0].islower() and plain(rest[0]) not in COMMON
