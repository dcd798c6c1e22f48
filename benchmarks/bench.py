"""What Engram does on this machine, each figure beside that of the part below it, in one run.

make bench                  everything, about ten minutes
make bench ARGS=--quick     the same figures from less, about one minute
make bench ARGS=--write     everything, kept in benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import raw_jetstream, stages
from benchmarks.figures import markdown
from benchmarks.layout import BIG, BULK, SMALL, tenants_of
from benchmarks.machine import Stopwatch, describe, footprint
from benchmarks.raw_edge import Plan as EdgePlan
from benchmarks.raw_edge import RawEdge
from benchmarks.raw_jetstream import RawPublish
from benchmarks.stages import Done, Rig, rigged
from benchmarks.tables import Idle, Recalls, Results, Start, Writes, report
from benchmarks.texts import Texts
from engram.broker import SYNC
from engram_contracts.commands import Remember
from engram_contracts.ids import new_id
from engram_contracts.memory import MemoryFields
from engram_runtime.settings import Durability
from support.servers import ROOT
from support.system import System, embedded_system

CONVERSATIONS = ROOT.parent / "shared/data/locomo"
RESULTS = Path(__file__).with_name("RESULTS.md")
BY_HAND = "\n## What is not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: `bulk` and `full` count bulk requests, other counts are requests, durations seconds."""

    bulk: int = 100
    full: int = 1_000
    singles: int = 4_000
    paced: float = 15.0
    waited: float = 5.0
    recalls: int = 500
    under_ingest: float = 10.0
    thinks: int = 40
    idle: float = 5.0
    raw: float = 3.0
    durabilities: tuple[Durability, ...] = ("process", "second", "power")


QUICK = Plan(
    bulk=30, full=30, singles=1_000, paced=4.0, waited=2.0, recalls=150, under_ingest=4.0, thinks=10, idle=2.0,
    raw=0.7, durabilities=("process", "power"),
)  # fmt: skip


class Bench:
    """One run: what to measure, with which texts, in which folder."""

    def __init__(self, plan: Plan, conversations: Path | None, folder: Path) -> None:
        self._plan = plan
        self._conversations = conversations
        self._texts = Texts(conversations)
        self._folder = folder
        self._began = time.monotonic()

    async def run(self) -> Results:
        """Measure everything the plan names; the first durability gets the recalls as well."""
        first, *others = self._plan.durabilities
        publishes = {durability: await self._raw_publishes(durability) for durability in self._plan.durabilities}
        results = Results(publishes=publishes, edge=await self._raw_edge())
        await self._everything(first, results)
        for durability in others:
            with self._system(durability) as system:
                async with rigged(system, self._texts) as rig:
                    results.writes.append(await self._writes(rig, durability, await self._bulk(rig)))
        return results

    async def _everything(self, durability: Durability, results: Results) -> None:
        with self._system(durability) as system:
            results.starts.append(Start(0, system.ready_after))
            results.idle = await self._idle(system)
            async with rigged(system, self._texts) as rig:
                await self._small(rig, durability, results)
                if self._plan.full > self._plan.bulk:
                    await self._full(rig, results)
                results.loaded = footprint(rig.pids())
                count = await stages.stored(rig.bus)
        with self._system(durability) as system:
            results.starts.append(Start(count, system.ready_after))

    async def _small(self, rig: Rig, durability: Durability, results: Results) -> None:
        """Everything that is measured with few memories."""
        flood = await self._bulk(rig)
        results.recalls.append(await self._recalls(rig, "20 tenants", SMALL))
        results.again = await stages.recall_again(rig, SMALL, count=self._plan.recalls // 2)
        for rate in (200, 1_000):
            results.recalls.append(await self._recalls_under(rig, rate))
        self._say(f"{self._plan.thinks} questions to think about")
        results.thought = await stages.think(rig, count=self._plan.thinks)
        results.writes.append(await self._writes(rig, durability, flood))

    async def _full(self, rig: Rig, results: Results) -> None:
        """Recalls among many memories."""
        fill = tenants_of(range(self._plan.bulk, self._plan.full), even=self._plan.bulk)
        self._say(f"{BULK * len(fill):,} memories more")
        results.fill = await stages.flood(rig, fill, batch=BULK)
        results.recalls.append(await self._recalls(rig, "20 tenants", SMALL))
        results.recalls.append(await self._recalls(rig, "big tenant", (BIG,)))
        for rate in (200, 1_000):
            results.recalls.append(await self._recalls_under(rig, rate))

    async def _bulk(self, rig: Rig) -> Done:
        tenants = tenants_of(range(self._plan.bulk), even=self._plan.bulk)
        self._say(f"{BULK * len(tenants):,} memories in requests of {BULK}")
        return await stages.flood(rig, tenants, batch=BULK)

    async def _writes(self, rig: Rig, durability: Durability, bulk: Done) -> Writes:
        self._say(f"{self._plan.singles:,} single writes; 200 a second for {self._plan.paced:g} s")
        singles = await stages.flood(rig, [SMALL[n % len(SMALL)] for n in range(self._plan.singles)], batch=1)
        paced = await stages.pace(rig, rate=200, seconds=self._plan.paced)
        waited = await stages.pace(rig, rate=200, seconds=self._plan.waited, wait=True)
        return Writes(durability, bulk, singles, paced, waited)

    async def _recalls(self, rig: Rig, where: str, tenants: Sequence[str]) -> Recalls:
        count = await stages.stored(rig.bus)
        self._say(f"recalls among {count:,} memories, {where}")
        return Recalls(count, count, where, 0, await stages.recall(rig, tenants, count=self._plan.recalls))

    async def _recalls_under(self, rig: Rig, rate: int) -> Recalls:
        before = await stages.stored(rig.bus)
        self._say(f"recalls among {before:,} memories while {rate:,} a second come in")
        done = await stages.recall_under_ingest(rig, rate=rate, seconds=self._plan.under_ingest)
        return Recalls(before, await stages.stored(rig.bus), "20 tenants", rate, done)

    async def _idle(self, system: System) -> Idle:
        """What a ready system takes while nobody asks for anything."""
        pids = {**system.pids, "supervisor": system.process.pid}
        await asyncio.sleep(1.0)
        stopwatch = Stopwatch(pids)
        await asyncio.sleep(self._plan.idle)
        return Idle(footprint(pids), stopwatch.stop())

    async def _raw_publishes(self, durability: Durability) -> RawPublish:
        self._say(f"JetStream alone, durability {durability}")
        bodies = [_command(text) for text in self._texts.texts(1_000)]
        folder = self._folder / f"raw-{durability}"
        return await raw_jetstream.measure(folder, bodies, sync_interval=SYNC[durability], seconds=self._plan.raw)

    async def _raw_edge(self) -> RawEdge:
        sizes = sorted({BULK * self._plan.bulk, BULK * self._plan.full})
        self._say(f"embedder and Qdrant Edge alone, {max(sizes):,} memories")
        plan = EdgePlan(sizes=sizes, even=self._plan.bulk, conversations=self._conversations)
        command = (sys.executable, "-m", "benchmarks.raw_edge", plan.model_dump_json())
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
        told, _ = await process.communicate()
        return RawEdge.model_validate_json(told)

    @contextmanager
    def _system(self, durability: Durability) -> Iterator[System]:
        self._say(f"starting Engram, durability {durability}")
        folder = self._folder / durability
        folder.mkdir(exist_ok=True)
        with embedded_system(folder, durability=durability) as system:
            yield system

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._began:4.0f} s] {what}", file=sys.stderr, flush=True)


def _command(text: str) -> bytes:
    """What the door would publish for a memory."""
    fields = MemoryFields.model_validate(stages.memory(text, 1))
    return Remember(id=new_id(), accepted_at=datetime.now(UTC), memory_id=new_id(), memory=fields).encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 unless something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure less, in about a minute")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    parser.add_argument("--conversations", type=Path, default=CONVERSATIONS, help="LoCoMo files to draw texts from")
    options = parser.parse_args(arguments)
    conversations = options.conversations if options.conversations.exists() else None
    with tempfile.TemporaryDirectory(prefix="engram-bench-") as scratch:
        text = _described(Path(scratch), Texts(conversations).source)
        text += report(asyncio.run(Bench(QUICK if options.quick else Plan(), conversations, Path(scratch)).run()))
    print(text)
    if options.write:
        RESULTS.write_text(text.rstrip() + "\n" + _written_by_hand(RESULTS))
    return 0


def _written_by_hand(file: Path) -> str:
    """What people wrote below the tables, which a new run keeps."""
    _, heading, said = (file.read_text() if file.exists() else "").partition(BY_HAND)
    return heading + said


def _described(folder: Path, source: str) -> str:
    machine = describe(folder)
    rows = [("date", f"{datetime.now(UTC):%Y-%m-%d}"), *machine.items(), ("texts", source)]
    intro = "Made by `make bench ARGS=--write`. Load generators run on the same cores as Engram.\n\n"
    return f"# What Engram does on one machine\n\n{intro}{markdown(('machine', ''), rows)}\n"


if __name__ == "__main__":
    sys.exit(main())
