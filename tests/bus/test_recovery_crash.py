"""A replay whose worker is killed and stopped on the way: each message once in effect, at the rate, to the end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from engram_contracts.recovery import Selection, StartReplay
from engram_contracts.topology import WORK
from support.burying import buried, connected, ended, letters_there, recovery_process, until, working
from support.servers import nats_server

COUNT, RATE = 300, 50.0


@pytest.fixture
def broker(tmp_path: Path):
    with nats_server(tmp_path / "nats") as server:
        yield server


async def test_a_replay_outlives_its_workers_and_doubles_nothing(broker, tmp_path):
    handled: Counter[str] = Counter()
    sent: list[float] = []

    async def handle(batch):
        handled.update(item.message.id for item in batch)
        sent.extend(item.at.timestamp() for item in batch)
        return [None] * len(batch)

    async with connected(broker) as bus:
        commands = await buried(broker, bus, COUNT)
        async with working(broker, handle):
            with recovery_process(broker, tmp_path) as killed:
                await until(lambda: answers(bus))
                begun = await bus.ask(StartReplay(tenant="acme", selection=Selection(all=True), rate=RATE), within=5.0)
                await until(lambda: handled.total() > COUNT * 0.3)
                killed.kill()
            with recovery_process(broker, tmp_path) as stopped:
                await until(lambda: handled.total() > COUNT * 0.7)
                stopped.terminate()
                code = stopped.wait(10.0)
            with recovery_process(broker, tmp_path):
                status = await ended(bus, begun, seconds=40.0)
                await until(lambda: len(handled), COUNT)
        left, waiting = await letters_there(bus), (await bus.jetstream.stream_info(WORK.name)).state.messages

    assert code == 0
    assert handled == Counter(command.id for command in commands)
    assert (status.state, status.replayed, status.skipped, status.failed) == ("done", COUNT, 0, 0)
    assert (left, waiting) == (0, 0)
    assert measured(sorted(sent)) < RATE * 1.1
    assert status.per_second == pytest.approx(measured(sorted(sent)), rel=0.1)


async def answers(bus) -> bool:
    try:
        await bus.ping("recovery", within=0.5)
    except Exception:
        return False
    return True


def measured(times: list[float]) -> float:
    """Messages a second, from the first to the last, pauses included."""
    return (len(times) - 1) / (times[-1] - times[0])
