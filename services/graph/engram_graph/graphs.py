"""The graphs in memory: built when a tenant's is first asked for, kept current, the least used let go."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from engram_graph.records import GraphChange

if TYPE_CHECKING:
    from engram_graph.csr import Graph

Load = Callable[[str], Awaitable["Graph"]]

HEAVY = 5_000
"""Edges of dropped nodes from which on building anew is cheaper than taking them out one by one."""


class Graphs:
    """Graphs by tenant, at most `most_bytes` of them together (but always the one asked for).

    A graph is built in a thread from one state of the record, and then told of every batch that came after that
    state; so is the one that replaces it once it is ripe, and until then the old one answers.
    """

    def __init__(self, load: Load, *, most_bytes: int) -> None:
        self._load = load
        self._most_bytes = most_bytes
        self._built: OrderedDict[str, Graph] = OrderedDict()
        self._building: dict[str, asyncio.Future[Graph]] = {}
        self._missed: dict[str, list[tuple[int, GraphChange]]] = {}

    async def get(self, tenant: str) -> Graph:
        """A tenant's graph as of the last batch."""
        graph = self._built.get(tenant)
        if graph is None:
            return await asyncio.shield(self._start(tenant))
        self._built.move_to_end(tenant)
        if graph.ripe:
            self._start(tenant)
        return graph

    def watches(self, tenant: str) -> bool:
        """Whether changes of this tenant have to be told."""
        return tenant in self._built or tenant in self._missed

    def apply(self, tenant: str, sequence: int, change: GraphChange) -> None:
        """Take up what a committed batch, which ended at a log sequence, changed."""
        if tenant in self._missed:
            self._missed[tenant].append((sequence, change))
        graph = self._built.get(tenant)
        if graph is None:
            return
        if sum(graph.degree(key) for key in change.dropped_nodes) > HEAVY:
            del self._built[tenant]
        else:
            graph.apply(change)

    def forget(self, tenant: str) -> None:
        """Let a tenant's graph go; it is built anew when it is asked for."""
        self._built.pop(tenant, None)

    async def forget_all(self, concerned: Callable[[str], bool]) -> None:
        """Let the graphs of these tenants go; what is being built is waited for."""
        await self.close()
        for name in [name for name in self._built if concerned(name)]:
            del self._built[name]

    async def close(self) -> None:
        """Wait for what is being built."""
        await asyncio.gather(*self._building.values(), return_exceptions=True)

    def _start(self, tenant: str) -> asyncio.Future[Graph]:
        building = self._building.get(tenant)
        if building is None:
            self._missed[tenant] = []
            building = self._building[tenant] = asyncio.ensure_future(self._build(tenant))
            building.add_done_callback(lambda done: done.cancelled() or done.exception())
        return building

    async def _build(self, tenant: str) -> Graph:
        try:
            graph = await self._load(tenant)
            for sequence, change in self._missed[tenant]:
                if sequence > graph.sequence:
                    graph.apply(change)
        finally:
            del self._missed[tenant], self._building[tenant]
        self._built[tenant] = graph
        self._let_go(tenant)
        return graph

    def _let_go(self, kept: str) -> None:
        total = sum(graph.bytes for graph in self._built.values())
        for tenant in list(self._built):
            if total <= self._most_bytes:
                return
            if tenant != kept:
                total -= self._built.pop(tenant).bytes
