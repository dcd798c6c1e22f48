"""How a comparison of all stores looks to people."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from engram.showing import console

MOST_TENANTS = 50
MOST_SHOWN = 100


def report(found: dict[str, Any]) -> None:
    """Live memories by tenant and store, then every difference."""
    counts = Table("tenant", "expected", "index", "record", "ledger", title=_title(found), title_justify="left")
    for tenant, row in list(found["tenants"].items())[:MOST_TENANTS]:
        counts.add_row(tenant, *(f"{row[name]:,}" for name in ("expected", "index", "record", "ledger")))
    console.print(counts)
    if len(found["tenants"]) > MOST_TENANTS:
        console.print(f"[dim]and {len(found['tenants']) - MOST_TENANTS:,} tenants more; --json lists all[/]")
    for tally in found["tallies"]:
        console.print(f"[red]{tally['count']:,} {tally['kind']}[/] in the {tally['store']} of {tally['tenant']}")
    for each in found["differences"][:MOST_SHOWN]:
        letter = f"  [dim]given up in dead letter {each['letter']}[/]" if "letter" in each else ""
        console.print(f"  {each['store']} {each['tenant']} [cyan]{escape(each['id'])}[/] {each['kind']}{letter}")
    if found["strays"]:
        console.print(f"[red]{len(found['strays']):,} points[/] of the index belong to no memory")
    _outcome(found)


def relaid(streams: list[dict[str, Any]]) -> None:
    """What became of each log."""
    for each in streams:
        what = f"[green]goes on at {each['applied'] + 1}[/]" if each["rebuilt"] else "reaches as far as the stores"
        console.print(f"{each['stream']}: {what}")


def rebuilt(partitions: list[dict[str, Any]]) -> None:
    """What became of each partition."""
    for each in partitions:
        colour = "green" if each["state"] == "done" else "red"
        reason = escape(each.get("reason") or "")
        console.print(f"partition {each['partition']}: [{colour}]{each['state']}[/] {reason}")


def _title(found: dict[str, Any]) -> str:
    return f"compared up to sequence {found['cut']:,} of the log, which begins at {found['log']['first']:,}"


def _outcome(found: dict[str, Any]) -> None:
    if found["mended"]:
        console.print(f"[green]{found['mended']:,} put right[/]")
    for failure in found["failed"][:MOST_SHOWN]:
        console.print(f"[red]not put right[/] {escape(failure)}")
    console.print("[green]all stores are equal[/]" if found["equal"] else "[red]the stores differ[/]")
