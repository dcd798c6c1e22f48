"""What JetStream alone does with the bodies that Engram sends it: acknowledged publishes, one and many at a time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig

from benchmarks.figures import p
from support.servers import nats_server

SUBJECT = "raw.work"
IN_FLIGHT = 64
BATCH = 100


@dataclass(frozen=True, slots=True)
class RawPublish:
    """Figures of a bare JetStream at one durability: one at a time in ms, the others in messages a second."""

    alone_p50_ms: float
    in_flight_per_s: float
    batches_per_s: float


async def measure(folder: Path, bodies: Sequence[bytes], *, sync_interval: str, seconds: float) -> RawPublish:
    """Publish the bodies over and over, about `seconds` for each way."""
    with nats_server(folder, sync_interval=sync_interval) as server:
        client = await nats.connect(server.url)
        try:
            stream = client.jetstream(timeout=30.0)
            await stream.add_stream(
                StreamConfig(name="RAW", subjects=["raw.>"], storage=StorageType.FILE, allow_atomic=True)
            )
            return RawPublish(
                await _alone(stream, bodies, seconds / 2),
                await _in_flight(stream, bodies, seconds),
                await _batches(client, stream, bodies, seconds),
            )
        finally:
            await client.close()


async def _alone(stream: JetStreamContext, bodies: Sequence[bytes], seconds: float) -> float:
    taken, over = [], time.perf_counter() + seconds
    for body in itertools.cycle(bodies):
        began = time.perf_counter()
        if began > over:
            break
        await stream.publish(SUBJECT, body, headers=_headers())
        taken.append(1_000 * (time.perf_counter() - began))
    return p(50, taken)


async def _in_flight(stream: JetStreamContext, bodies: Sequence[bytes], seconds: float) -> float:
    supply, sent = itertools.cycle(bodies), 0
    began = time.perf_counter()

    async def publisher() -> None:
        nonlocal sent
        while time.perf_counter() < began + seconds:
            await stream.publish(SUBJECT, next(supply), headers=_headers())
            sent += 1

    await asyncio.gather(*(publisher() for _ in range(IN_FLIGHT)))
    return sent / (time.perf_counter() - began)


async def _batches(client: Client, stream: JetStreamContext, bodies: Sequence[bytes], seconds: float) -> float:
    supply, sent = itertools.cycle(bodies), 0
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        batch = uuid4().hex
        for number in range(1, BATCH):
            await client.publish(SUBJECT, next(supply), headers=_headers(batch, number))
        await stream.publish(SUBJECT, next(supply), headers={**_headers(batch, BATCH), "Nats-Batch-Commit": "1"})
        sent += BATCH
    return sent / (time.perf_counter() - began)


def _headers(batch: str | None = None, number: int = 0) -> dict[str, str]:
    own = {"Nats-Msg-Id": uuid4().hex}
    return {**own, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)} if batch else own
