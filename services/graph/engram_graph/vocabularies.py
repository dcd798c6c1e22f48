"""The vocabularies in memory: loaded when a tenant is first met, the least used let go beyond a number of nodes."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from engram_graph.vocabulary import Known, Vocabulary

Load = Callable[[str], Awaitable[Sequence[Known]]]


class Vocabularies:
    """Vocabularies by tenant, each loaded once and then kept current by the one writer.

    While the writer holds one (`held`), it is not let go, and whoever asks gets the same object.
    """

    def __init__(self, load: Load, *, most_nodes: int) -> None:
        self._load = load
        self._most_nodes = most_nodes
        self._loaded: OrderedDict[str, Vocabulary] = OrderedDict()
        self._loading: dict[str, asyncio.Future[Vocabulary]] = {}
        self._held: Counter[str] = Counter()

    async def get(self, tenant: str) -> Vocabulary:
        """A tenant's vocabulary."""
        found = self._loaded.get(tenant)
        if found is not None:
            self._loaded.move_to_end(tenant)
            return found
        loading = self._loading.get(tenant)
        if loading is None:
            loading = self._loading[tenant] = asyncio.ensure_future(self._fetch(tenant))
            loading.add_done_callback(lambda _: self._loading.pop(tenant, None))
        return await asyncio.shield(loading)

    @asynccontextmanager
    async def held(self, tenants: Iterable[str]) -> AsyncIterator[Mapping[str, Vocabulary]]:
        """Vocabularies for a batch to change in place; when it fails, they are read anew."""
        names = sorted(set(tenants))
        self._held.update(names)
        try:
            yield {name: await self.get(name) for name in names}
        except BaseException:
            for name in names:
                self._loaded.pop(name, None)
            raise
        finally:
            self._held -= Counter(names)
            self._let_go()

    async def forget(self, concerned: Callable[[str], bool]) -> None:
        """Read the vocabularies of these tenants anew when they are asked for; what is being read is waited for."""
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for name in [name for name in self._loaded if concerned(name)]:
            del self._loaded[name]

    async def _fetch(self, tenant: str) -> Vocabulary:
        vocabulary = Vocabulary(await self._load(tenant))
        self._loaded[tenant] = vocabulary
        self._let_go()
        return vocabulary

    def _let_go(self) -> None:
        nodes = sum(vocabulary.size for vocabulary in self._loaded.values())
        for name in list(self._loaded):
            if nodes <= self._most_nodes:
                return
            if name not in self._held:
                nodes -= self._loaded.pop(name).size
