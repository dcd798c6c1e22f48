"""`engram encryption`: the master keys under which tenants' text is encrypted."""

from __future__ import annotations

from typing import Any

import typer

from engram.terminal import AsJson, complete, guarded, output

app = typer.Typer(help="The master keys under which tenants' text is encrypted.", no_args_is_help=True)


@app.command("new-key")
def new_key(as_json: AsJson = False) -> None:
    """Make a master key, and show it this once: a line for the key file."""
    from engram_runtime.sealing import new_master_key  # noqa: PLC0415 (beside its one use)

    key = guarded(new_master_key)
    output(as_json, {"key": key}, lambda _: typer.echo(key))


@app.command("status")
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Tell which tenants are encrypted, under which master key, and whether it is among those given here."""
    from engram import rewrapping  # noqa: PLC0415 (loads the broker's client)

    found = complete(lambda: rewrapping.status(context.obj.data_dir))
    output(as_json, found, lambda _: _listed(found))


@app.command("rotate")
def rotate(context: typer.Context, as_json: AsJson = False) -> None:
    """Wrap every tenant's data key by the newest master key, the first of those given.

    First give the new key, before the old one, to every process. A run that was interrupted is finished by the next.
    Then the old key may be taken away.
    """
    from engram import rewrapping  # noqa: PLC0415 (loads the broker's client)

    done = complete(lambda: rewrapping.rotate(context.obj.data_dir))
    said = f"{len(done['rotated'])} data keys wrapped by master key {done['newest']}, {len(done['already'])} had been"
    output(as_json, done, lambda _: typer.echo(said))


def _listed(found: dict[str, Any]) -> None:
    for each in found["tenants"]:
        held = "given here" if each["given"] else "NOT given here"
        typer.echo(f"{each['tenant']}  master key {each['master']} ({held}), wrapped {each['wrapped_at']}")
    if not found["tenants"]:
        typer.echo("no tenant is encrypted")
