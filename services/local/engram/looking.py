"""`engram top` and `engram trace`: what goes on now, and what one request did."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from engram.terminal import AsJson, complete, output

SECONDS = 5.0
PING_SECONDS = 0.4
MOST_BATCHES = 1_000
TRACE = re.compile(r"[0-9a-f]{32}", re.ASCII)


def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Rates, what waits and since when, retries, dead letters and workers, as they change; Ctrl-C ends it."""
    data_dir = context.obj.data_dir
    if once:
        state = complete(lambda: _first(data_dir, every))
        output(as_json, state, lambda _: _show(state))
        return
    with contextlib.suppress(KeyboardInterrupt):
        complete(lambda: _follow(data_dir, every, as_json))


def trace(
    context: typer.Context,
    trace_id: Annotated[str, typer.Argument(help="The X-Trace-ID of an answer, or a whole traceparent.")],
    as_json: AsJson = False,
) -> None:
    """What a traced request did, step by step, in every service it reached."""
    spans = complete(lambda: spans_of(context.obj.data_dir, trace_id))
    output(as_json, {"trace_id": spans[0]["trace_id"], "spans": spans}, lambda _: _show_trace(spans))


async def spans_of(data_dir: Path, text: str) -> list[dict[str, Any]]:
    """The spans of a trace, in the order of their beginning, each with its depth below the first.

    Raises `Rejected` for what is no trace id, `NotFound` where nothing of it is kept.
    """
    from engram.operating import bounded, settings_for  # noqa: PLC0415 (loads the broker's client)
    from engram_contracts.errors import NotFound  # noqa: PLC0415 (not needed for help)
    from engram_contracts.topology import TRACES, trace_subject  # noqa: PLC0415 (not needed for help)
    from engram_contracts.tracing import SpanBatch  # noqa: PLC0415 (not needed for help)
    from engram_runtime.nats_bus import open_bus  # noqa: PLC0415 (loads the broker's client)

    name, settings = _trace_id(text), settings_for(data_dir)
    async with bounded(settings, SECONDS), open_bus(settings.nats, name="engram-trace") as bus:
        kept = await bus.archive(TRACES).read(1, pattern=trace_subject(name), limit=MOST_BATCHES)
    spans = {span.span_id: span for each in kept for span in SpanBatch.model_validate_json(each.body).spans}
    if not spans:
        raise NotFound(
            f"nothing is kept of trace {name!r}: it was not sampled (ENGRAM_TELEMETRY_ENABLED, "
            "ENGRAM_TELEMETRY_SAMPLE_RATE), is older than six hours, or ended a second ago"
        )
    return list(_ordered({name: span.model_dump(exclude_none=True) for name, span in spans.items()}))


def _trace_id(text: str) -> str:
    from engram_contracts.errors import Rejected  # noqa: PLC0415 (not needed for help)

    parts = text.strip().lower().split("-")
    name = parts[1] if len(parts) == 4 else parts[0]
    if not TRACE.fullmatch(name):
        raise Rejected(f"{text!r} is no trace id; give the 32 hexadecimal digits of X-Trace-ID")
    return name


def _ordered(spans: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each span behind the one it is a part of, those of one by their beginning."""
    below: dict[str | None, list[dict[str, Any]]] = {}
    for span in sorted(spans.values(), key=lambda span: (span["start_ns"], span["end_ns"])):
        parent = span.get("parent_id")
        below.setdefault(parent if parent in spans else None, []).append(span)
    left = [(span, 0) for span in reversed(below.get(None, []))]
    while left:
        span, depth = left.pop()
        yield {**span, "depth": depth}
        left += [(each, depth + 1) for each in reversed(below.get(span["span_id"], []))]


async def _first(data_dir: Path, every: float) -> dict[str, Any]:
    async with contextlib.aclosing(states(data_dir, every)) as found:
        return await anext(found)


async def _follow(data_dir: Path, every: float, as_json: bool) -> None:
    from engram.showing_now import live  # noqa: PLC0415 (rich is not needed for JSON)

    with contextlib.ExitStack() as stack:
        show = _print_json if as_json else stack.enter_context(live())
        async for state in states(data_dir, every):
            show(state)


def _print_json(state: dict[str, Any]) -> None:
    import json  # noqa: PLC0415 (only here)

    typer.echo(json.dumps(state, ensure_ascii=False))


async def states(data_dir: Path, every: float) -> AsyncGenerator[dict[str, Any]]:
    """What goes on, `every` so many seconds. Raises `Unavailable` when there is no broker."""
    import aiohttp  # noqa: PLC0415 (takes longer to import than help to print)

    from engram.operating import bounded, settings_for  # noqa: PLC0415 (loads the broker's client)
    from engram.rates import compared  # noqa: PLC0415 (not needed for help)
    from engram_runtime.nats_bus import open_bus  # noqa: PLC0415 (loads the broker's client)

    settings = settings_for(data_dir)
    async with contextlib.AsyncExitStack() as stack:
        async with bounded(settings, SECONDS):
            bus = await stack.enter_async_context(open_bus(settings.nats, name="engram-top"))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)))
        before, _ = await _look(bus, session)
        while True:
            await asyncio.sleep(max(every - PING_SECONDS, 0.1))
            after, workers = await _look(bus, session)
            yield {**compared(before, after, await _waiting(bus)), "workers": workers}
            before = after


async def _look(bus: Any, session: Any) -> tuple[Any, list[dict[str, Any]]]:
    from engram.rates import Look  # noqa: PLC0415 (not needed for help)

    pongs = sorted(await bus.ping_all(within=PING_SECONDS), key=lambda pong: (pong.service, pong.pid))
    pages = await asyncio.gather(*(_page(session, pong.metrics_url) for pong in pongs))
    workers = [
        {
            "service": pong.service,
            "instance": pong.instance,
            "pid": pong.pid,
            "ready": pong.ready,
            "rss_bytes": pong.rss_bytes,
            "cpu_s": pong.cpu_s,
            "uptime_s": pong.uptime_s,
            "watched": bool(page),
        }
        for pong, page in zip(pongs, pages, strict=True)
    ]
    return Look.of(time.monotonic(), [page for page in pages if page]), workers


async def _page(session: Any, url: str | None) -> str:
    """The metrics of a process; nothing where its page cannot be reached from here."""
    import aiohttp  # noqa: PLC0415 (takes longer to import than help to print)

    if url is None:
        return ""
    try:
        async with session.get(url) as answer:
            return str(await answer.text())
    except (aiohttp.ClientError, TimeoutError):
        return ""


async def _waiting(bus: Any) -> dict[str, int]:
    """Messages before each stage, over all streams."""
    from engram_contracts.topology import CONSUMERS, STREAMS  # noqa: PLC0415 (not needed for help)

    found: Counter[str] = Counter({consumer.name.partition("-")[0]: 0 for consumer in CONSUMERS})
    for stream in STREAMS:
        for name, backlog in (await bus.backlogs(stream)).items():
            found[name.partition("-")[0]] += backlog.depth
    return dict(found)


def _show(state: dict[str, Any]) -> None:
    from engram.showing_now import now  # noqa: PLC0415 (rich is not needed for JSON)

    now(state)


def _show_trace(spans: list[dict[str, Any]]) -> None:
    from engram.showing_now import timeline  # noqa: PLC0415 (rich is not needed for JSON)

    timeline(spans)
