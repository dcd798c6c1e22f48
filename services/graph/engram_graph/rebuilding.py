"""A partition of the record built anew from the log, beside the one that answers, which it then replaces.

What was built so far lies in `rebuild/` and is continued by the next try, also after a crash. It takes the old file's
place only when no command that had an effect there is missing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from engram_contracts.auditing import RebuildRecord, RebuildStatus
from engram_contracts.errors import Conflict, EngramError, Rejected, Unavailable
from engram_contracts.events import Event
from engram_contracts.ids import partition_of
from engram_contracts.topology import LOG
from engram_graph import reads_duckdb as record
from engram_graph.draft import OPS
from engram_graph.following import Follower
from engram_graph.graphs import Graphs
from engram_graph.mending import MendingFollower
from engram_graph.partitions import Partitions
from engram_graph.settings import GraphSettings
from engram_graph.store_duckdb import Reading
from engram_graph.vocabularies import Vocabularies
from engram_runtime.bus import Bus, Stored
from engram_runtime.refetching import delivered
from engram_runtime.service import Delivery

log = logging.getLogger(__name__)

FACTS = {kind.event: kind for kind in OPS}
PAGE = 500


class Rebuilder:
    """Rebuilds partitions, one task each."""

    def __init__(
        self,
        bus: Bus,
        partitions: Partitions,
        followers: Mapping[int, MendingFollower],
        *,
        vocabularies: Vocabularies,
        graphs: Graphs,
        folder: Path,
        settings: GraphSettings,
        clock: Callable[[], datetime],
    ) -> None:
        self._bus = bus
        self._partitions = partitions
        self._followers = followers
        self._vocabularies = vocabularies
        self._graphs = graphs
        self._folder = folder / "rebuild"
        self._settings = settings
        self._clock = clock
        self._running: dict[int, asyncio.Task[None]] = {}
        self._statuses: dict[int, RebuildStatus] = {}

    async def rebuild(self, question: RebuildRecord) -> RebuildStatus:
        """How far the rebuild of a partition is; begins it where that is asked for and it does not run."""
        number = question.partition
        if number not in self._followers:
            raise Unavailable(f"partition {number} is not kept by this instance", retry_after=1)
        if question.begin and number not in self._running:
            self._statuses[number] = RebuildStatus(state="running")
            task = self._running[number] = asyncio.create_task(self._run(number))
            task.add_done_callback(lambda _: self._running.pop(number, None))
        return self._statuses.get(number, RebuildStatus(state="idle"))

    async def close(self) -> None:
        """Leave what is being built to the next try."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, number: int) -> None:
        limit, vault = self._settings.memory_limit, self._partitions.vault
        aside = Partitions(self._folder, (number,), memory_limit=limit, vault=vault)
        try:
            await self._build(number, aside)
            self._tell(number, state="done")
        except asyncio.CancelledError:
            raise
        except Exception as error:
            reason = error.message if isinstance(error, EngramError) else repr(error)
            log.exception("rebuild failed", extra={"partition": number})
            self._tell(number, state="failed", reason=reason)
        finally:
            await aside.close()

    async def _build(self, number: int, aside: Partitions) -> None:
        """Follow the log from its beginning, then, while nothing else is applied, up to where the record is."""
        vocabularies = Vocabularies(
            lambda tenant: aside.read(tenant, record.known_nodes), most_nodes=self._settings.known_nodes
        )
        unwatched = Graphs(_no_graph, most_bytes=0)
        bus = cast("Bus", _Silent())
        follower = Follower(number, aside, vocabularies=vocabularies, graphs=unwatched, bus=bus, clock=self._clock)
        live = self._followers[number]
        reached = await follower.position()
        reached = await self._follow(number, follower, reached, await live.position())
        async with live.standing_still:
            await self._follow(number, follower, reached, await live.position())
            await self._check(number, aside)
            if not aside.exists(number):
                return
            await self._partitions.replace(number, await aside.let_go(number))
            await self._vocabularies.forget(lambda tenant: partition_of(tenant) == number)
            await self._graphs.forget_all(lambda tenant: partition_of(tenant) == number)

    async def _follow(self, number: int, follower: Follower, reached: int, last: int) -> int:
        """Apply the log up to a sequence; where that is."""
        self._tell(number, position=reached, last=last)
        while reached < last:
            page = await self._bus.archive(LOG).read(reached + 1, pattern=f"engram.log.{number}.>", limit=PAGE)
            within = [stored for stored in page if stored.sequence <= last]
            if not within:
                return last
            await follower.apply([fact for stored in within if (fact := _fact(stored)) is not None])
            reached = within[-1].sequence
            self._tell(number, position=reached)
        return reached

    async def _check(self, number: int, aside: Partitions) -> None:
        """Raise `Conflict` where the record holds more than the log makes of it."""
        if not self._partitions.exists(number):
            return
        old = await self._partitions.ask(number, _commands)
        new = await aside.ask(number, _commands) if aside.exists(number) else 0
        lacking = old - new
        if lacking > 0:
            raise Conflict(
                f"the log no longer holds {lacking:,} of the {old:,} commands that took effect in partition {number}; "
                "its record is left as it is (`engram verify --repair` puts single memories right)"
            )

    def _tell(self, number: int, **what: Any) -> None:
        self._statuses[number] = self._statuses[number].model_copy(update=what)


def _fact(stored: Stored) -> Delivery[Any] | None:
    with contextlib.suppress(Rejected):
        return delivered(stored, FACTS)
    return None


def _commands(cursor: Reading) -> int:
    return int(cursor.execute("SELECT count(*) FROM jobs").fetchall()[0][0])


async def _no_graph(tenant: str) -> Any:
    raise NotImplementedError(tenant)


class _Silent:
    """Announces nothing: what is applied was announced long ago."""

    async def emit(self, tenant: str, event: Event) -> None:
        """Say nothing."""
