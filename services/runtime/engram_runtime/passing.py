"""How far the followers of the log are, as the broker knows it; and a log that goes on behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from engram_contracts.errors import Unavailable
from engram_contracts.ids import PARTITIONS
from engram_contracts.topology import CONSUMERS, GRAPH_LOG, LOG, METERING_LOG, VECTORS_LOG, Consumer, Stream
from engram_runtime.nats_bus import NatsBus
from engram_runtime.provision import provision, stream_config

LOOK_SECONDS = 0.1


async def passed(bus: NatsBus, *, within: float) -> dict[int, int]:
    """By partition, a sequence up to which every follower has applied the log: its end now, if they come so far.

    Where one stands still for `within` seconds, it is the place where it stands.
    """
    deadline = time.monotonic() + within
    ends = [await _end(bus, partition) for partition in range(PARTITIONS)]
    while True:
        floors = await asyncio.gather(*(_floor(bus, partition) for partition in range(PARTITIONS)))
        reached = all(floor >= end for floor, end in zip(floors, ends, strict=True))
        if reached or time.monotonic() > deadline:
            return {n: min(floor, end) for n, (floor, end) in enumerate(zip(floors, ends, strict=True))}
        await asyncio.sleep(LOOK_SECONDS)


async def _end(bus: NatsBus, partition: int) -> int:
    try:
        last = await bus.jetstream.get_last_msg(LOG.name, f"engram.log.{partition}.>", direct=True)
    except NotFoundError:
        return 0
    except (APIError, NatsError, TimeoutError) as error:
        raise Unavailable(f"stream {LOG.name} cannot be read: {error!r}", retry_after=1.0) from error
    return last.seq or 0


async def _floor(bus: NatsBus, partition: int) -> int:
    """The last sequence that all followers of a partition have acknowledged; ledger, index and record."""
    followers: Sequence[Consumer] = (VECTORS_LOG[partition], GRAPH_LOG[partition], METERING_LOG)
    return min(await asyncio.gather(*(_acknowledged(bus, follower) for follower in followers)))


async def _acknowledged(bus: NatsBus, consumer: Consumer) -> int:
    try:
        info = await bus.jetstream.consumer_info(consumer.stream.name, consumer.name)
    except (APIError, NatsError, TimeoutError) as error:
        raise Unavailable(f"consumer {consumer.name} cannot be seen: {error!r}", retry_after=1.0) from error
    nothing_left = not info.num_pending and not info.num_ack_pending
    return 2**62 if nothing_left else (info.ack_floor.stream_seq if info.ack_floor else 0)


async def begin_anew(bus: NatsBus, stream: Stream, *, first: int, replicas: int) -> None:
    """Make a stream that was sealed, or is gone, anew from a sequence on, with its consumers. What it held is gone.

    A stream that is not sealed was made anew before, and is left as it is.
    """
    consumers = [consumer for consumer in CONSUMERS if consumer.stream.name == stream.name]
    try:
        if (await bus.jetstream.stream_info(stream.name)).config.sealed:
            await bus.jetstream.delete_stream(stream.name)
            raise NotFoundError
    except NotFoundError:
        config = stream_config(stream, replicas)
        config.first_seq = first
        await bus.jetstream.add_stream(config)
    await provision(bus.jetstream, replicas=replicas, streams=(), consumers=consumers, buckets=())


async def seal(bus: NatsBus, stream: Stream) -> None:
    """Let nothing more be appended to a stream, for good."""
    config = (await bus.jetstream.stream_info(stream.name)).config
    if not config.sealed:
        config.sealed = True
        await bus.jetstream.update_stream(config)
