"""`engram dead`: look at the dead letters, give them another try, give them up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engram.terminal import EXIT_FAILED, AsJson, complete, guarded, output

app = typer.Typer(help="Look at dead letters, replay them, give them up.", no_args_is_help=True)

Sequence = Annotated[int, typer.Argument(min=1, help="Its sequence, as `engram dead list` tells.")]
Sequences = Annotated[list[int] | None, typer.Argument(min=1, help="Sequences of dead letters.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's.")]
Stage = Annotated[str | None, typer.Option(help="Only those of this stage, for example embedder.")]
Code = Annotated[str | None, typer.Option(help="Only this error code, for example INVALID_REQUEST.")]
Error = Annotated[str | None, typer.Option(help="Only this class of error.")]
Text = Annotated[str | None, typer.Option(help="Only where the reason contains this.")]
Since = Annotated[str | None, typer.Option(help="Buried since: a time, or how long ago (30m, 2h, 7d).")]
Until = Annotated[str | None, typer.Option(help="Buried before: likewise.")]
Everything = Annotated[bool, typer.Option("--all", help="All there are.")]
Rate = Annotated[float | None, typer.Option(min=0.001, help="At most so many a second.")]
Wait = Annotated[bool, typer.Option(help="Wait until it has ended.")]


@app.command("list")
def list_letters(
    context: typer.Context,
    *,
    tenant: Tenant = None,
    stage: Stage = None,
    code: Code = None,
    error: Error = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    after: Annotated[int | None, typer.Option(min=1, help="Go on below this sequence.")] = None,
    as_json: AsJson = False,
) -> None:
    """Dead letters, newest first."""
    wanted = _filter(tenant=tenant, stage=stage, code=code, error=error, text=text, since=since, until=until)
    page = _ask(context, "ListDead", {"filter": wanted, "limit": limit, "after": after})
    _show(as_json, page, "letters")


@app.command("group")
def group_letters(
    context: typer.Context,
    *,
    tenant: Tenant = None,
    stage: Stage = None,
    code: Code = None,
    error: Error = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[list[str] | None, typer.Option(help="code, error, stage, tenant or age; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """How many there are, by error, stage, tenant and age."""
    wanted = _filter(tenant=tenant, stage=stage, code=code, error=error, text=text, since=since, until=until)
    groups = _ask(context, "GroupDead", {"filter": wanted, "by": by or None})
    _show(as_json, groups, "groups")


@app.command("show")
def show_letter(context: typer.Context, sequence: Sequence, as_json: AsJson = False) -> None:
    """Everything about one, its payload included."""
    _show(as_json, _ask(context, "ShowDead", {"sequence": sequence}), "letter")


@app.command("edit")
def edit_letter(
    context: typer.Context,
    sequence: Sequence,
    payload: Annotated[
        str | None, typer.Option(help="File with the payload to send instead; - reads standard input.")
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Replay one with another payload, written in your editor where no file is named."""
    text = _edited(_ask(context, "ShowDead", {"sequence": sequence})) if payload is None else _read(payload)
    asked = {"selection": {"sequences": [sequence]}, "payload": guarded(lambda: _object(text))}
    _replay(context, asked, wait=wait, as_json=as_json)


@app.command("replay")
def replay_letters(
    context: typer.Context,
    *,
    sequences: Sequences = None,
    tenant: Tenant = None,
    stage: Stage = None,
    code: Code = None,
    error: Error = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    rate: Rate = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Give dead letters another try: those named, those that fit, or all.

    It goes on by itself when this command is interrupted; `engram dead cancel` ends it.
    """
    wanted = _filter(tenant=tenant, stage=stage, code=code, error=error, text=text, since=since, until=until)
    asked = {"selection": _selection(sequences, wanted, everything), "rate": rate, "dry_run": dry_run}
    _replay(context, asked, wait=wait, as_json=as_json)


@app.command("drop")
def drop_letters(
    context: typer.Context,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is written to the log.")],
    sequences: Sequences = None,
    tenant: Tenant = None,
    stage: Stage = None,
    code: Code = None,
    error: Error = None,
    text: Text = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good: those named, those that fit, or all."""
    from engram import recovering  # noqa: PLC0415 (loads the broker's client)

    wanted = _filter(tenant=tenant, stage=stage, code=code, error=error, text=text, since=since, until=until)
    asked = {"selection": _selection(sequences, wanted, everything), "reason": reason}
    _show(as_json, complete(lambda: recovering.drop(context.obj.data_dir, asked)), "dropped")


@app.command("status")
def status(
    context: typer.Context,
    replay: Annotated[str | None, typer.Argument(help="The replay's id; without one, all are listed.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far replays are."""
    if replay is None:
        _show(as_json, _ask(context, "ListReplays", {}), "replays")
    else:
        _show(as_json, _ask(context, "StatusReplay", {"id": replay}), "replay")


@app.command("cancel")
def cancel(
    context: typer.Context, replay: Annotated[str, typer.Argument(help="The replay's id.")], as_json: AsJson = False
) -> None:
    """Stop a replay before its next message."""
    _show(as_json, _ask(context, "CancelReplay", {"id": replay}), "replay")


def _ask(context: typer.Context, question: str, asked: dict[str, Any]) -> dict[str, Any]:
    from engram import recovering  # noqa: PLC0415 (loads the broker's client)

    return complete(lambda: recovering.ask(context.obj.data_dir, question, asked))


def _replay(context: typer.Context, asked: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    from engram import recovering  # noqa: PLC0415 (loads the broker's client)
    from engram.showing import progress  # noqa: PLC0415 (rich is not needed for JSON)

    def bar(total: int, name: str) -> Any:
        return progress(total, name, quiet=as_json)

    ended = complete(lambda: recovering.replay(context.obj.data_dir, asked, bar if wait else None))
    _show(as_json, ended, "replay")
    if ended["state"] == "failed" or ended["failed"] or ended["swallowed"]:
        raise typer.Exit(EXIT_FAILED)


def _show(as_json: bool, data: dict[str, Any], view: str) -> None:
    def show(_: Any) -> None:
        from engram import showing_dead  # noqa: PLC0415 (rich is not needed for JSON)

        getattr(showing_dead, view)(data)

    output(as_json, data, show)


def _filter(*, since: str | None, until: str | None, **equal: str | None) -> dict[str, Any]:
    from engram.moments import moment  # noqa: PLC0415 (beside its one use)

    given = {
        **equal,
        "since": guarded(lambda: moment(since, "since")) if since else None,
        "until": guarded(lambda: moment(until, "until")) if until else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _selection(sequences: list[int] | None, wanted: dict[str, Any], everything: bool) -> dict[str, Any]:
    return {"sequences": sequences or [], "filter": wanted or None, "all": everything}


def _edited(detail: dict[str, Any]) -> str:
    import click  # noqa: PLC0415 (only this command opens an editor)

    before = detail["body"] if detail.get("body") is not None else {}
    after = click.edit(json.dumps(before, indent=2, ensure_ascii=False), extension=".json")
    if after is None:
        typer.echo("engram: nothing was changed, so nothing is replayed", err=True)
        raise typer.Exit(0)
    return after


def _read(name: str) -> str:
    from engram.reading import text_of  # noqa: PLC0415 (beside its one use)

    return sys.stdin.read() if name == "-" else guarded(lambda: text_of(Path(name)))


def _object(text: str) -> dict[str, Any]:
    from engram_contracts.errors import Rejected  # noqa: PLC0415 (beside its one use)

    try:
        value = json.loads(text)
    except ValueError as error:
        raise Rejected(f"the payload is not valid JSON: {error}", field="payload") from None
    if not isinstance(value, dict):
        raise Rejected("the payload must be an object", field="payload")
    return value
