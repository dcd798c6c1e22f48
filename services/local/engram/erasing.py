"""`engram tenants export|erase|check-report`: taking data along, having it gone, and checking that it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from engram.terminal import EXIT_FAILED, AsJson, complete, guarded, new_file, output, teller

app = typer.Typer(help="Tenants, and what they own.", no_args_is_help=True)

LOOK_SECONDS = 0.2
User = Annotated[str | None, typer.Option(help="Only this user_id of the tenant.")]


@app.command()
def export(
    context: typer.Context,
    tenant: str,
    out: Annotated[Path, typer.Argument(help="A new file; a line of JSON for each memory, node, edge and answer.")],
    *,
    user: User = None,
    as_json: AsJson = False,
) -> None:
    """Write everything that is kept of a tenant, or of one of its users, to a file for its owner alone."""
    counts = complete(lambda: _export(context.obj.data_dir, tenant, user, out))
    output(as_json, {"file": str(out), "records": counts}, lambda _: typer.echo(f"{counts} records in {out}"))


@app.command()
def erase(
    context: typer.Context,
    tenant: str,
    *,
    user: User = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the signed report to this new file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Erase a tenant with everything it owns, or one of its users, from everywhere. It cannot be undone.

    A whole tenant is closed at every door first, and its keys and records go with it. Interrupted, it goes on by
    itself; repeated, it finds nothing left.
    """
    whom = f"user {user!r} of tenant {tenant!r}" if user else f"tenant {tenant!r}"
    if not yes:
        typer.confirm(f"Erase {whom} for good?", abort=True)
    status = complete(lambda: _erase(context.obj, tenant, user, teller(False)))
    if report is not None:
        guarded(lambda: _written(report, status["report"]))
    output(as_json, status, lambda _: typer.echo(_told(status)))


@app.command("check-report")
def check_report(
    report: Path,
    public_key: Annotated[
        str | None, typer.Option(help="The installation's, as you know it from elsewhere; else the report's own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the signature of a report, and print what it says."""
    from engram_contracts.erasing import ErasureReport  # noqa: PLC0415 (only this command needs it)
    from engram_recovery.signing import is_genuine  # noqa: PLC0415 (loads the cryptography)

    said = ErasureReport.model_validate_json(report.read_bytes())
    if not is_genuine(said, public_key or said.public_key):
        typer.echo("engram: the signature does not fit; this report was changed, or signed by somebody else", err=True)
        raise typer.Exit(EXIT_FAILED)
    output(as_json, said.model_dump(mode="json", exclude_none=True), lambda _: _print_report(said))


def _print_report(report: Any) -> None:
    typer.echo(report.text)
    typer.echo(f"signed with {report.public_key}", err=True)


async def _export(data_dir: Path, tenant: str, user: str | None, out: Path) -> int:
    from engram.operating import opened  # noqa: PLC0415 (loads the broker's client)
    from engram_contracts.erasing import ExportRecorded  # noqa: PLC0415 (the same)

    written = 0
    with new_file(out) as lines:
        async with opened(data_dir) as bus:
            asked = ExportRecorded(tenant=tenant, user_id=user)
            while True:
                page = await bus.ask(asked, within=60.0)
                lines.writelines(record.model_dump_json(exclude_none=True) + "\n" for record in page.records)
                written += len(page.records)
                if page.after is None:
                    return written
                asked = asked.model_copy(update={"after": page.after})


async def _erase(where: Any, tenant: str, user: str | None, tell: Any) -> dict[str, Any]:
    from engram.door import Door  # noqa: PLC0415 (aiohttp takes longer to import than help to print)

    async with Door.find(url=where.url, key=where.key, data_dir=where.data_dir, tenant="_system") as door:
        if user is None:
            status = await _deleted(door, tenant, tell)
        else:
            status = await _erased(where.data_dir, tenant, user, tell)
    return status


async def _deleted(door: Any, tenant: str, tell: Any) -> dict[str, Any]:
    """Have the door delete a tenant; asked again, it tells how far that is."""
    shown = ""
    while True:
        status: dict[str, Any] = (await door.call("DELETE", f"/v1/tenants/{tenant}"))["data"]
        if status["state"] == "done":
            return status
        shown = _shown(status, shown, tell)
        await asyncio.sleep(LOOK_SECONDS)


async def _erased(data_dir: Path, tenant: str, user: str, tell: Any) -> dict[str, Any]:
    from engram.operating import opened  # noqa: PLC0415 (loads the broker's client)
    from engram_contracts.erasing import StartErasure, StatusErasure  # noqa: PLC0415 (the same)

    async with opened(data_dir) as bus:
        shown = ""
        status = await bus.ask(StartErasure(tenant=tenant, user_id=user, actor="command line"), within=10.0)
        while status.state != "done":
            shown = _shown(status.model_dump(), shown, tell)
            await asyncio.sleep(LOOK_SECONDS)
            status = await bus.ask(StatusErasure(tenant=tenant, id=status.id), within=10.0)
    return json.loads(status.model_dump_json(exclude_none=True))  # type: ignore[no-any-return]  # an object


def _shown(status: Mapping[str, Any], before: str, tell: Any) -> str:
    """Tell what is being done, where that is something else than before."""
    now = str(status.get("waiting") or status.get("step") or status["state"])
    if now != before:
        tell(now)
    return now


def _written(file: Path, report: dict[str, Any]) -> None:
    with new_file(file) as out:
        out.write(json.dumps(report, indent=2) + "\n")


def _told(status: dict[str, Any]) -> str:
    removed = ", ".join(f"{number:,} {name}" for name, number in sorted(status["removed"].items()))
    return f"erased: {removed or 'there was nothing'}"
