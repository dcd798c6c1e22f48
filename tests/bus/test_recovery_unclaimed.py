"""Commands on subjects that nobody consumes: buried, while what somebody consumes is left alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engram_contracts.events import JobTrouble
from engram_contracts.topology import JOBS, WORK, Consumer, work_subject
from engram_recovery.unclaimed import bury_unclaimed, unclaimed
from engram_runtime.bus import Entry
from engram_runtime.nats_bus import NatsBus
from engram_runtime.provision import provision
from support.burying import connected, forget, listed, recovering
from support.servers import NatsServer, nats_server

ALIENS = ("engram.work.x9.forget.acme", "engram.work.i0.dance.acme", "engram.work.i0.erase.acme", "engram.work.odd")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[tuple[NatsServer, NatsBus]]:
    with nats_server(tmp_path / "nats") as server:
        async with connected(server) as bus:
            yield server, bus


async def test_a_command_that_nobody_consumes_is_dead_with_its_bytes_and_its_job_says_so(broker) -> None:
    server, bus = broker
    _, entry = forget()
    aliens = [Entry(subject=subject, body=b"?", id=f"alien-{n}") for n, subject in enumerate(ALIENS)]
    await bus.append([entry, *aliens])
    soon = datetime.now(UTC) + timedelta(seconds=10)

    early = await bury_unclaimed(bus, before=soon - timedelta(days=1))
    gone = [await bury_unclaimed(bus, before=soon) for _ in range(2)]

    async with recovering(server):
        letters = await listed(bus)
    job = JobTrouble.model_validate_json(await bus.bucket(JOBS).get("acme.alien-1") or b"")
    left = await bus.archive(WORK).subjects(">")
    assert (early, gone) == (0, [len(ALIENS), 0])
    assert sorted((letter.subject, letter.tenant) for letter in letters) == sorted(
        (subject, "_system" if subject.endswith("odd") else "acme") for subject in ALIENS
    )
    assert {letter.reason.partition(";")[0] for letter in letters} == {"nobody consumes this subject"}
    assert (job.state, job.dead_sequence in {letter.sequence for letter in letters}) == ("dead", True)
    assert left == {work_subject("acme", "forget"): 1}


async def test_what_a_newer_worker_consumes_is_left_alone(broker) -> None:
    _, bus = broker
    newer = Consumer(name="dancer", stream=WORK, filters=("engram.work.*.dance.*",))
    await provision(bus.jetstream, consumers=(newer,))
    await bus.append([Entry(subject="engram.work.i0.dance.acme", body=b"?", id="new")])

    assert await bury_unclaimed(bus, before=datetime.now(UTC) + timedelta(days=1)) == 0


@pytest.mark.parametrize(
    ("subject", "pattern", "means"),
    [
        ("engram.work.i0.a.b", "engram.work.i0.a.*", True), ("engram.work.i0.a.b", "engram.work.*.a.b", True),
        ("engram.work.i0.a.b", "engram.>", True), ("engram.work.i0.a.b", "engram.work.i0.a", False),
        ("engram.work.i0.a.b", "engram.work.i0.a.b.>", False), ("engram.work.i0.a.b", "engram.work.i1.a.*", False),
    ],
)  # fmt: skip
def test_patterns_mean_what_they_mean_to_the_broker(subject: str, pattern: str, means: bool) -> None:
    assert unclaimed([subject], {pattern}) == ([] if means else [subject])
