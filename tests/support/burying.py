"""Dead letters as the delivery policy makes them, and recovery at work, for tests on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from engram_contracts.commands import Forget
from engram_contracts.errors import Rejected, Unavailable
from engram_contracts.ids import new_id
from engram_contracts.recovery import DeadLetter, ListDead, ReplayStatus, StartReplay, StatusReplay
from engram_contracts.topology import EMBED_NOW, work_subject
from engram_recovery.service import open_service
from engram_recovery.settings import Settings
from engram_runtime.bus import Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.service import Delivery, Outcome, Service, Taking
from engram_runtime.settings import Common, NatsSettings
from support.servers import NatsServer

Handle = Callable[[Sequence[Delivery]], Awaitable[Sequence[Outcome]]]


@contextlib.asynccontextmanager
async def connected(server: NatsServer, *, provisioned: bool = True) -> AsyncIterator[NatsBus]:
    """A connection to a broker whose topology is there."""
    async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
        if provisioned:
            await provision(bus.jetstream)
        yield bus


@contextlib.asynccontextmanager
async def recovering(server: NatsServer) -> AsyncIterator[NatsBus]:
    """Recovery at work, on a connection of its own."""
    async with (
        connected(server, provisioned=False) as bus,
        open_service(Settings(), bus) as service,
        hosted(service, bus, Common()),
    ):
        yield bus


@contextlib.contextmanager
def recovery_process(server: NatsServer, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Recovery as a process of its own, killed at the end."""
    environ = {**os.environ, "ENGRAM_NATS_URL": server.url, "ENGRAM_DURABILITY": "process"}
    with (folder / "recovery.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engram_recovery"], env=environ, stdout=log, stderr=log, cwd=folder
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def working(server: NatsServer, handle: Handle) -> AsyncIterator[NatsBus]:
    """A worker of the embedder's stage, on a connection of its own."""
    takes = tuple(Taking(consumer=consumer, handler=handle, commands=(Forget,)) for consumer in EMBED_NOW)
    service = Service(name="embedder", takes=takes)
    async with connected(server, provisioned=False) as bus, hosted(service, bus, Common()):
        yield bus


def forget(tenant: str = "acme", memory_id: str | None = None) -> tuple[Forget, Entry]:
    """A command and the message that carries it."""
    command = Forget(id=new_id(), accepted_at=datetime.now(UTC), memory_id=memory_id or new_id())
    return command, Entry(subject=work_subject(tenant, "forget"), body=command.encode(), id=command.id)


async def refuse(batch: Sequence[Delivery]) -> list[Outcome]:
    """Handle nothing: no such thing will ever work."""
    return [Rejected(f"no memory {item.message.memory_id}", field="memory_id") for item in batch]


async def buried(
    server: NatsServer, bus: NatsBus, count: int, *, tenant: str = "acme", handle: Handle = refuse
) -> list[Forget]:
    """Commands that a worker refused for good, and that now lie in the dead letters."""
    made = [forget(tenant) for _ in range(count)]
    before = await letters_there(bus)
    async with working(server, handle):
        for start in range(0, count, 100):
            await bus.append([entry for _, entry in made[start : start + 100]])
        await until(lambda: letters_there(bus), before + count)
    return [command for command, _ in made]


async def letters_there(bus: NatsBus) -> int:
    """How many dead letters there are."""
    return (await bus.jetstream.stream_info("ENGRAM_DEAD")).state.messages


async def listed(bus: NatsBus, tenant: str = "_system") -> list[DeadLetter]:
    """The newest dead letters, oldest first."""
    page = await bus.ask(ListDead(tenant=tenant, limit=500), within=10.0)
    return list(reversed(page.letters))


async def replay(bus: NatsBus, tenant: str = "_system", *, seconds: float = 20.0, **how: object) -> ReplayStatus:
    """A replay, once it has ended."""
    begun = await bus.ask(StartReplay.model_validate({"tenant": tenant, **how}), within=5.0)
    return await ended(bus, begun, seconds=seconds)


async def ended(bus: NatsBus, begun: ReplayStatus, *, seconds: float = 20.0) -> ReplayStatus:
    """A replay that began, once it has ended, whatever is away meanwhile."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(Unavailable):
                status = await bus.ask(StatusReplay(tenant=begun.tenant, id=begun.id), within=2.0)
                if status.ended:
                    return status
            await asyncio.sleep(0.02)


async def until(value: Callable[[], object], wanted: object = True, *, seconds: float = 20.0) -> None:
    """Wait until a value, or what is awaited from it, is the one that is wanted."""
    seen: object = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen = value()
                seen = await seen if isinstance(seen, Awaitable) else seen
                if seen == wanted:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {wanted!r}, saw {seen!r} last") from None
