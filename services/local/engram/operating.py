"""What operators ask of the broker itself: the topology, lag, workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engram import broker
from engram.door import running
from engram.provisioning import compared, provisioned
from engram.settings import Settings
from engram_contracts.errors import Unavailable
from engram_contracts.topology import STREAMS
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.settings import load

PATIENCE = 0.4
STATUS_SECONDS = 5.0
PROVISION_SECONDS = 30.0


async def provision(data_dir: Path, *, mend: bool) -> tuple[list[dict[str, Any]], str | None]:
    """What provisioning did or found, one entry per difference, and the admin key if this was the first time."""
    settings = settings_for(data_dir)
    async with bounded(settings, PROVISION_SECONDS):
        drifts, key = await provisioned(settings) if mend else (await compared(settings), None)
    return [asdict(drift) for drift in drifts], key


async def status(data_dir: Path) -> dict[str, Any]:
    """Streams with depth, consumers with lag, and every worker that answers."""
    settings = settings_for(data_dir)
    async with bounded(settings, STATUS_SECONDS), open_bus(settings.nats, name="engram-status") as bus:
        workers, streams, consumers = await asyncio.gather(
            bus.ping_all(within=PATIENCE), _streams(bus), _consumers(bus)
        )
    ordered = sorted(workers, key=lambda pong: (pong.service, pong.pid))
    return {
        "streams": streams,
        "consumers": consumers,
        "workers": [pong.model_dump(mode="json", exclude_none=True) for pong in ordered],
    }


async def _streams(bus: NatsBus) -> list[dict[str, Any]]:
    infos = await asyncio.gather(*(bus.jetstream.stream_info(stream.name) for stream in STREAMS))
    return [
        {
            "name": info.config.name,
            "messages": info.state.messages,
            "bytes": info.state.bytes,
            "first": info.state.first_seq,
            "last": info.state.last_seq,
        }
        for info in infos
    ]


async def _consumers(bus: NatsBus) -> list[dict[str, Any]]:
    rows = []
    for stream in STREAMS:
        for info in await bus.jetstream.consumers_info(stream.name):
            rows.append(
                {
                    "stream": stream.name,
                    "name": info.name,
                    "waiting": info.num_pending,
                    "in_hand": info.num_ack_pending,
                    "redelivered": info.num_redelivered,
                    "pulls": info.num_waiting,
                }
            )
    return rows


@contextlib.asynccontextmanager
async def bounded(settings: Settings, seconds: float) -> AsyncIterator[None]:
    """Give up after so many seconds with one clear error instead of the bus's endless patience and its warnings."""
    logging.getLogger("engram_runtime").addHandler(logging.NullHandler())
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unavailable(
            f"no answer from the broker at {settings.nats.url} within {seconds:g} s; is it running?"
        ) from None


@contextlib.asynccontextmanager
async def opened(data_dir: Path) -> AsyncIterator[NatsBus]:
    """A connection to the broker of the Engram on this data directory. Raises `Unavailable` where none answers."""
    settings = settings_for(data_dir)
    async with contextlib.AsyncExitStack() as stack:
        async with bounded(settings, STATUS_SECONDS):
            bus = await stack.enter_async_context(open_bus(settings.nats, name="engram-command"))
        yield bus


def settings_for(data_dir: Path) -> Settings:
    """Settings that reach the broker of the Engram on this data directory, or the one the environment names."""
    flags: dict[str, Any] = {"data_dir": str(data_dir)}
    known = running(data_dir).get("nats")
    if known and "ENGRAM_NATS_URL" not in os.environ:
        flags["nats"] = _login(known, data_dir)
    return load(Settings, flags=flags, environ=os.environ)


def _login(url: str, data_dir: Path) -> Mapping[str, str]:
    return {"url": url, "user": broker.USER, "password": broker.password(data_dir / "nats")}
