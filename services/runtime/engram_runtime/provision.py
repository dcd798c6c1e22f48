"""Provisioning: what the topology declares is there, and differs in nothing.

Missing streams, consumers and buckets are created. Where one differs, safe differences are mended and the others
reported with what to do; nothing is ever reset or deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from engram_contracts.topology import BUCKETS, CONSUMERS, STREAMS, Bucket, Consumer, Stream
from engram_runtime.lost import steadily

log = logging.getLogger(__name__)

FIXED = {"retention", "storage", "ack_policy", "deliver_policy", "durable_name", "name"}
"""Settings the server cannot change on what exists, or only by losing messages."""

CONCURRENT = 16
RESERVED = 0.5
"""Of a disk, what streams with a bound may reserve together; the log and the stores have none, and need the rest."""

D = TypeVar("D", Stream, Bucket)


@dataclass(frozen=True, slots=True)
class Drift:
    """What provisioning did or found for one stream, consumer or bucket."""

    name: str
    kind: Literal["created", "updated", "differs"]
    details: str = ""


async def provision(
    jetstream: JetStreamContext,
    *,
    replicas: int = 1,
    streams: Sequence[Stream] = STREAMS,
    consumers: Sequence[Consumer] = CONSUMERS,
    buckets: Sequence[Bucket] = BUCKETS,
    mend: bool = True,
    room: int | None = None,
) -> list[Drift]:
    """Create what is missing and mend what differs where that is safe; all that was done or found.

    `room` is the size of the broker's disk in bytes, where that is known: what is reserved of it is then no more than
    half, and bounds are smaller than declared where it takes that.
    Without `mend` nothing is touched. A repeat on an unchanged broker changes nothing and answers an empty list.
    """
    found: list[Drift] = []
    share = share_of(room)
    for stream in streams:
        found += await _stream(jetstream, shrunk(stream, share), replicas, mend)
    for bucket in buckets:
        found += await _bucket(jetstream, shrunk(bucket, share), replicas, mend)
    gate = asyncio.Semaphore(CONCURRENT)

    async def one(consumer: Consumer) -> list[Drift]:
        async with gate:
            return await _consumer(jetstream, consumer, mend)

    for drifts in await asyncio.gather(*(one(consumer) for consumer in consumers)):
        found += drifts
    for drift in found:
        level = logging.WARNING if drift.kind == "differs" else logging.INFO
        log.log(level, "provisioned", extra={"what": drift.name, "kind": drift.kind, "details": drift.details})
    return found


def share_of(room: int | None) -> float:
    """How much of the declared bounds fits on a disk of so many bytes; at most all of it."""
    if room is None:
        return 1.0
    reserved = sum(each.max_bytes for each in (*STREAMS, *BUCKETS) if each.max_bytes > 0)
    return min(room * RESERVED / reserved, 1.0)


def shrunk(declared: D, share: float) -> D:
    """A stream or bucket with this share of its bound."""
    return replace(declared, max_bytes=int(declared.max_bytes * share)) if declared.max_bytes > 0 else declared


async def missing(jetstream: JetStreamContext, consumers: Sequence[Consumer]) -> list[str]:
    """Names of the declared streams and of these consumers that are not there yet."""
    lacking = []
    for stream in STREAMS:
        try:
            await steadily(partial(jetstream.stream_info, stream.name))
        except NotFoundError:
            lacking.append(stream.name)
    for consumer in consumers:
        try:
            await steadily(partial(jetstream.consumer_info, consumer.stream.name, consumer.name))
        except NotFoundError:
            lacking.append(consumer.name)
    return lacking


def stream_config(stream: Stream, replicas: int) -> StreamConfig:
    """The server's configuration for a declared stream."""
    return StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        retention=RetentionPolicy.WORK_QUEUE if stream.retention == "workqueue" else RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW if stream.discard == "new" else DiscardPolicy.OLD,
        discard_new_per_subject=stream.per_subject > 0,
        max_msgs=stream.max_messages,
        max_msg_size=stream.max_message,
        max_bytes=stream.max_bytes,
        max_age=stream.max_age,
        max_msgs_per_subject=stream.per_subject,
        storage=StorageType.FILE,
        num_replicas=replicas,
        duplicate_window=stream.duplicate_window,
        allow_direct=True,
        allow_atomic=True,
        deny_delete=stream.append_only,
        deny_purge=stream.append_only,
        allow_msg_schedules=stream.schedules or None,
        allow_rollup_hdrs=stream.schedules,  # which schedules imply
    )


def consumer_config(consumer: Consumer) -> ConsumerConfig:
    """The server's configuration for a declared consumer; the server itself never gives up on a message."""
    many = len(consumer.filters) > 1
    return ConsumerConfig(
        durable_name=consumer.name,
        name=consumer.name,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.ALL if consumer.ack_all else AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait,
        max_deliver=-1,
        max_ack_pending=consumer.max_ack_pending,
        filter_subject=None if many else consumer.filters[0],
        filter_subjects=list(consumer.filters) if many else None,
        max_waiting=512,
    )


async def _stream(jetstream: JetStreamContext, stream: Stream, replicas: int, mend: bool) -> list[Drift]:
    wanted = stream_config(stream, replicas)
    try:
        actual = (await jetstream.stream_info(stream.name)).config
    except NotFoundError:
        if not mend:
            return [_missing(stream.name)]
        await jetstream.add_stream(wanted)
        return [Drift(stream.name, "created")]
    differences = _differences(wanted, actual)
    if not differences:
        return []
    if not mend or FIXED & differences.keys():
        return [Drift(stream.name, "differs", _say(differences))]
    await jetstream.update_stream(wanted)
    return [Drift(stream.name, "updated", _say(differences))]


async def _consumer(jetstream: JetStreamContext, consumer: Consumer, mend: bool) -> list[Drift]:
    wanted = consumer_config(consumer)
    try:
        actual = (await jetstream.consumer_info(consumer.stream.name, consumer.name)).config
    except NotFoundError:
        if not mend:
            return [_missing(consumer.name)]
        await _create(jetstream, consumer.stream.name, wanted)
        return [Drift(consumer.name, "created")]
    differences = _differences(wanted, actual)
    if not differences:
        return []
    if not mend or FIXED & differences.keys():
        return [Drift(consumer.name, "differs", _say(differences))]
    await jetstream.add_consumer(consumer.stream.name, wanted)
    return [Drift(consumer.name, "updated", _say(differences))]


async def _create(jetstream: JetStreamContext, stream: str, wanted: ConsumerConfig) -> None:
    """A consumer that has delivered nothing.

    After a power cut the server may find no more of an older one than how far it was, takes the new one for it, and
    passes over everything up to there of a stream that begins anew.
    """
    made = await jetstream.add_consumer(stream, wanted)
    if made.delivered is not None and made.delivered.stream_seq:
        await jetstream.delete_consumer(stream, made.name)
        await jetstream.add_consumer(stream, wanted)


async def _bucket(jetstream: JetStreamContext, bucket: Bucket, replicas: int, mend: bool) -> list[Drift]:
    try:
        info = await jetstream.stream_info(f"KV_{bucket.name}")
    except NotFoundError:
        if not mend:
            return [_missing(bucket.name)]
        await jetstream.create_key_value(
            KeyValueConfig(
                bucket=bucket.name, history=bucket.history, ttl=bucket.ttl or None, replicas=replicas,
                storage=StorageType.FILE, max_bytes=bucket.max_bytes if bucket.max_bytes > 0 else None,
            )
        )  # fmt: skip
        return [Drift(bucket.name, "created")]
    ttl = info.config.max_age or 0.0
    if ttl != bucket.ttl:
        return [
            Drift(bucket.name, "differs", f"ttl is {ttl:g} s, declared {bucket.ttl:g} s; back it up and recreate it")
        ]
    return []


def _missing(name: str) -> Drift:
    return Drift(name, "differs", "is missing; run `engram provision`")


def _differences(wanted: Any, actual: Any) -> dict[str, tuple[Any, Any]]:
    """Fields that are declared and are not so on the server: name -> (declared, actual)."""
    return {
        name: (value, getattr(actual, name))
        for name, value in vars(wanted).items()
        if value is not None and getattr(actual, name) != value
    }


def _say(differences: dict[str, tuple[Any, Any]]) -> str:
    told = [f"{name} is {actual!r}, declared {wanted!r}" for name, (wanted, actual) in sorted(differences.items())]
    fixed = FIXED & differences.keys()
    advice = "; cannot be changed in place: drain it, back it up and recreate it" if fixed else ""
    return "; ".join(told) + advice
