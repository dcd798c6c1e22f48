"""The `engram` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from engram import audit, auditing, contracts, dead, encryption, erasing, looking, nats_creds
from engram.administering import keys, members, plans, tenants
from engram.terminal import EXIT_FAILED, AsJson, complete, guarded, output, teller

T = TypeVar("T")

app = typer.Typer(
    help="Durable memory for AI agents.", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False
)
graph = typer.Typer(help="Look at the semantic graph.", no_args_is_help=True)
usage_app = typer.Typer(help="What was used.", invoke_without_command=True)
app.add_typer(graph, name="graph")
app.add_typer(usage_app, name="usage")
app.add_typer(dead.app, name="dead")
app.add_typer(nats_creds.app, name="nats-creds")
app.add_typer(audit.app, name="audit")
tenants.add_typer(erasing.app)
app.add_typer(tenants, name="tenants")
app.add_typer(keys, name="keys")
app.add_typer(members, name="members")
app.add_typer(plans, name="plans")
app.add_typer(encryption.app, name="encryption")
app.add_typer(contracts.app, name="contracts")
app.add_typer(auditing.rebuild, name="rebuild")
app.command("verify")(auditing.verify)
app.command("top")(looking.top)
app.command("trace")(looking.trace)

SETTLED_WITHIN = 600.0
DataDir = Annotated[
    Path | None, typer.Option(help="Where everything is kept (ENGRAM_DATA_DIR; by default ~/.engram/data).")
]


@dataclass(frozen=True, slots=True)
class Where:
    """Which Engram a command speaks to."""

    url: str | None
    key: str | None
    flag: Path | None

    @property
    def data_dir(self) -> Path:
        """The data directory, by flag, environment, configuration or default."""
        from engram_runtime.settings import Common, load  # noqa: PLC0415 (not needed for help)

        return load(Common, flags={"data_dir": self.flag}, environ=os.environ).data_dir


@app.callback()
def _where(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The door's address.", envvar="ENGRAM_URL")] = None,
    key: Annotated[str | None, typer.Option(help="API key.", envvar="ENGRAM_API_KEY", show_envvar=True)] = None,
    data_dir: DataDir = None,
) -> None:
    context.obj = Where(url, key, data_dir)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    durability: Annotated[str | None, typer.Option(help="power, second or process.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run everything on this machine until told to stop."""
    from engram.serving import serve as run  # noqa: PLC0415 (the supervisor's imports are not the client's)

    flags = {
        "serve": {"host": host, "port": port},
        "durability": durability,
        "data_dir": data_dir or context.obj.flag,
    }
    guarded(lambda: run(flags, config, teller(as_json)))


@app.command()
def restart(context: typer.Context, as_json: AsJson = False) -> None:
    """Start every process anew, one after another; what is asked meanwhile is answered."""
    from engram.serving import restart as run  # noqa: PLC0415 (the supervisor's imports are not the client's)

    guarded(lambda: run(context.obj.data_dir, teller(as_json)))


@app.command()
def provision(
    context: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Only report differences.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create what the topology declares, mend what differs safely, report the rest."""
    from engram import operating  # noqa: PLC0415 (loads the broker's client)

    drifts, key = complete(lambda: operating.provision(context.obj.data_dir, mend=not check))
    if key is not None:
        typer.echo(
            f"engram: admin key of tenant default, also in {context.obj.data_dir / 'admin.key'}: {key}", err=True
        )
    output(as_json, drifts, lambda show: show.drifts(drifts))
    if any(drift["kind"] == "differs" for drift in drifts):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Streams, consumers with their lag, and workers."""
    from engram import operating  # noqa: PLC0415 (loads the broker's client)

    state = complete(lambda: operating.status(context.obj.data_dir))
    output(as_json, state, lambda show: show.status(state))


@app.command()
def remember(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="What to keep; - reads standard input.")],
    kind: Annotated[str, typer.Option()] = "note",
    user: Annotated[str | None, typer.Option(help="user_id")] = None,
    session: Annotated[str | None, typer.Option(help="session_id")] = None,
    speaker: Annotated[str | None, typer.Option()] = None,
    tag: Annotated[list[str] | None, typer.Option()] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it can be recalled.")] = True,
    as_json: AsJson = False,
) -> None:
    """Keep a memory."""
    body = {
        "content": sys.stdin.read() if text == "-" else text,
        "kind": kind,
        "tags": tag or [],
        **_given(user_id=user, session_id=session, speaker=speaker),
    }
    answer = _call(context, "POST", "/v1/memories", body, wait="indexed" if wait else None)
    output(as_json, answer["data"], lambda show: show.remembered(answer["data"]))


@app.command()
def recall(
    context: typer.Context,
    query: str,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    user: Annotated[str | None, typer.Option(help="user_id")] = None,
    session: Annotated[str | None, typer.Option(help="session_id")] = None,
    explain: Annotated[bool, typer.Option(help="Say why each was found.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find memories."""
    filters = _given(user_id=user, session_id=session)
    body = {"query": query, "limit": limit, "explain": explain, "filters": filters}
    answer = _call(context, "POST", "/v1/recall", body)
    output(as_json, answer, lambda show: show.recollection(answer))


@app.command()
def feedback(
    context: typer.Context,
    memory: Annotated[str, typer.Argument(help="The id of the memory.")],
    verdict: Annotated[str, typer.Argument(help="useful, not_useful or wrong.")],
    query: Annotated[str | None, typer.Option(help="The query that it was recalled for.")] = None,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how a recalled memory served; what was useful is ranked higher, what is wrong far lower."""
    body = {"verdict": verdict, **_given(query=query, note=note)}
    answer = _call(context, "POST", f"/v1/memories/{memory}/feedback", body, wait="indexed")
    output(as_json, answer["data"], lambda show: show.judged(answer["data"]))


@app.command()
def think(
    context: typer.Context,
    question: str,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    model: Annotated[str | None, typer.Option(help="Model to use.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the answer while it is made.")] = False,
    as_json: AsJson = False,
) -> None:
    """Answer a question from memories, with citations."""
    body = {"question": question, "limit": limit, **_given(model=model)}
    if stream:
        from engram import watching  # noqa: PLC0415 (only streams need it)

        complete(lambda: _with_door(context, lambda door: watching.think(door, body, as_json=as_json)))
        return
    answer = _call(context, "POST", "/v1/think", body)
    output(as_json, answer["data"], lambda show: show.thought(answer["data"]))


@app.command()
def watch(
    context: typer.Context,
    kind: Annotated[list[str] | None, typer.Option(help="Only events of this kind, such as remembered.")] = None,
    user: Annotated[str | None, typer.Option(help="user_id")] = None,
    session: Annotated[str | None, typer.Option(help="session_id")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Begin behind the event with this id.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what happens to the memory, as it happens, until Ctrl-C."""
    from engram import watching  # noqa: PLC0415 (only streams need it)

    chosen = {"kind": kind, "user_id": user, "session_id": session}

    async def see(door: Any) -> None:
        await watching.watch(door, count=count, as_json=as_json, after=after, **chosen)

    complete(lambda: _with_door(context, see))


@app.command()
def ingest(
    context: typer.Context,
    file: Path,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all of it is indexed and linked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep what a file holds: text, Markdown, JSON or JSON lines of memories or chat messages.

    Reading a file again adds nothing; an interrupted run is finished by running it again.
    """
    from engram import ingest as sending  # noqa: PLC0415 (only this command needs it)
    from engram.reading import read, text_of  # noqa: PLC0415 (only this command needs it)

    async def body(door: Any) -> list[dict[str, Any]]:
        records = read(file, text_of(file))
        with _progress(len(records), file.name, quiet=as_json) as advance:
            made = await sending.send(door, records, advance)
        if wait and made:
            await sending.settle(door, made[-1]["job"], within=SETTLED_WITHIN)
        return made

    made = complete(lambda: _with_door(context, body))
    output(as_json, {"file": file.name, "memories": len(made)}, lambda show: show.ingested(file.name, len(made)))


@graph.command("show")
def graph_show(
    context: typer.Context,
    node: Annotated[str, typer.Argument(help="type:name, for example person:Ann")],
    hops: Annotated[int, typer.Option(min=1, max=3)] = 1,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
) -> None:
    """A node, what it is connected with, and the memories that say so."""
    answer = _call(context, "GET", "/v1/graph/neighbours", node=node, hops=hops, limit=limit)
    output(as_json, answer["data"], lambda show: show.neighbourhood(node, answer["data"]))


@usage_app.callback()
def usage(
    context: typer.Context,
    by: Annotated[str, typer.Option(help="day or hour.")] = "day",
    as_json: AsJson = False,
) -> None:
    """What was used: in total, and with --json by day or hour as well."""
    if context.invoked_subcommand is None:
        answer = _call(context, "GET", "/v1/usage", by=by)
        output(as_json, answer["data"], lambda show: show.usage(answer["data"]))


@usage_app.command("export")
def usage_export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; its ending, .csv or .parquet, says in which form.")],
    by: Annotated[str, typer.Option(help="day, hour, or event: every charge.")] = "hour",
    since: Annotated[str | None, typer.Option(help="First day, YYYY-MM-DD.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day, YYYY-MM-DD.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write down what the tenant used."""
    asked = {"format": file.suffix.lstrip("."), "by": by, "since": since, "until": until}
    content = complete(lambda: _with_door(context, lambda door: door.fetch("/v1/usage/export", **asked)))
    file.write_bytes(content)
    told = f"{len(content):,} bytes in {file}"
    output(as_json, {"file": str(file), "bytes": len(content)}, lambda _: typer.echo(told, err=True))


@usage_app.command("reconcile")
def usage_reconcile(context: typer.Context, as_json: AsJson = False) -> None:
    """Count everything anew from the streams, and compare: exits with 0 when all totals are equal, with 1 otherwise."""
    from engram import verifying  # noqa: PLC0415 (loads the broker's client)

    told = complete(lambda: verifying.reconciled(context.obj.data_dir))
    output(as_json, told, lambda show: show.reconciled(told))
    if told["state"] != "done" or told["different"]:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def demo(
    file: Annotated[Path | None, typer.Argument(help="A conversation to use instead of the one shipped.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Keep the data here instead of throwing it away.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start everything in a temporary place, show what it does, stop cleanly."""
    from engram.demo import show  # noqa: PLC0415 (the supervisor's imports are not the client's)

    told = guarded(lambda: show(file, data_dir, quiet=as_json))
    if as_json:
        output(as_json, told, lambda _: None)
    raise typer.Exit(told["exit_code"])


def main() -> None:
    """Entry point of the `engram` command."""
    app()


def _call(context: typer.Context, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
    return complete(lambda: _with_door(context, lambda door: door.call(method, path, body, **query)))


async def _with_door(context: typer.Context, use: Callable[[Any], Awaitable[T]]) -> T:
    from engram.door import Door  # noqa: PLC0415 (aiohttp takes longer to import than help to print)

    where: Where = context.obj
    async with Door.find(url=where.url, key=where.key, data_dir=where.data_dir) as door:
        return await use(door)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _progress(total: int, name: str, *, quiet: bool) -> Any:
    from engram.showing import progress  # noqa: PLC0415 (rich is not needed elsewhere here)

    return progress(total, name, quiet=quiet)
