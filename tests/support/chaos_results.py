"""What a run of the chaos suite is to do, and the table of what it measured."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

COLUMNS = ("case", "run", "asked", "measured", "not reached", "date", "seed")
FEW = 0.1
"""So large a share of the short slice's requests may find the machine too busy for them."""
HEAD = """# What breaking things showed

`make chaos-long` writes this table: the last run of each case, with its seed. Durations are of a machine with 2 cores
that ran the system, the load and the auditor, and often other work beside. What must hold (nothing acknowledged lost or
doubled, no ghosts, counters equal, tenants disjoint) was checked against the stores' own files after every case.
"""


@dataclass
class Plan:
    """How much, from which seed. `scale` shortens a long run."""

    seed: int
    long: bool
    scale: float = 1.0
    cases: list[Case] = field(default_factory=list)

    def count(self, short: int, long: int) -> int:
        """How often, of a case's two figures."""
        return max(1, round(long * self.scale)) if self.long else short


class Case:
    """One case: its randomness, and what came of it."""

    def __init__(self, name: str, plan: Plan, *, say: Callable[[str], None]) -> None:
        self.name = name
        self.plan = plan
        self.run = ""
        self.asked = ""
        self.measured: list[str] = []
        self.missed: list[str] = []
        self.chance = random.Random(f"{plan.seed}-{name}")
        self._say = say
        self._began = time.monotonic()

    @property
    def seed(self) -> int:
        """A number for whoever needs randomness of its own."""
        return self.plan.seed

    def chances(self) -> Iterator[float]:
        """Numbers from 0 to 1."""
        own = random.Random(f"{self.plan.seed}-{self.name}-chances")
        while True:
            yield own.random()

    def say(self, words: str) -> None:
        """Show progress."""
        self._say(f"  [{time.monotonic() - self._began:6.1f} s] {self.name}: {words}")

    def note(self, words: str) -> None:
        """Keep a figure."""
        self.measured.append(words)
        self.say(words)

    def bound(self, what: str, value: float, most: float, *, unit: str = "s", strict: bool = False) -> None:
        """Keep a figure that has a bound; past it, say so, and fail where it is strict."""
        self.note(f"{what} {value:.2f} {unit}")
        if not value <= most:
            self.missed.append(f"{what}: {value:.2f} {unit}, asked {most:g}")
            assert not strict, f"{what} is {value:.2f} {unit}, at most {most:g} is allowed"

    def none(self, what: str, found: int, asked: int) -> None:
        """Nothing of the kind may be found; of the short slice, which runs beside others on a busy machine, a few."""
        self.bound(what, 100 * found / asked, 0.0, unit="%", strict=self.plan.long)
        assert found <= FEW * asked, f"{what}: {found} of {asked}"


def write_results(file: Path, plan: Plan, now: datetime) -> None:
    """Bring the table up to date: rows of cases that were run now replace older ones."""
    rows = _rows(file.read_text()) if file.exists() else {}
    for case in plan.cases:
        cells = (
            case.name, case.run, case.asked, "; ".join(case.measured), "; ".join(case.missed) or "-",
            now.strftime("%Y-%m-%d"), str(plan.seed),
        )  # fmt: skip
        rows[case.name] = [cell.replace("|", "/").replace("\n", " ") for cell in cells]
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS)), *(_line(rows[name]) for name in sorted(rows))]
    tail = _tail(file.read_text()) if file.exists() else ""
    file.write_text(HEAD + "\n" + "\n".join(lines) + "\n" + tail)


def _line(cells: object) -> str:
    return "| " + " | ".join(cells) + " |"  # type: ignore[arg-type]  # rows of text


def _rows(text: str) -> dict[str, list[str]]:
    split = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if "|" in line]
    return {cells[0]: cells for cells in split if len(cells) == len(COLUMNS) and cells[0] not in {"case", "---"}}


def _tail(text: str) -> str:
    """What people wrote below the table; it stays."""
    at = text.find("\n## ")
    return text[at:] if at >= 0 else ""
