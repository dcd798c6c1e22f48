"""Arithmetic and layout of reports. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


def p(percent: float, values: Sequence[float]) -> float:
    """The percentile by nearest rank; not a number where there are no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure is to reach: at least, or at most, so much."""

    value: float
    at_least: bool

    def met(self, figure: float) -> bool:
        """Whether the figure reaches it."""
        return figure >= self.value if self.at_least else figure <= self.value


def at_least(value: float) -> Target:
    """A target that larger figures meet."""
    return Target(value=value, at_least=True)


def at_most(value: float) -> Target:
    """A target that smaller figures meet."""
    return Target(value=value, at_least=False)


@dataclass(frozen=True, slots=True)
class Raw:
    """The figure of the part below, and what was done with it."""

    value: float
    what: str


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, beside its target and the raw figure of the part below it in the same unit."""

    what: str
    value: float
    unit: str
    target: Target | None = None
    raw: Raw | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text, a cell under each of `HEADINGS`."""
        target = f"{'≥' if self.target.at_least else '≤'} {number(self.target.value)}" if self.target else ""
        met = ("yes" if self.target.met(self.value) else "NO") if self.target else ""
        raw = f"{number(self.raw.value)} ({self.raw.what})" if self.raw else ""
        ratio = f"{self.value / self.raw.value:.2g} ×" if self.raw and self.raw.value else ""
        return (self.what, f"{number(self.value)} {self.unit}", target, met, raw, ratio)


HEADINGS = ("figure", "measured", "target", "met", "raw part below", "ratio")


@dataclass
class Report:
    """Tables under headings, in the order they were added."""

    sections: list[tuple[str, str]] = field(default_factory=list)

    def rows(self, heading: str, rows: Sequence[Row], note: str = "") -> None:
        """Add figures beside their targets and raw parts."""
        self.table(heading, HEADINGS, [row.cells() for row in rows], note)

    def table(self, heading: str, names: Sequence[str], cells: Sequence[Sequence[str]], note: str = "") -> None:
        """Add a table of text, with a note below it."""
        self.sections.append((heading, markdown(names, cells) + (f"\n{note}\n" if note else "")))

    def text(self) -> str:
        """All of it, as Markdown that can be read as it is."""
        return "\n".join(f"## {heading}\n\n{body}" for heading, body in self.sections)


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned."""
    widths = [max(len(row[column]) for row in (names, *rows)) for column in range(len(names))]
    lines = [names, ["-" * width for width in widths], *rows]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )  # fmt: skip


def number(value: float) -> str:
    """A number with three figures that count."""
    if math.isnan(value):
        return "none"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
