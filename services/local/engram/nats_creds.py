"""`engram nats-creds`: credentials for systems that publish and subscribe without the door."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from engram.terminal import AsJson, complete, guarded, new_file, output


class IssueByDefault(TyperGroup):
    """`engram nats-creds TENANT` is `engram nats-creds issue TENANT`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # types of click's that typer carries inside
        """Which command the arguments name."""
        named = not args or args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if named else ["issue", *args])


app = typer.Typer(
    help="Let other systems publish and subscribe for a tenant, straight on NATS.",
    no_args_is_help=True,
    cls=IssueByDefault,
)


@app.command()
def issue(
    context: typer.Context,
    tenant: str,
    *,
    role: Annotated[
        str, typer.Option(help="writer: every command; reader: think alone. Both: live events.")
    ] = "writer",
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write them to this new file, for its owner alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue credentials, and show them once. Nothing but this tenant's subjects is open to them."""
    from engram import admitting  # noqa: PLC0415 (loads the broker's client)

    made = complete(lambda: admitting.issue(context.obj.data_dir, tenant, _role(role), name))
    if out is not None:
        guarded(lambda: _kept(out, made))
        made = {**made, "password": None, "file": str(out)}
    output(as_json or out is None, made, lambda _: typer.echo(f"{made['user']} of tenant {tenant}, in {out}"))


@app.command("list")
def show(
    context: typer.Context, tenant: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False
) -> None:
    """List credentials, without their passwords."""
    from engram import admitting  # noqa: PLC0415 (loads the broker's client)

    found = guarded(lambda: admitting.listed(context.obj.data_dir, tenant))
    output(as_json, found, lambda _: typer.echo("\n".join(map(_line, found))))


@app.command()
def revoke(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="As `list` names it.")],
    as_json: AsJson = False,
) -> None:
    """Take credentials back; connections made with them are closed."""
    from engram import admitting  # noqa: PLC0415 (loads the broker's client)

    gone = complete(lambda: admitting.revoke(context.obj.data_dir, user))
    output(as_json, gone, lambda _: typer.echo(f"{gone['user']} of tenant {gone['tenant']} is revoked", err=True))


def _role(text: str) -> Literal["reader", "writer"]:
    if text == "reader":
        return "reader"
    if text == "writer":
        return "writer"
    raise typer.BadParameter(f"{text!r} is neither reader nor writer", param_hint="--role")


def _kept(file: Path, made: dict[str, Any]) -> None:
    with new_file(file) as out:
        out.write(json.dumps(made, indent=2) + "\n")


def _line(each: dict[str, Any]) -> str:
    since = datetime.fromisoformat(each["created_at"]).strftime("%Y-%m-%d %H:%M")
    return f"{each['user']}  {each['tenant']}  {each['role']}  {since}  {each['name']}".rstrip()
