"""How tenants, keys, members and plans look to people."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from engram.showing import console

COLOURS = {"active": "green", "suspended": "yellow", "deleting": "red", "expired": "yellow", "revoked": "red"}


def tenants(found: dict[str, Any]) -> None:
    """Tenants, one a line."""
    _table(
        ("tenant", "status", "plan", "since", "title"),
        [
            (one["name"], _status(one["status"]), one["plan"], one["created_at"][:10], one.get("title") or "")
            for one in found["tenants"]
        ],
    )


def tenant(one: dict[str, Any]) -> None:
    """One tenant with its limits."""
    why = f"  [dim]{escape(one['reason'])}[/]" if one.get("reason") else ""
    console.print(f"[bold]{one['name']}[/]  {_status(one['status'])}  plan {one['plan']}{why}")
    _limits(one["limits"])


def plans(found: dict[str, Any]) -> None:
    """Plans with their limits."""
    for one in found["plans"]:
        plan(one)


def plan(one: dict[str, Any]) -> None:
    """One plan with its limits."""
    console.print(f"[bold]{one['name']}[/]  [dim]{escape(one.get('title') or '')}[/]")
    _limits(one)


def keys(found: dict[str, Any]) -> None:
    """Keys, one a line."""
    newest = sorted(found["keys"], key=lambda one: str(one["created_at"]), reverse=True)
    _table(
        ("id", "name", "role", "status", "last used", "expires"),
        [
            (one["id"], escape(one["name"]), one["role"], _status(one["status"]), _time(one.get("last_used_at")),
             _time(one.get("expires_at")))
            for one in newest
        ],
    )  # fmt: skip


def key(one: dict[str, Any]) -> None:
    """What is known of a key."""
    table = Table.grid(padding=(0, 2))
    for name, value in one.items():
        if value not in (None, []):
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            table.add_row(f"[dim]{name}[/]", _status(shown) if name == "status" else escape(shown))
    console.print(table)


def members(found: dict[str, Any]) -> None:
    """Members, one a line."""
    _table(
        ("id", "subject", "role", "only", "name"),
        [
            (one["id"], escape(one["subject"]), one["role"], escape(_only(one)), escape(one.get("name") or ""))
            for one in found["members"]
        ],
    )


def member(one: dict[str, Any]) -> None:
    """What is known of a member."""
    key({name: value for name, value in {**one, "only": _only(one) or None}.items() if name != "bounds"})


def _only(one: dict[str, Any]) -> str:
    """Whose memories they reach, where that is not all."""
    return "; ".join(f"{name} {', '.join(some)}" for name, some in one["bounds"].items() if some)


def made(one: dict[str, Any]) -> None:
    """A key that was just made; its text alone stands on the output, so that it can be taken from there."""
    console.print(one["key"], soft_wrap=True)
    console.print(f"[dim]{one['id']}, {one['role']}; it is not shown again[/]")


def erasure(one: dict[str, Any]) -> None:
    """How far an erasure is, or what it removed."""
    console.print(f"[bold]{one['tenant']}[/]  {one['state']}  [dim]{one.get('step') or ''}[/]")
    for place, count in sorted((one.get("removed") or {}).items()):
        console.print(f"  {count:>10,} {place}")


def _limits(limits: dict[str, Any]) -> None:
    quotas = {name: most for name, most in (limits.get("quotas") or {}).items() if most is not None}
    for name, most in sorted(quotas.items()):
        console.print(f"  {name:<16}{most:>16,}")
    for name, rate in sorted((limits.get("rates") or {}).items()):
        console.print(f"  {name + ' rate':<16}{rate['per_minute']:>16,g} a minute, burst {rate['burst']}")
    if limits.get("model_share", 1.0) < 1.0:
        console.print(f"  {'model share':<16}{limits['model_share']:>16.0%}")
    if not quotas and not limits.get("rates"):
        console.print("  [dim]no limits[/]")


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    console.print(table if rows else "[dim]none[/]")


def _status(text: str) -> str:
    return f"[{COLOURS.get(text, 'default')}]{text}[/]"


def _time(text: str | None) -> str:
    return text[:16].replace("T", " ") if text else "-"
