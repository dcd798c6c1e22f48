"""How good recall is, through the running system, beside its rivals and without each of its pieces, in one run.

make bench-quality DATA=../shared/data/locomo              everything (add ARGS=--write to keep it in RESULTS.md)
make bench-quality DATA=../shared/data/locomo ARGS=--quick  without the ablation
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.quality.asking import SETTLE_SECONDS, Answer, asker
from benchmarks.quality.datasets import Dataset, load
from benchmarks.quality.results import keep
from benchmarks.quality.tables import report
from benchmarks.quality.variants import ABLATIONS, RIVALS, WHOLE, Body
from support.system import System, embedded_system

PATIENT = {"ENGRAM_SERVE_ASK_SECONDS": "60", "ENGRAM_SERVE_LONGEST_WAIT": f"{SETTLE_SECONDS:g}"}
"""On a busy machine no part may leave its share of an answer out, and nothing is asked before all is indexed."""


async def run(system: System, dataset: Dataset, variants: dict[str, Body]) -> dict[str, list[Answer]]:
    """Ingest once, then ask everything in every way."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        async with asker(system, dataset) as somebody:
            await somebody.ingest(progress)
            return {name: await somebody.ask(name, how, progress) for name, how in variants.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the dataset lies")
    parser.add_argument("--quick", action="store_true", help="leave the ablation out")
    parser.add_argument("--write", action="store_true", help="keep the tables in RESULTS.md")
    parser.add_argument("--embedder", default="static", help="the embedder's adapter")
    parser.add_argument("--model-path", help="a local model directory, for the adapter fastembed")
    parser.add_argument("--also", action="append", default=[], help="one more way: name={...} (JSON of the request)")
    chosen = parser.parse_args(arguments)
    dataset = load(chosen.folder)
    more = {name: json.loads(body) for name, _, body in (each.partition("=") for each in chosen.also)}
    variants = {WHOLE: {}, **RIVALS, **({} if chosen.quick else ABLATIONS), **more}
    environ = {"ENGRAM_EMBEDDER_ADAPTER": chosen.embedder, **PATIENT}
    if chosen.model_path:
        environ["ENGRAM_EMBEDDER_PATH"] = chosen.model_path
    with tempfile.TemporaryDirectory() as scratch, embedded_system(Path(scratch), environ=environ) as system:
        found = report(dataset, asyncio.run(run(system, dataset, variants)))
    print(found)
    if chosen.write:
        keep(f"{dataset.name}, {chosen.embedder} embedder", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
