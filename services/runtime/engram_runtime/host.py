"""The host: connects, opens a service, runs what it declares, and drains on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import uvloop

from engram_contracts.errors import EngramError
from engram_contracts.questions import Check
from engram_contracts.topology import PING_ALL, Consumer, rpc_subject
from engram_runtime import provision
from engram_runtime.answering import Answerer
from engram_runtime.breaker import Breaker
from engram_runtime.cancelling import Cancels, watching
from engram_runtime.following import Follower
from engram_runtime.health import Health, HealthPage
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.pulling import MicroBatchSubscriber, Puller, subscribe
from engram_runtime.returning import Returner
from engram_runtime.service import Probe, Service
from engram_runtime.settings import Common, EncryptionSettings, TelemetrySettings, load
from engram_runtime.taking import Taker
from engram_runtime.telemetry import log_to_stderr
from engram_runtime.vault import open_vault
from engram_runtime.watching import watched

log = logging.getLogger(__name__)

GARBAGE = (5_000, 20, 50)
"""New objects until the youngest are looked through, and so on: a look takes about a millisecond, and frees little."""

BEAT_SECONDS = 1.0

S = TypeVar("S", bound=Common)
Open = Callable[[S, NatsBus], AbstractAsyncContextManager[Service]]


class Beside(NamedTuple):
    """A service whose answers another one needs at hand, in its own process."""

    open_service: Open[Any]
    kind: type[Common]
    flags: Mapping[str, Any]


def run(
    name: str,
    open_service: Open[S],
    kind: type[S],
    flags: Mapping[str, Any] | None = None,
    beside: Sequence[Beside] = (),
) -> None:
    """Run one service until SIGTERM or SIGINT. Exits 0 after a drain, 2 when the settings or the stores forbid it.

    What runs beside it answers its questions without the broker, and nobody else's.
    """
    try:
        settings = load(kind, flags=flags, environ=os.environ)
        near = [(each.open_service, load(each.kind, flags=each.flags, environ=os.environ)) for each in beside]
        log_to_stderr(name, settings.log_level)
        uvloop.run(_until_told(name, open_service, settings, near))
    except EngramError as error:
        log.critical(error.message, extra={"code": error.code})
        sys.exit(2)


Near = Sequence[tuple[Open[Any], Common]]


async def _until_told(name: str, open_service: Open[S], settings: S, near: Near) -> None:
    told, ready = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    serving = asyncio.create_task(_serve(name, open_service, settings, near, (ready, told)))
    stopping = asyncio.create_task(told.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not ready.is_set():
        serving.cancel()  # it waits for what it needs, and would for ever
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    log.info("stopped")


async def _serve(
    name: str, open_service: Open[S], settings: S, near: Near, turns: tuple[asyncio.Event, asyncio.Event]
) -> None:
    ready, told = turns
    async with (
        open_bus(settings.nats, name=f"engram-{name}", durability=settings.durability) as bus,
        _opening_text(bus, settings.encryption),
        _traced(name, bus, settings.telemetry),
        _at_hand(near, bus),
        open_service(settings, bus) as service,
        hosted(service, bus, settings),
    ):
        _settle_down()
        log.info("ready", extra={"instance": bus.instance})
        _tell_ready(settings.host.ready_file)
        ready.set()
        beating = asyncio.create_task(_show_life(settings.host.ready_file))
        with _giving_way(settings.host.nice):
            await told.wait()
        beating.cancel()
        log.info("draining")


@contextlib.asynccontextmanager
async def _opening_text(bus: NatsBus, settings: EncryptionSettings) -> AsyncIterator[None]:
    """Have the bus seal and open the text of encrypted tenants."""
    async with open_vault(bus, settings) as bus.vault:
        yield


@contextlib.asynccontextmanager
async def _traced(name: str, bus: NatsBus, settings: TelemetrySettings) -> AsyncIterator[None]:
    if not settings.enabled:
        yield
        return
    from engram_runtime.tracer_otel import tracing  # noqa: PLC0415  # 12 MB that nobody needs who does not trace

    async with tracing(name, bus, bus.instance, settings):
        yield


@contextlib.asynccontextmanager
async def _at_hand(near: Near, bus: NatsBus) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for open_service, settings in near:
            service = await stack.enter_async_context(open_service(settings, bus))
            bus.answer_here(service.answers)
        yield


def _settle_down() -> None:
    """Look no more for garbage among what starting made, and return to the system what it took and freed.

    Looking through all of it took 15 to 118 ms on a busy machine, in which the process answered nobody. What is freed
    is 2 to 8 MB a process with glibc, elsewhere nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _tell_ready(file: Path | None) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(os.getpid()))


@contextlib.contextmanager
def _giving_way(nice: int) -> Iterator[None]:
    """Every thread of the process group, and those that these begin, have a lower share of the processor meanwhile."""
    if not nice:
        yield
        return
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PGRP, 0, before + nice)
    yield
    with contextlib.suppress(PermissionError):  # not everybody may have more again
        os.setpriority(os.PRIO_PGRP, 0, before)


async def _show_life(file: Path | None) -> None:
    """Touch the file as long as this process does anything at all."""
    while file is not None:
        await asyncio.sleep(BEAT_SECONDS)
        with contextlib.suppress(OSError):
            os.utime(file)


@contextlib.asynccontextmanager
async def hosted(service: Service, bus: NatsBus, settings: Common) -> AsyncIterator[Health]:
    """Run everything a service declares while the context is open; leaving it drains."""
    await _topology_is_there(bus, _consumers(service))
    if not service.takes:
        async with _running(service, bus, settings, None) as health:
            yield health
        return
    async with watching(bus, bus.reconnected) as cancels, _running(service, bus, settings, cancels) as health:
        yield health


@contextlib.asynccontextmanager
async def _running(service: Service, bus: NatsBus, settings: Common, cancels: Cancels | None) -> AsyncIterator[Health]:
    answerer = Answerer(bus.client, service.name)
    breaker = Breaker(service.name)
    followers = _declare(service, bus, answerer, breaker, cancels)
    health = Health(service.name, bus.instance, {**_own_checks(bus, followers, breaker), **service.checks})
    page = HealthPage(health, settings.host.health_host, settings.host.health_port)
    await page.open()
    await _answer_pings(bus, service.name, health)
    await bus.broker.start()
    try:
        async with watched(
            lambda: max((follower.busy_for for follower in followers), default=0.0), seconds=settings.host.hang_seconds
        ):
            yield health
    finally:
        breaker.stop()
        service.draining()
        await _drain(bus, answerer, settings.host.drain_seconds)
        await page.close()


def _declare(
    service: Service, bus: NatsBus, answerer: Answerer, breaker: Breaker, cancels: Cancels | None
) -> list[Follower]:
    for kind, answer in service.answers.items():
        answerer.declare(bus.broker, kind, answer)
    for taking in service.takes:
        puller = Puller(bus.client, taking.consumer)
        taker = Taker(bus, service.name, taking, breaker=breaker, cancels=cancels, puller=puller)
        subscribe(bus.broker, puller, taker.handle)
        bus.reconnected.append(puller.resume)
    for consumer in service.returns:
        puller = Puller(bus.client, consumer)
        subscribe(bus.broker, puller, Returner(bus).handle)
        bus.reconnected.append(puller.resume)
    followers = []
    for following in service.follows:
        follower = Follower(bus, bus.client, bus.jetstream, service.name, following)
        follower.puller = Puller(bus.client, following.consumer, follower.prepare)
        subscribe(bus.broker, follower.puller, follower.handle)
        bus.reconnected.append(follower.puller.resume)
        followers.append(follower)
    return followers


def _consumers(service: Service) -> list[Consumer]:
    followed = [following.consumer for following in service.follows]
    return [*(taking.consumer for taking in service.takes), *followed, *service.returns]


async def _topology_is_there(bus: NatsBus, consumers: Sequence[Consumer]) -> None:
    while lacking := await provision.missing(bus.jetstream, consumers):
        log.warning("waiting for the topology; run `engram provision`", extra={"missing": lacking[:5]})
        await asyncio.sleep(1.0)


async def _answer_pings(bus: NatsBus, service: str, health: Health) -> None:
    async def answer(message: Any) -> None:
        await bus.client.publish(message.reply, (await health.pong()).encode())

    await bus.client.subscribe(rpc_subject(service, "ping"), queue=service, cb=answer)
    await bus.client.subscribe(PING_ALL, cb=answer)


def _own_checks(bus: NatsBus, followers: Sequence[Follower], breaker: Breaker) -> dict[str, Probe]:
    async def broker() -> Check:
        return Check(ok=bus.connected, detail=None if bus.connected else "disconnected; reconnecting")

    async def log_position() -> Check:
        troubles = [follower.trouble for follower in followers if follower.trouble]
        return Check(ok=not troubles, detail="; ".join(troubles) or None)

    async def work() -> Check:
        return Check(ok=breaker.closed, detail=breaker.trouble)

    return {
        "broker": broker,
        "work": work,
        "encryption": bus.vault.check,
        **({"log": log_position} if followers else {}),
    }


async def _drain(bus: NatsBus, answerer: Answerer, seconds: float) -> None:
    """Stop taking work and finish what runs, then stop answering: questions find somebody for as long as may be."""
    pulling = [each for each in bus.broker.subscribers if isinstance(each, MicroBatchSubscriber)]

    async def stop() -> None:
        await asyncio.gather(*(subscriber.stop() for subscriber in pulling))
        await answerer.finish(within=seconds)
        await asyncio.gather(*(each.stop() for each in bus.broker.subscribers if each not in pulling))

    try:
        async with asyncio.timeout(seconds):
            await stop()
    except TimeoutError:
        log.warning("drain took too long; what is unfinished will be delivered again", extra={"seconds": seconds})
