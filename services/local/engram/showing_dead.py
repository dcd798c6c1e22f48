"""How dead letters and replays look to people."""

from __future__ import annotations

import json
from typing import Any

from rich.markup import escape
from rich.table import Table

from engram.showing import console

COLOURS = {"done": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "queued": "cyan"}


def letters(page: dict[str, Any]) -> None:
    """A list, newest first: where each lies and died, and below it why."""
    _with_reasons(
        [(str(one["sequence"]), _time(one["buried_at"]), *_facts(one)) for one in page["letters"]],
        [one["reason"] for one in page["letters"]],
    )
    if page.get("after"):
        console.print(f"[dim]more with --after {page['after']}[/]")


def groups(found: dict[str, Any]) -> None:
    """Counts, largest first, and below each an example."""
    examples = [group["example"] for group in found["groups"]]
    _with_reasons(
        [
            (f"{one['count']:,}", *one["key"].values(), _time(one["oldest_at"]), _time(one["newest_at"]))
            for one in found["groups"]
        ],
        [f"{example['sequence']}: {example['reason']}" for example in examples],
    )
    if found["truncated"]:
        console.print(f"[yellow]only the newest {found['letters']:,} were looked at[/]")


def letter(detail: dict[str, Any]) -> None:
    """Everything about one."""
    about = detail["letter"]
    table = Table.grid(padding=(0, 2))
    for name in ("sequence", "subject", "stage", "tenant", "command", "why", "code", "error", "reason", "attempts"):
        table.add_row(f"[dim]{name}[/]", escape(str(about.get(name, ""))))
    table.add_row("[dim]first, last[/]", f"{_time(about['first_at'])}  {_time(about['last_at'])}")
    for failure in detail["history"]:
        words = f"{failure['code']} at {failure['stage']}: {failure['reason']}"
        table.add_row("[dim]before[/]", f"{_time(failure['last_at'])}  {escape(words)}")
    for name, value in sorted(detail["headers"].items()):
        table.add_row(f"[dim]{escape(name)}[/]", escape(value))
    console.print(table)
    if detail.get("body") is not None:
        console.print_json(json.dumps(detail["body"]))
    else:
        part = "  [yellow](the beginning of it)[/]" if detail["truncated"] else ""
        console.print(f"[dim]{about['size']:,} bytes that are not JSON, in base64:[/]{part}\n{detail.get('raw', '')}")


def replay(status: dict[str, Any]) -> None:
    """How far one replay is."""
    verb = "would be replayed" if status["dry_run"] else "replayed"
    counts = [f"{status['replayed']:,} {verb}"]
    counts += [f"{status[name]:,} {name}" for name in ("skipped", "failed", "swallowed") if status[name]]
    rate = f", {status['per_second']:,.0f}/s" if status.get("per_second") else ""
    console.print(f"{_state(status)}  {', '.join(counts)}{rate}  [dim]{status['id']}[/]")
    for name in ("waiting", "reason"):
        if status.get(name):
            console.print(f"  [yellow]{escape(status[name])}[/]")
    for refusal in status["refusals"]:
        console.print(f"  [red]{refusal['sequence']}[/] {escape(refusal['reason'])}")


def replays(page: dict[str, Any]) -> None:
    """Replays, newest first."""
    for status in page["replays"]:
        replay(status)
    if not page["replays"]:
        console.print("[dim]no replays[/]")


def dropped(answer: dict[str, Any]) -> None:
    """What was given up."""
    console.print(f"[yellow]dropped[/] {answer['dropped']:,} dead letters")


def _state(status: dict[str, Any]) -> str:
    state = "cancelling" if status["cancelling"] else status["state"]
    return f"[{COLOURS.get(state, 'yellow')}]{state}[/]"


def _facts(letter: dict[str, Any]) -> tuple[str, ...]:
    before = f", {letter['replays']} replays" if letter["replays"] else ""
    return (letter["stage"], letter["op"], letter["tenant"], letter["code"], f"tries {letter['attempts']}{before}")


def _with_reasons(rows: list[tuple[str, ...]], reasons: list[str]) -> None:
    """Rows in columns, each with its reason below; what is too long for the terminal is cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, reason in zip(rows, reasons, strict=True):
        first, *rest = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _line(f"[bold]{escape(first)}[/]  {escape('  '.join(rest))}")
        _line(f"  [dim]{escape(reason)}[/]")
    if not rows:
        console.print("[green]no dead letters[/]")


def _line(text: str) -> None:
    console.print(text, no_wrap=True, overflow="ellipsis", highlight=False, soft_wrap=not console.is_terminal)


def _time(text: str) -> str:
    return text[5:19].replace("T", " ")
