"""`engram audit`: whether the audit trail is whole, and what stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engram.terminal import EXIT_FAILED, AsJson, complete, output

app = typer.Typer(help="Look at the audit trail.", no_args_is_help=True)

Tenant = Annotated[str | None, typer.Option(help="Only this tenant; _system is the installation itself.")]


@app.command()
def verify(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="An exported file, instead of the trail itself.")] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Check every chain: whether a record was edited, taken out, moved, or cut off at the end, and which.

    Exits with 0 when all chains are whole, with 1 otherwise. A file is checked from the first record it holds.
    """
    from engram import trails  # noqa: PLC0415 (loads the broker's client)

    told = complete(lambda: trails.verified(context.obj.data_dir, file, tenant))
    output(as_json, told, lambda _: _show(told))
    if told["flaws"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def export(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="Where to; by default to standard output.")] = None,
    *,
    tenant: Tenant = None,
    since: Annotated[str | None, typer.Option(help="From this time on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option(help="Up to this time, which is left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write records as lines of JSON, each with the hash of the one before it. Without a file they are the output."""
    from engram import trails  # noqa: PLC0415 (loads the broker's client)

    count = complete(lambda: trails.exported(context.obj.data_dir, file, tenant, since=since, until=until))
    if file is not None:
        told = f"{count} records in {file}"
        output(as_json, {"file": str(file), "records": count}, lambda _: typer.echo(told, err=True))


def _show(told: dict[str, Any]) -> None:
    for chain in told["chains"]:
        typer.echo(f"{chain['tenant']}: {chain['records']} records, the last is {chain['n']} {chain['hash']}")
    for flaw in told["flaws"]:
        typer.echo(f"{flaw['tenant']}: {flaw['what']}", err=True)
    typer.echo("every chain is whole" if not told["flaws"] else f"{len(told['flaws'])} places do not fit", err=True)
