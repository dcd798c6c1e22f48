"""Walks from memory to memory, against a plain calculation, and the names that start them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_graph.csr import Graph
from engram_graph.extraction import extract
from engram_graph.hopping import ABOUT, RESTART, STEPS, named_in, walk
from engram_graph.reads_duckdb import GraphRows
from engram_graph.records import GraphChange
from engram_graph.vocabulary import Known, Vocabulary

NODES, MEMORIES = 6, 8
Mentions = list[tuple[int, int]]

mentions = st.lists(
    st.tuples(st.integers(0, MEMORIES - 1), st.integers(0, NODES - 1)), unique=True, min_size=1, max_size=30
)


def graph(said: Mentions) -> Graph:
    """Memories that mention nodes, in this order."""
    none = np.array([], np.int64)
    return Graph(
        GraphRows(
            sequence=0,
            node_keys=np.arange(NODES),
            node_ids=[f"name:{n}" for n in range(NODES)],
            attributes={},
            memory_keys=np.arange(MEMORIES),
            memory_ids=[f"m{n}" for n in range(MEMORIES)],
            mention_node=np.array([node for _, node in said], np.int64),
            mention_memory=np.array([memory for memory, _ in said], np.int64),
            types=[],
            evidence_source=none,
            evidence_target=none,
            evidence_type=none,
            evidence_memory=none,
            edges=[],
        )
    )


def plain_walk(said: Mentions, nodes: set[int], starts: dict[int, float]) -> dict[int, float]:
    """Shares by memory, on dense matrices of all there is."""
    size = NODES + MEMORIES
    links = np.zeros((size, size))
    seen: set[int] = set()
    for memory, node in said:
        links[node, NODES + memory] = 1.0 if memory in seen else ABOUT
        links[NODES + memory, node] = 1.0
        seen.add(memory)
    passed = links / np.maximum(links.sum(axis=1, keepdims=True), 1e-300)
    restart = np.zeros(size)
    restart[list(nodes)] = 0.5 / len(nodes)
    for memory, mass in starts.items():
        restart[NODES + memory] = 0.5 * mass / sum(starts.values())
    shares = restart
    for _ in range(STEPS):
        shares = RESTART * restart + (1 - RESTART) * shares @ passed
    return {memory: shares[NODES + memory] for memory in range(MEMORIES)}


@given(
    said=mentions,
    nodes=st.sets(st.integers(0, NODES - 1), min_size=1),
    starts=st.dictionaries(st.integers(0, MEMORIES - 1), st.floats(0.01, 1), min_size=1, max_size=3),
)
def test_a_walk_spends_its_time_as_a_plain_one_does_where_it_comes(
    said: Mentions, nodes: set[int], starts: dict[int, float]
) -> None:
    found = walk(graph(said), sorted(nodes), starts, limit=100)

    everywhere = plain_walk(said, nodes, starts)
    near = dict(zip(found.memories, found.shares, strict=True))
    assert found.shares == sorted(found.shares, reverse=True)
    assert set(starts) <= set(near)
    if len(near) == MEMORIES:
        assert near == pytest.approx(everywhere, abs=1e-9)


@given(said=mentions, split=st.integers(0, 30))
def test_what_came_since_the_graph_was_built_counts_alike(said: Mentions, split: int) -> None:
    nobody = {memory for memory, _ in said[:split]}
    later = [(memory, node) for memory, node in said[split:] if memory not in nobody]
    grown, whole = graph(said[:split]), graph(said[:split] + later)
    grown.apply(GraphChange(new_mentions=later))

    found = [
        sorted(zip(*(part.tolist() for part in each.named(np.arange(MEMORIES))), strict=True))
        for each in (grown, whole)
    ]

    assert found[0] == found[1]


def named(whole: Graph) -> list[tuple[int, int, bool]]:
    columns = [column.tolist() for column in whole.named(np.arange(MEMORIES))]
    return sorted(zip(*columns, strict=True))


def test_a_lost_mention_leads_nowhere() -> None:
    found = graph([(0, 0), (1, 0)])
    found.apply(GraphChange(lost_mentions=[(1, 0)]))

    assert walk(found, [0], {0: 1.0}, limit=9).memories == [0]
    assert found.numbers_of(["m1", "nobody"]) == [1, -1]


def vocabulary(*ids: str) -> Vocabulary:
    return Vocabulary([Known(key, name, "rule") for key, name in enumerate(ids)])


def test_a_question_names_the_longest_names_and_no_common_word() -> None:
    known = vocabulary("name:North Carolina", "name:Carolina", "name:Film", "name:Woman's Viewpoint", "date:1986")

    found = named_in("Who shot the film near North Carolina in 1986 for the Woman's Viewpoint?", known)

    assert [node.id for node in found] == ["name:North Carolina", "name:Woman's Viewpoint", "date:1986"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Lilu (mythology)\nA demon.", "name:Lilu"),
        ("2012 outbreak\nIt blew.", "name:2012 outbreak"),
        ("Known thing\nIt is.", "thing:Known Thing"),
        ("Well, that was it.\nThen we left.", None),
        ("The and\nof it", None),
        ("Welcome to the Show (series)\nIt ran.", "name:Welcome to the Show"),
        ("Thanks\nfor all", None),
        ("one line", None),
        ("Heading\n  \n", None),
        ("x" * 100 + "\nlong", None),
    ],
)
def test_a_short_first_line_names_what_the_rest_is_about(text: str, first: str | None) -> None:
    known = vocabulary("thing:Known Thing")

    assert next(iter(extract(text, known, reference=None, headed=True)), None) == first
    assert not text.startswith("Lilu") or extract(text, known, reference=None) == ()
