"""`engram verify` and `engram rebuild`: is everything that was accepted in every store, and putting it there."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engram.terminal import EXIT_FAILED, AsJson, complete, output

rebuild = typer.Typer(help="Build a store anew from the log, while everything works.", no_args_is_help=True)

Tenant = Annotated[str | None, typer.Option(help="Only this tenant.")]


def verify(
    context: typer.Context,
    *,
    tenant: Tenant = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what differs.")] = False,
    most: Annotated[int, typer.Option(min=0, help="List at most so many differences.")] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Compare the log, the index, the record and the ledger, memory by memory, while they work.

    Exits with 0 when all are equal, with 1 when something differs. May be repeated and interrupted at any moment.
    """
    from engram import verifying  # noqa: PLC0415 (loads the broker's client)

    report = complete(
        lambda: verifying.verify(context.obj.data_dir, _bar(as_json), tenant=tenant, repair=repair, most=most)
    )
    _show(report, as_json)


@rebuild.command("vectors")
def rebuild_vectors(context: typer.Context, tenant: Tenant = None, as_json: AsJson = False) -> None:
    """Write every memory of the index anew from the log; what the log no longer holds, from the record.

    Recall goes on meanwhile. May be repeated, and interrupted at any moment.
    """
    from engram import verifying  # noqa: PLC0415 (loads the broker's client)

    report = complete(lambda: verifying.verify(context.obj.data_dir, _bar(as_json), tenant=tenant, renew=True))
    _show(report, as_json)


@rebuild.command("log")
def rebuild_log(context: typer.Context, as_json: AsJson = False) -> None:
    """Where the log was lost and the stores were not: have it go on behind what they hold.

    A log that reaches as far as the stores is left as it is. A run that was interrupted is finished by the next.
    """
    from engram import showing_audit, verifying  # noqa: PLC0415 (loads the broker's client)

    told = complete(lambda: verifying.rebuild_log(context.obj.data_dir, _bar(as_json)))
    output(as_json, told, lambda _: showing_audit.relaid(told))


@rebuild.command("graph")
def rebuild_graph(
    context: typer.Context,
    partition: Annotated[int | None, typer.Option(min=0, max=7, help="Only this partition.")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the record and its graph anew from the log, beside the one that answers, which it then replaces.

    It goes on by itself when this command is interrupted, and is continued by the next try when the service is.
    """
    from engram import verifying  # noqa: PLC0415 (loads the broker's client)

    built = complete(lambda: verifying.rebuild_graph(context.obj.data_dir, _bar(as_json), partition))
    from engram import showing_audit  # noqa: PLC0415 (rich is not needed for JSON)

    output(as_json, built, lambda _: showing_audit.rebuilt(built))
    if any(each["state"] != "done" for each in built):
        raise typer.Exit(EXIT_FAILED)


def _show(report: dict[str, Any], as_json: bool) -> None:
    from engram import showing_audit  # noqa: PLC0415 (rich is not needed for JSON)

    output(as_json, report, lambda _: showing_audit.report(report))
    if not report["equal"]:
        raise typer.Exit(EXIT_FAILED)


def _bar(quiet: bool) -> Any:
    def bar(total: int, name: str) -> Any:
        from engram.showing import progress  # noqa: PLC0415 (rich is not needed elsewhere here)

        return progress(total, name, quiet=quiet)

    return bar
