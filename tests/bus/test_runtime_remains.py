"""After a power cut: of streams and consumers that were new, their descriptions are gone and scraps remain."""

from __future__ import annotations

import shutil
from pathlib import Path

from engram_contracts.topology import WORK
from engram_runtime.nats_bus import NatsBus
from support.burying import connected, forget, recovering, until, working
from support.servers import NatsServer, nats_server

SCRAPS = ("meta.inf", "meta.sum", "*.blk", "index.db")


async def test_a_consumer_made_anew_passes_over_nothing_that_is_accepted_since(tmp_path: Path) -> None:
    handled: list[str] = []

    async def handle(batch):
        handled.extend(item.message.id for item in batch)
        return [None] * len(batch)

    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus:
            await bus.append([forget()[1] for _ in range(20)])
            async with working(server, handle):
                await until(lambda: len(handled), 20)
                await until(lambda: any(file.stat().st_size >= 9 for file in remains(server, "o.dat")))
        lose_what_was_new(server)
        async with connected(server) as bus, working(server, handle):
            command, entry = forget()
            await bus.append([entry])
            await until(lambda: command.id in handled, seconds=6.0)
            left = (await bus.jetstream.stream_info(WORK.name)).state.first_seq

    assert handled.count(command.id) == 1
    assert left <= 2


async def test_work_that_was_acknowledged_and_came_back_is_taken_out(tmp_path: Path) -> None:
    async def handle(batch):
        return [None] * len(batch)

    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus:
            await bus.append([forget()[1] for _ in range(20)])
            server.kill()
            before = tmp_path / "before"
            messages = remains(server, "msgs")[0]
            shutil.copytree(messages, before)
            server.start()
            async with working(server, handle):
                await until(lambda: waiting(bus), 0)
            end(server)
            shutil.rmtree(messages)
            shutil.copytree(before, messages)
            server.start()
            await until(lambda: waiting(bus), 20)
            await bus.append([forget()[1]])
            async with recovering(server):
                await until(lambda: waiting(bus), 1)


def end(server: NatsServer) -> None:
    """Have it write down where its consumers stand."""
    assert server.process is not None
    server.process.terminate()
    server.process.wait()


async def waiting(bus: NatsBus) -> int | None:
    try:
        return (await bus.jetstream.stream_info(WORK.name)).state.messages
    except Exception:
        return None


def lose_what_was_new(server: NatsServer) -> None:
    """What a file system keeps of files that were written and never forced to disk: their names."""
    server.kill()
    for pattern in SCRAPS:
        for file in remains(server, pattern):
            file.write_bytes(b"")
    server.start()


def remains(server: NatsServer, pattern: str) -> list[Path]:
    """The broker's own files of the work stream."""
    return list((server.folder / "js" / "jetstream" / "$G" / "streams" / WORK.name).rglob(pattern))
