"""`engram contracts`: the messages of Engram as files, for systems that have none of its code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engram.terminal import AsJson, guarded, output

app = typer.Typer(help="Messages for other systems: AsyncAPI, JSON Schemas, examples.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """Keep `export` a command of its own."""


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write; made where there is none.")],
    as_json: AsJson = False,
) -> None:
    """Write asyncapi.json, a JSON Schema and an example of every message."""
    from engram_contracts.export import export as write  # noqa: PLC0415 (loads every contract)

    files = guarded(lambda: write(folder))
    output(as_json, {"folder": str(folder), "files": len(files)}, lambda _: typer.echo(f"wrote {len(files)} files"))
