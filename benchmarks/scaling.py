"""What another embedder brings where the model is elsewhere: the same load with one, two and three of them.

`python -m benchmarks.scaling` (about a minute). The model is a server of OpenAI's `/embeddings` that takes 50 ms for a
request and 30 ms for each text in it, however many ask at once; so an embedder mostly waits, and cores are free. The
table on standard output has a line for each number of embedders, and what each of them did of the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from benchmarks.apart import apart
from benchmarks.figures import markdown, number
from benchmarks.layout import BULK, tenants_of
from benchmarks.stages import Done, Rig, flood, rigged
from benchmarks.texts import Texts
from support.embedders import another_embedder, handled, remote
from support.fake_embeddings import FakeEmbeddings, fake_embeddings
from support.system import embedded_system

DIMENSION = 256
EACH_REQUEST, EACH_TEXT = 0.05, 0.03
REQUESTS = 30
MOST = 3


@dataclass(frozen=True, slots=True)
class Round:
    """What came of the load with so many embedders; `parts` is what each of them did of it, the largest first."""

    done: Done
    parts: list[int]

    def cells(self, first: Round) -> list[str]:
        """A line of the table, beside the first one."""
        rate, whole = self.done.searchable_per_s, sum(self.parts)
        return [
            str(len(self.parts)),
            number(rate),
            f"{rate / first.done.searchable_per_s:.2f} x",
            ", ".join(f"{part / whole:.0%}" for part in self.parts),
            f"{sum(self.done.spent.by_process.values()) / self.done.spent.seconds:.2f}",
            f"{self.done.spent.elsewhere_cores:.2f}",
        ]


HEADINGS = ("embedders", "searchable a second", "of one", "each did", "cores used, without added ones", "by others")


@contextlib.asynccontextmanager
async def embedding() -> AsyncIterator[str]:
    """The model, which takes its time."""
    async with fake_embeddings(DIMENSION) as fake:
        fake.reply = _taking_its_time(fake)
        yield fake.url


def _taking_its_time(fake: FakeEmbeddings) -> Any:
    async def reply(body: dict[str, Any]) -> web.StreamResponse:
        fake.requests.clear()
        await asyncio.sleep(EACH_REQUEST + EACH_TEXT * len(body["input"]))
        return web.json_response(fake.vectors(body))

    return reply


async def measure(rig: Rig, settings: dict[str, str], folder: Path) -> list[Round]:
    """The load with one embedder, then with one more each time."""
    rounds = []
    with ExitStack() as added:
        for number_of in range(1, MOST + 1):
            if number_of > 1:
                added.enter_context(another_embedder(rig.system.nats, folder / str(number_of), settings))
            before = await _once_there_are(rig, number_of)
            done = await flood(rig, tenants_of(range(REQUESTS), even=REQUESTS), batch=BULK)
            after = await handled(rig.bus)
            parts = sorted((after[pid] - before[pid] for pid in before), reverse=True)
            rounds.append(Round(done, parts))
    return rounds


async def _once_there_are(rig: Rig, number_of: int) -> dict[int, int]:
    """What each worker has handled, as soon as there are so many."""
    queries = rig.system.pids.get("embedder-query")
    async with asyncio.timeout(60):
        while True:
            found = {pid: count for pid, count in (await handled(rig.bus)).items() if pid != queries}
            if len(found) == number_of:
                return found


async def run(folder: Path, url: str) -> list[Round]:
    """Everything, on a system of its own."""
    settings = remote(url, DIMENSION)
    with embedded_system(folder, environ=settings) as system:
        async with rigged(system, Texts(None)) as rig:
            return await measure(rig, settings, folder)


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory(prefix="engram-scaling-") as folder, apart(embedding) as url:
        rounds = asyncio.run(run(Path(folder), url))
    print(markdown(HEADINGS, [one.cells(rounds[0]) for one in rounds]))


if __name__ == "__main__":
    main()
