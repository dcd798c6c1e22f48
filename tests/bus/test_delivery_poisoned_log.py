"""A fact that ends or hangs its follower is buried in the end, and the log goes on behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engram_contracts.errors import Rejected
from engram_contracts.facts import Forgotten
from engram_contracts.ids import new_id, partition_of
from engram_contracts.topology import MOST_BYTES, log_subject, work_subject
from engram_runtime.bus import Entry
from support.burying import connected, letters_there, until, working
from support.log_worker import POISON
from support.servers import ROOT, NatsServer, nats_server

TENANT = "acme"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as running:
        yield running


async def test_a_fact_that_hangs_its_follower_is_buried_and_the_log_goes_on(server: NatsServer, tmp_path: Path) -> None:
    store = tmp_path / "applied"
    store.touch()
    names = [f"m{n}" for n in range(30)]
    names[11] = POISON
    async with connected(server) as bus:
        await bus.append([fact(name) for name in names])
        async with asyncio.timeout(90):
            while applied(store) < 29:
                await worked(server, store, wanted=29)
        await bus.append([fact("after")])
        await worked(server, store, wanted=30)
        dead = await bus.jetstream.get_last_msg("ENGRAM_DEAD", f"engram.dead.graph.{TENANT}")
        letters = await letters_there(bus)

    stored = [line.split()[1] for line in store.read_text().splitlines()]
    assert stored == [name for name in [*names, "after"] if name != POISON]
    assert letters == 1
    assert dead.headers["Engram-Dead-Sequence"] == "12"
    assert "ended the worker" in dead.headers["Engram-Dead-Reason"]


async def test_what_could_not_be_buried_is_not_taken(server: NatsServer) -> None:
    large = Entry(subject=work_subject(TENANT, "forget"), body=b"x" * MOST_BYTES, id=new_id())
    fits = Entry(subject=large.subject, body=b"x" * (MOST_BYTES - 1_000), id=new_id())

    async def take(batch):
        return [None] * len(batch)

    async with connected(server) as bus:
        refused, taken = await bus.append([large, fits])
        async with working(server, take):
            await until(lambda: letters_there(bus), 1)
        dead = await bus.jetstream.get_last_msg("ENGRAM_DEAD", "engram.dead.embedder.*")

    assert isinstance(refused, Rejected)
    assert not isinstance(taken, Exception)
    assert dead.data == fits.body


def fact(name: str) -> Entry:
    now = datetime.now(UTC)
    made = Forgotten(command=new_id(), accepted_at=now, at=now, memory_id=name)
    return Entry(subject=log_subject(TENANT, "forgotten"), body=made.encode(), id=made.command)


def applied(store: Path) -> int:
    return len(store.read_text().splitlines())


async def worked(server: NatsServer, store: Path, *, wanted: int) -> None:
    """Run a worker until it ends by itself, or has applied what is wanted."""
    with worker(server, store) as process:
        async with asyncio.timeout(30):
            while process.poll() is None and applied(store) < wanted:
                await asyncio.sleep(0.01)


@contextlib.contextmanager
def worker(server: NatsServer, store: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "support.log_worker", server.url, str(store), str(partition_of(TENANT))]
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    with store.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
