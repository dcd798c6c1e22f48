"""Server-sent events as a client reads them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True)
class Event:
    """One event. `id` is there where the server gave one."""

    name: str
    data: Any
    id: int | None = None


@contextlib.asynccontextmanager
async def opened(
    session: aiohttp.ClientSession, method: str, url: str, *, key: str, body: Any = None, **headers: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that was begun; header names are written with `_` for `-`."""
    sent = {"Accept": "text/event-stream", "Authorization": f"Bearer {key}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.request(method, url, json=body, headers=sent) as response:
        yield response


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Its events until it ends."""
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if not line and fields:
            number = fields.get("id")
            yield Event(fields["event"], json.loads(fields["data"]), int(number) if number else None)
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
