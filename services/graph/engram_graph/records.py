"""What passes between the rules that decide and the store that keeps: rows found, rows to write. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engram_contracts.memory import Memory
from engram_graph.validity import Stretch
from engram_graph.vocabulary import Origin

Named = tuple[str, str]
"""A tenant, and the id of a memory or a command of that tenant."""

Triple = tuple[int, str, int]
"""An edge: key of its source, type, key of its target."""

Row = tuple[Any, ...]  # values of one table's columns, in the schema's order


@dataclass(slots=True)
class Entry:
    """A memory in the store's terms. `memory` is `None` once it was forgotten.

    `mentions` are node keys, `evidence` the edges found in it, each with what found it. `stored` says that rows of
    it exist, `changed` that they are to be written anew, `wiped` that no version of it may stay readable.
    """

    key: int
    id: str
    memory: Memory | None
    stored: bool = False
    mentions: dict[int, Origin] = field(default_factory=dict)
    evidence: dict[Triple, Origin] = field(default_factory=dict)
    changed: bool = True
    wiped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What has to be looked up before facts are applied.

    `linked` are those of `memories` whose mentions and evidence matter as well.
    """

    commands: frozenset[Named]
    memories: frozenset[Named]
    linked: frozenset[Named]
    triples: frozenset[tuple[str, Triple]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the store holds of what was wanted, and the writer's counters."""

    next_memory: int
    next_node: int
    commands: frozenset[Named] = frozenset()
    memories: Mapping[Named, Entry] = field(default_factory=dict)
    edges: Mapping[tuple[str, Triple], list[Stretch]] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """Everything one transaction writes: first what goes, by key, then the rows that come, by table."""

    sequence: int
    next_memory: int
    next_node: int
    appended: datetime | None = None
    gone_memories: list[int] = field(default_factory=list)
    gone_links: list[int] = field(default_factory=list)
    gone_versions: list[int] = field(default_factory=list)
    gone_nodes: list[int] = field(default_factory=list)
    dropped_nodes: list[int] = field(default_factory=list)
    cut: list[Triple] = field(default_factory=list)
    gone_edges: list[Triple] = field(default_factory=list)
    withdrawn: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)


@dataclass(slots=True)
class GraphChange:
    """What a batch changed in one tenant's graph, in the order in which it is to be applied."""

    lost_mentions: list[tuple[int, int]] = field(default_factory=list)
    lost_evidence: list[tuple[Triple, int]] = field(default_factory=list)
    dropped_nodes: list[int] = field(default_factory=list)
    cut: list[Triple] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    nodes: list[tuple[int, str, str]] = field(default_factory=list)
    memories: list[tuple[int, str]] = field(default_factory=list)
    new_mentions: list[tuple[int, int]] = field(default_factory=list)
    new_evidence: list[tuple[Triple, int]] = field(default_factory=list)
    edges: dict[Triple, list[Stretch]] = field(default_factory=dict)
