"""The partitions this process keeps: opened when first needed, written by one thread at a time each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from engram_contracts.errors import EngramError, Unavailable
from engram_contracts.ids import partition_of
from engram_graph.store_duckdb import Partition, Reading
from engram_runtime.telemetry import OPEN_FAILURES
from engram_runtime.tracing import traced
from engram_runtime.vault import NO_VAULT, Vault

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
WRITERS = 2


class Partitions:
    """The files `p<N>.duckdb` in a folder. `trouble` tells which could not be opened, and why.

    `vault` seals the text that is written to them.
    """

    def __init__(self, folder: Path, numbers: Sequence[int], *, memory_limit: str, vault: Vault = NO_VAULT) -> None:
        self.vault = vault
        self._folder = folder
        self._numbers = frozenset(numbers)
        self._memory_limit = memory_limit
        self._open: dict[int, Partition] = {}
        self._opening = asyncio.Lock()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="graph-read")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="graph-write")
        self.trouble: dict[int, str] = {}

    def exists(self, number: int) -> bool:
        """Whether anything was ever stored in a partition."""
        return number in self._open or self._file(number).exists()

    async def partition(self, number: int) -> Partition:
        """A partition, open. Raises `Unavailable` when it is another's, or its file cannot be opened."""
        found = self._open.get(number)
        if found is not None:
            return found
        if number not in self._numbers:
            raise Unavailable(f"partition {number} is not kept by this instance", retry_after=1)
        async with self._opening:
            if number not in self._open:
                self._open[number] = await self._opened(number)
            return self._open[number]

    async def read(
        self,
        tenant: str,
        query: Callable[Concatenate[Reading, str, P], T],
        *values: P.args,
        **named: P.kwargs,
    ) -> T:
        """Ask the record of a tenant's partition, in a thread; the tenant is always the question's first word."""
        return await self.ask(partition_of(tenant), lambda cursor: query(cursor, tenant, *values, **named))

    @traced("query duckdb", "client", {"db.system.name": "duckdb", "db.operation.name": "SELECT"})
    async def ask(self, number: int, query: Callable[[Reading], T]) -> T:
        """Ask a partition's record as a whole, in a thread."""
        opened = await self.partition(number)

        def answer() -> T:
            with opened.reading() as cursor:
                return query(cursor)

        return await asyncio.get_running_loop().run_in_executor(self._readers, answer)

    @traced("write duckdb", "client", {"db.system.name": "duckdb", "db.operation.name": "TRANSACTION"})
    async def writing(self, number: int, work: Callable[[Partition], T]) -> T:
        """Have a thread do something with a partition on the writer's behalf."""
        opened = await self.partition(number)
        return await asyncio.get_running_loop().run_in_executor(self._writers, partial(work, opened))

    async def replace(self, number: int, file: Path) -> None:
        """Put another file in a partition's place. Who reads meanwhile waits; nobody may be writing.

        A crash at any moment leaves the old file or the new one.
        """
        async with self._opening:
            old = self._open.pop(number, None)
            await asyncio.to_thread(self._wait_for_readers)
            await asyncio.to_thread(_put_in_place, old, file, self._file(number))
            self._open[number] = await self._opened(number)

    def _wait_for_readers(self) -> None:
        """Return once every reading thread has finished what was asked before."""
        met = threading.Barrier(READERS + 1)
        for _ in range(READERS):
            self._readers.submit(met.wait)
        met.wait()

    async def let_go(self, number: int) -> Path:
        """Close a partition; its file."""
        async with self._opening:
            if opened := self._open.pop(number, None):
                await asyncio.to_thread(opened.close)
        return self._file(number)

    async def close(self) -> None:
        """Finish what runs, and close the files."""
        self._writers.shutdown(wait=False)
        self._readers.shutdown(wait=False)
        await asyncio.to_thread(self._close_all)

    def _close_all(self) -> None:
        self._writers.shutdown()
        self._readers.shutdown()
        for opened in self._open.values():
            opened.close()

    def _file(self, number: int) -> Path:
        return self._folder / f"p{number}.duckdb"

    async def _opened(self, number: int) -> Partition:
        file = self._file(number)
        loop = asyncio.get_running_loop()
        try:
            opened = await loop.run_in_executor(
                self._writers, partial(Partition.open, file, memory_limit=self._memory_limit, vault=self.vault)
            )
        except EngramError as error:
            self.trouble[number] = error.message
            OPEN_FAILURES.labels("record").inc()
            raise
        self.trouble.pop(number, None)
        return opened


def _put_in_place(old: Partition | None, new: Path, place: Path) -> None:
    if old is not None:
        old.close()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_name(f"{place.name}.wal").unlink(missing_ok=True)  # closing has written it into the file
    new.replace(place)
