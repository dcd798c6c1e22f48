"""A part of a tenant's graph: what some of its memories alone tell, for who may not reach the others.

It is built from these memories for each question, so nothing of another memory is in it: no node, no edge, no count, no
way through. Nodes, edges and attributes that were put by hand belong to the whole tenant, and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engram_contracts.questions import ListNodes, Node, NodePage
from engram_graph import reads_duckdb as record
from engram_graph.csr import Graph
from engram_graph.vocabulary import Known, Vocabulary

if TYPE_CHECKING:
    from engram_contracts.memory import Filters
    from engram_graph.store_duckdb import Reading


@dataclass(frozen=True, slots=True)
class Part:
    """A graph, and its nodes by name."""

    vocabulary: Vocabulary
    graph: Graph


def part(cursor: Reading, tenant: str, within: Filters) -> Part:
    """The part that the memories under these filters tell."""
    rows = record.graph_within(cursor, tenant, within)
    known = [Known(key, name, "rule") for key, name in zip(rows.node_keys.tolist(), rows.node_ids, strict=True)]
    return Part(Vocabulary(known), Graph(rows))


def listed(graph: Graph, question: ListNodes) -> NodePage:
    """A page of its nodes, in the order of `reads_duckdb.nodes`."""
    found = [graph.describe_node(number) for number, name in enumerate(graph.ids) if _asked(name, question)]
    found.sort(key=_order)
    if question.after is not None:
        mentions, name = record.place(question.after)
        found = [node for node in found if _order(node) > (-mentions, name)]
    last = found[question.limit - 1] if len(found) > question.limit else None
    after = f"{last.mentions}|{last.id}" if last is not None else None
    return NodePage(nodes=tuple(found[: question.limit]), after=after)


def _asked(name: str, question: ListNodes) -> bool:
    kind, _, bare = name.partition(":")
    return question.type in (None, kind) and bare.lower().startswith((question.prefix or "").lower())


def _order(node: Node) -> tuple[int, str]:
    return -node.mentions, node.id
