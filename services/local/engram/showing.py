"""How answers look to people."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.tree import Tree

console = Console(highlight=False)
BREADTH, DEPTH = 6, 2
"""How many edges a walk shows of its centre, and of each neighbour."""


def remembered(data: dict[str, Any]) -> None:
    """A memory that was accepted."""
    console.print(f"[green]kept[/] {data['id']}  [dim]job {data['job']}[/]", soft_wrap=True)


def judged(data: dict[str, Any]) -> None:
    """A verdict that was accepted."""
    console.print(f"[green]counted[/] {data['id']}  [dim]job {data['job']}[/]", soft_wrap=True)


def recollection(answer: dict[str, Any]) -> None:
    """Recalled memories, best first."""
    meta = answer.get("meta") or {}
    for hit in answer["data"]["hits"]:
        console.print(f"[bold cyan]{hit['score']:.3f}[/]  {_line(hit['memory'])}")
        if hit.get("explain"):
            parts = "  ".join(f"{name} {value:+.3f}" for name, value in hit["explain"]["parts"].items())
            console.print(f"       [dim]{escape(parts)}[/]")
    if not answer["data"]["hits"]:
        console.print("[dim]nothing found[/]")
    degraded(meta.get("degraded") or [])


def thought(data: dict[str, Any], memories: dict[str, dict[str, Any]] | None = None) -> None:
    """An answer with its citations: the memories themselves where they are given, else their ids."""
    if "answer" not in data:
        console.print(f"[yellow]still on its way[/]  job {data['job']}")
        return
    console.print(escape(data["answer"]))
    _foundations(data, memories)


def _foundations(data: dict[str, Any], memories: dict[str, dict[str, Any]] | None = None) -> None:
    for citation in data["citations"]:
        memory = (memories or {}).get(citation["memory_id"])
        said = _line(memory) if memory else f"{citation['memory_id']}  {escape(citation['quote'][:100])}"
        console.print(f"  [dim]\\[{citation['number']}] {said}[/]")
    console.print(f"[dim]{data['mode']}{' ' + data['model'] if data.get('model') else ''}[/]")
    degraded(data.get("degraded") or [])


def streamed(name: str, data: dict[str, Any]) -> None:
    """A piece of an answer, a try that failed, or the end, with what the answer rests on."""
    if name == "token":
        console.print(data["text"], end="", markup=False, soft_wrap=True)
    elif name == "retry":
        console.print(f"\n[yellow]again[/] {escape(data['reason'])}")
    else:
        console.print("")
        _foundations(data)


def happening(name: str, data: dict[str, Any]) -> None:
    """An event of the tenant's memory."""
    if name == "open":
        note(f"events behind {data['position']}; Ctrl-C ends")
        return
    if name == "lost":
        console.print(f"[yellow]lost[/] events behind {data['after']} are older than the log")
        return
    at = datetime.fromisoformat(data["at"]).astimezone()
    who = " ".join(filter(None, (data.get("user_id"), data.get("session_id"))))
    said = escape(_told(data)).replace("\n", " ")
    console.print(f"[dim]{data['sequence']:>8} {at:%H:%M:%S}[/] [cyan]{name:<12}[/] {said} [dim]{escape(who)}[/]")


def _told(data: dict[str, Any]) -> str:
    """What an event is about, in a few words."""
    fact = data["data"]
    text = fact.get("memory", {}).get("content") or fact.get("answer") or fact.get("node")
    if text is None and "source" in fact:
        text = f"{fact['source']} {fact['type']} {fact['target']}"
    said = text or f"{data.get('memory_id') or ''} {fact.get('verdict') or ' '.join(fact.get('changes', ()))}"
    return said if len(said) < 120 else said[:119] + "…"


def degraded(reasons: list[str]) -> None:
    """What could not help this time."""
    for reason in reasons:
        console.print(f"[yellow]degraded[/] {escape(reason)}")


def neighbourhood(node: str, data: dict[str, Any]) -> None:
    """A node's surroundings as a tree: edge type, node, weight, and where it is written."""
    tree = Tree(f"[bold]{escape(node)}[/]")
    edges = sorted(data["edges"], key=lambda edge: -edge["weight"])
    for edge in edges:
        arrow = f"[dim]{edge['type']}[/] →" if edge["source"] == node else f"← [dim]{edge['type']}[/]"
        other = edge["target"] if edge["source"] == node else edge["source"]
        if node in (edge["source"], edge["target"]):
            evidence = (
                f"  [dim]{len(edge['evidence'])} memories, e.g. {edge['evidence'][0]}[/]" if edge["evidence"] else ""
            )
            tree.add(f"{arrow} [cyan]{escape(other)}[/]  {edge['weight']:g}{evidence}")
    console.print(tree)


def shown_edges(node: str, data: dict[str, Any]) -> list[dict[str, Any]]:
    """The edges a walk shows: the strongest of the node, and of each neighbour those that lead further out."""
    return [edge for inner, outer in _branches(node, data) for edge in (inner, *outer)]


def walk(node: str, data: dict[str, Any], texts: dict[str, dict[str, Any]]) -> None:
    """Two steps around a node as a tree, each edge with a memory it came from."""
    tree = Tree(f"[bold]{escape(node)}[/]")
    for inner, outer in _branches(node, data):
        branch = tree.add(_edge(inner, node, texts))
        for edge in outer:
            branch.add(_edge(edge, _other(inner, node), texts))
    console.print(tree)


def history(versions: list[dict[str, Any]]) -> None:
    """A memory's versions, oldest first."""
    for version in versions:
        console.print(
            f"[dim]version {version['version']}, {version['change']} {version['at'][11:19]}[/]  "
            f"{escape(version['memory']['content'])}"
        )


def timeline(job: dict[str, Any]) -> None:
    """A job's stages, in milliseconds since it was accepted."""
    times = [(stage["stage"], datetime.fromisoformat(stage["at"])) for stage in job["stages"] if stage.get("at")]
    told = [f"{stage} [bold]+{(at - times[0][1]).total_seconds() * 1000:.1f} ms[/]" for stage, at in times]
    console.print(" → ".join(told))


def usage(data: dict[str, Any]) -> None:
    """Meters and their totals."""
    table = Table("meter", "total", title=f"usage of {data['tenant']}", title_justify="left")
    for meter, total in sorted(data["totals"].items()):
        table.add_row(meter, f"{total:,}")
    console.print(table)


def reconciled(told: dict[str, Any]) -> None:
    """What comparing the ledger with the streams found."""
    if told["state"] != "done":
        console.print(f"[red]failed[/] {escape(told.get('reason', ''))}")
        return
    console.print(
        f"{told['charges']:,} charges counted anew from {told['read']:,} messages; {told['different']:,} totals differ"
    )
    if told["untold"]:
        console.print(f"{told['untold']:,} changes of memories older than the log were left out")
    for each in told["differences"]:
        console.print(
            f"{each['tenant']} {each['day']} {each['meter']}: {each['ledger']:,}, by the streams {each['streams']:,}"
        )


def ingested(name: str, count: int) -> None:
    """A file that was read."""
    console.print(f"[green]accepted[/] {count} memories from {escape(name)}")


def drifts(found: list[dict[str, Any]]) -> None:
    """What provisioning did."""
    colours = {"created": "green", "updated": "yellow", "differs": "red"}
    for drift in found:
        console.print(f"[{colours[drift['kind']]}]{drift['kind']}[/] {drift['name']} {escape(drift['details'])}")
    if not found:
        console.print("[green]everything is as declared[/]")


def status(state: dict[str, Any]) -> None:
    """Streams, lagging consumers and workers."""
    streams = Table("stream", "messages", "MiB", "last", title="streams", title_justify="left")
    for row in state["streams"]:
        streams.add_row(row["name"], f"{row['messages']:,}", f"{row['bytes'] / 2**20:.1f}", str(row["last"]))
    lagging = Table(
        "consumer", "waiting", "in hand", "redelivered", "pulls", title="consumers with work", title_justify="left"
    )
    for row in state["consumers"]:
        if row["waiting"] or row["in_hand"] or row["redelivered"]:
            lagging.add_row(
                row["name"], f"{row['waiting']:,}", f"{row['in_hand']:,}", f"{row['redelivered']:,}", str(row["pulls"])
            )
    workers = Table("service", "pid", "up", "MiB", "CPU s", "ready", title="workers", title_justify="left")
    for pong in state["workers"]:
        workers.add_row(
            pong["service"], str(pong["pid"]), f"{pong['uptime_s']:.0f} s", f"{pong['rss_bytes'] / 2**20:.0f}",
            f"{pong['cpu_s']:.1f}", "[green]yes[/]" if pong["ready"] else f"[red]{escape(_troubles(pong))}[/]",
        )  # fmt: skip
    console.print(streams, lagging if lagging.row_count else "[green]no consumer lags[/]", workers)


def heading(title: str, about: str = "") -> None:
    """A new part of what is shown."""
    console.print(f"\n[bold magenta]{escape(title)}[/]{f'  [dim]{escape(about)}[/]' if about else ''}")


def question(text: str, milliseconds: float) -> None:
    """A question, and how long its answer took."""
    console.print(f"[bold]{escape(text)}[/]  [dim]{milliseconds:.1f} ms[/]")


def note(text: str) -> None:
    """A line beside the rest."""
    console.print(f"[dim]{escape(text)}[/]")


def waiting(text: str) -> AbstractContextManager[object]:
    """Something that moves while nothing else can be shown."""
    return console.status(escape(text))


@contextlib.contextmanager
def progress(total: int, name: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar that the yielded function advances."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, disable=quiet or not errors.is_terminal) as bar:
        task = bar.add_task(escape(name), total=total)
        yield lambda done: bar.advance(task, done)


def _branches(node: str, data: dict[str, Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The strongest edges of a node, each with the strongest that lead on from its other end to a new node."""
    edges = sorted(data["edges"], key=lambda edge: -edge["weight"])
    inner = _apart([edge for edge in edges if node in (edge["source"], edge["target"])], node)[:BREADTH]
    seen = {node, *(_other(edge, node) for edge in inner)}
    branches = []
    for edge in inner:
        near = _other(edge, node)
        onward = [far for far in edges if near in (far["source"], far["target"]) and _other(far, near) not in seen]
        outer = _apart(onward, near)[:DEPTH]
        seen |= {_other(far, near) for far in outer}
        branches.append((edge, outer))
    return branches


def _apart(edges: list[dict[str, Any]], node: str) -> list[dict[str, Any]]:
    """The first edge to each other node."""
    return list({_other(edge, node): edge for edge in reversed(edges)}.values())[::-1]


def _other(edge: dict[str, Any], node: str) -> str:
    return str(edge["target"] if edge["source"] == node else edge["source"])


def _edge(edge: dict[str, Any], node: str, texts: dict[str, dict[str, Any]]) -> str:
    arrow = f"[dim]{edge['type']}[/] →" if edge["source"] == node else f"← [dim]{edge['type']}[/]"
    memory = texts.get(edge["evidence"][0]) if edge["evidence"] else None
    said = f"\n[dim]{_line(memory)}[/]" if memory else ""
    return f"{arrow} [cyan]{escape(_other(edge, node))}[/]{said}"


def _troubles(pong: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {check.get('detail')}" for name, check in pong["checks"].items() if not check["ok"])


def _line(memory: dict[str, Any]) -> str:
    when = f"[dim]{memory['occurred_at'][:10]}[/] " if memory.get("occurred_at") else ""
    who = f"[bold]{escape(memory['speaker'])}:[/] " if memory.get("speaker") else ""
    text = " ".join(memory["content"].split())
    return f"{when}{who}{escape(text if len(text) < 160 else text[:159] + '…')}"
