"""Streams of the door on the terminal: an answer as it is made, and what happens to a tenant's memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import typer

from engram.door import Door, Event
from engram_contracts.errors import FAMILY, Internal, Unavailable

AGAIN_SECONDS = 1.0


async def think(door: Door, body: dict[str, Any], *, as_json: bool) -> None:
    """Print an answer while it is made, then what it rests on. Raises the error it ends with."""
    from engram import showing  # noqa: PLC0415 (rich is not needed for JSON)

    async for event in door.stream("POST", "/v1/think", body):
        if as_json:
            _print(event)
        elif event.name in ("token", "retry", "done"):
            showing.streamed(event.name, event.data)
        if event.name == "error":
            raise FAMILY.get(event.data["code"], Internal)(event.data["message"])


async def watch(door: Door, *, count: int | None, as_json: bool, after: int | None, **chosen: Any) -> None:
    """Print events as they happen, for ever or so many; where the connection breaks, go on behind the last one."""
    from engram import showing  # noqa: PLC0415 (rich is not needed for JSON)

    left = count
    async for event in _resumed(door, after, chosen):
        if as_json:
            _print(event)
        else:
            showing.happening(event.name, event.data)
        if event.name not in ("open", "lost") and left is not None:
            left -= 1
            if not left:
                return


async def _resumed(door: Door, after: int | None, chosen: dict[str, Any]) -> AsyncIterator[Event]:
    """Events over as many connections as it takes. The first has to succeed."""
    connected = False
    while True:
        try:
            async for event in door.stream("GET", "/v1/events", after=after, **chosen):
                if event.name == "error":
                    raise FAMILY.get(event.data["code"], Internal)(event.data["message"])
                if not (connected and event.name == "open"):
                    yield event
                connected = True
                after = event.id if event.id is not None else after
        except Unavailable:
            if not connected:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


def _print(event: Event) -> None:
    typer.echo(json.dumps({"event": event.name, "data": event.data}, ensure_ascii=False))
