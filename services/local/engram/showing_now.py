"""How what goes on, and what a request did, look to people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from engram.showing import console

BAR = 12
SHOWN = ("engram.operation", "db.system.name", "gen_ai.request.model", "messaging.batch.message_count", "engram.tenant")
"""What of a span's attributes is worth a look beside its name."""


def now(state: dict[str, Any]) -> None:
    """What goes on, once. `waits` and `takes` are the 95th percentile in milliseconds, `oldest` is in seconds."""
    console.print(_tables(state))


@contextlib.contextmanager
def live() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show what goes on in one place, again and again."""
    with Live(console=console, auto_refresh=False) as screen:
        yield lambda state: screen.update(_tables(state), refresh=True)


def timeline(spans: list[dict[str, Any]]) -> None:
    """Spans with their beginning and length in milliseconds, and where they lie in the whole."""
    begin = min(span["start_ns"] for span in spans)
    whole = max(max(span["end_ns"] for span in spans) - begin, 1)
    table = Table(box=None, title=f"trace {spans[0]['trace_id']}", title_justify="left")
    for name in ("ms", "took", "", "service", "step", "about"):
        table.add_column(name, no_wrap=name != "about", overflow="ellipsis")
    for span in spans:
        start, took = span["start_ns"] - begin, span["end_ns"] - span["start_ns"]
        told = {name: value for name, value in span["attributes"].items() if name in SHOWN}
        failed = f" [red]{escape(span['error'])}[/]" if span.get("error") else ""
        table.add_row(
            f"{start / 1e6:.2f}", f"{took / 1e6:.2f}", f"[cyan]{_bar(start / whole, took / whole)}[/]", span["service"],
            f"{'  ' * span['depth']}{escape(span['name'])}{failed}",
            f"[dim]{escape(', '.join(str(value) for value in told.values()))}[/]",
        )  # fmt: skip
    console.print(table)


def _bar(start: float, length: float) -> str:
    before = min(int(start * BAR), BAR - 1)
    return " " * before + "━" * max(min(round(length * BAR), BAR - before), 1)


def _tables(state: dict[str, Any]) -> Group:
    return Group(_requests(state), _stages(state), _workers(state))


def _requests(state: dict[str, Any]) -> str:
    told = state["requests"]
    failed = f"[red]{told['failed_per_second']:g} failed[/]" if told["failed_per_second"] else "0 failed"
    return (
        f"[bold]{told['per_second']:g} requests/s[/]  {failed}/s  {told['refused_per_second']:g} refused/s  "
        f"p95 {_number(told['p95_ms'])} ms"
    )


def _stages(state: dict[str, Any]) -> Table:
    table = Table("stage", "/s", "waiting", "oldest", "retry/s", "dead", "waits", "takes", "")
    for row in state["stages"]:
        table.add_row(
            row["stage"], f"{row['per_second']:g}", f"{row['waiting']:,}", f"{row['oldest_s']:.1f}",
            f"{row['retries_per_second']:g}", f"{row['dead']:,}", _number(row["p95_wait_ms"]),
            _number(row["p95_handling_ms"]), "[red]held[/]" if row["held"] else "",
        )  # fmt: skip
    return table


def _workers(state: dict[str, Any]) -> Table:
    table = Table("worker", "pid", "ready", "MiB", "CPU s", "up s")
    for row in state["workers"]:
        ready = "[green]yes[/]" if row["ready"] else "[red]no[/]"
        table.add_row(
            row["service"], str(row["pid"]), ready, f"{row['rss_bytes'] / 2**20:.0f}", f"{row['cpu_s']:.1f}",
            f"{row['uptime_s']:.0f}",
        )  # fmt: skip
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
