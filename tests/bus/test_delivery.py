"""Work and log delivery on a real broker: nothing lost, nothing twice in effect, nothing stuck."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engram_contracts.commands import Forget
from engram_contracts.errors import Internal, NotFound, Rejected, Unavailable
from engram_contracts.events import JobTrouble
from engram_contracts.facts import Forgotten
from engram_contracts.ids import new_id, partition_of
from engram_contracts.questions import Count, CountRecorded
from engram_contracts.topology import EMBED_NOW, GRAPH_LOG, JOBS, WORK, log_subject, work_subject
from engram_runtime.bus import Appended, Entry
from engram_runtime.host import hosted
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import provision
from engram_runtime.service import Following, Service, Taking
from engram_runtime.settings import Common, NatsSettings
from support.servers import NatsServer, nats_server


@pytest.fixture
def broker(tmp_path: Path):
    with nats_server(tmp_path / "nats") as server:
        yield server


@contextlib.asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[NatsBus]:
    async with open_bus(NatsSettings(url=server.url), name="test", durability="process") as bus:
        yield bus


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def forget(tenant: str = "acme") -> tuple[Forget, Entry]:
    command = Forget(id=new_id(), accepted_at=datetime.now(UTC), memory_id=new_id())
    return command, Entry(subject=work_subject(tenant, "forget"), body=command.encode(), id=command.id)


def lane(entry: Entry):
    return next(c for c in EMBED_NOW if c.filters[0].split(".")[2] == entry.subject.split(".")[2])


def taking(handler, entry: Entry) -> Service:
    return Service(name="embedder", takes=(Taking(consumer=lane(entry), handler=handler, commands=(Forget,)),))


async def queued(bus: NatsBus, *, settles_at: int = 0) -> int:
    """Messages in the work queue once it holds `settles_at` (the server removes acknowledged ones a moment later)."""
    deadline = asyncio.get_running_loop().time() + 5
    while True:
        left = (await bus.jetstream.stream_info(WORK.name)).state.messages
        if left == settles_at or asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(0.01)


async def test_provisioning_again_changes_nothing(broker):
    async with connected(broker) as bus:
        first = await provision(bus.jetstream)
        again = await provision(bus.jetstream)

    assert {drift.kind for drift in first} == {"created"}
    assert again == []


async def test_drift_is_mended_where_safe_and_reported_where_not(broker):
    async with connected(broker) as bus:
        await provision(bus.jetstream)
        info = await bus.jetstream.stream_info(WORK.name)
        info.config.max_msgs_per_subject = 5
        await bus.jetstream.update_stream(info.config)

        reported = await provision(bus.jetstream, mend=False)
        mended = await provision(bus.jetstream)
        after = await bus.jetstream.stream_info(WORK.name)

    assert [(d.name, d.kind) for d in reported] == [(WORK.name, "differs")]
    assert [(d.name, d.kind) for d in mended] == [(WORK.name, "updated")]
    assert after.config.max_msgs_per_subject == WORK.per_subject


async def test_work_is_handled_once_and_leaves_the_queue(broker):
    seen: list[str] = []

    async def handle(batch):
        seen.extend(item.message.id for item in batch)
        return [None] * len(batch)

    made = [forget() for _ in range(300)]
    async with connected(broker) as bus:
        await provision(bus.jetstream)
        async with hosted(taking(handle, made[0][1]), bus, Common()):
            outcomes = await bus.append([entry for _, entry in made])
            await until(lambda: len(seen) >= 300)
        left = await queued(bus)

    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    assert sorted(seen) == sorted(command.id for command, _ in made)
    assert left == 0


async def test_one_undecodable_message_is_buried_and_spoils_no_other(broker):
    seen: list[str] = []

    async def handle(batch):
        seen.extend(item.message.id for item in batch)
        return [None] * len(batch)

    good = [forget() for _ in range(5)]
    bad = Entry(subject=good[0][1].subject, body=b'{"nonsense": ', id=new_id())
    async with connected(broker) as bus:
        await provision(bus.jetstream)
        await bus.append([good[0][1], bad, *(entry for _, entry in good[1:])])
        async with hosted(taking(handle, bad), bus, Common()):
            await until(lambda: len(seen) >= 5)
            dead = await dead_letter(bus, "embedder")
        left = await queued(bus)

    assert dead.data == bad.body
    assert dead.headers["Engram-Dead-Why"] == "never"
    assert dead.headers["Engram-Original-Nats-Msg-Id"] == bad.id
    assert left == 0


async def dead_letter(bus: NatsBus, stage: str, tenant: str = "acme"):
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Exception):
                return await bus.jetstream.get_last_msg("ENGRAM_DEAD", f"engram.dead.{stage}.{tenant}")
            await asyncio.sleep(0.02)


async def test_a_transient_failure_is_retried_and_the_job_says_so(broker):
    tries: list[str] = []
    command, entry = forget()

    async def handle(batch):
        tries.extend(item.message.id for item in batch)
        return [Internal("the model hiccuped") if len(tries) < 3 else None]

    async with connected(broker) as bus:
        await provision(bus.jetstream)
        await bus.append([entry])
        async with hosted(taking(handle, entry), bus, Common()):
            await until(lambda: len(tries) == 3)
        trouble = await bus.bucket(JOBS).get(f"acme.{command.id}")
        left = await queued(bus)

    assert trouble is not None and b"the model hiccuped" in trouble
    assert JobTrouble.model_validate_json(trouble).attempt == 3
    assert left == 0


async def test_what_can_never_work_is_buried_after_one_try(broker):
    tries = 0
    _, entry = forget()

    async def handle(batch):
        nonlocal tries
        tries += 1
        return [Rejected("no such thing", field="memory_id")]

    async with connected(broker) as bus:
        await provision(bus.jetstream)
        await bus.append([entry])
        async with hosted(taking(handle, entry), bus, Common()):
            dead = await dead_letter(bus, "embedder")
        left = await queued(bus)

    assert tries == 1
    assert dead.data == entry.body
    assert dead.headers["Engram-Dead-Code"] == "INVALID_REQUEST"
    assert left == 0


async def test_stopping_hands_prefetched_work_to_the_next_worker_at_once(broker):
    release = asyncio.Event()
    seen: list[str] = []

    async def slow(batch):
        await release.wait()
        seen.extend(item.message.id for item in batch)
        return [None] * len(batch)

    async def quick(batch):
        seen.extend(item.message.id for item in batch)
        return [None] * len(batch)

    made = [forget() for _ in range(200)]
    async with connected(broker) as bus:
        await provision(bus.jetstream)
        await bus.append([entry for _, entry in made])
        async with connected(broker) as first, hosted(taking(slow, made[0][1]), first, Common()):
            await asyncio.sleep(0.2)
            release.set()
        started = asyncio.get_running_loop().time()
        async with connected(broker) as second, hosted(taking(quick, made[0][1]), second, Common()):
            await until(lambda: len(seen) >= 200)
        took = asyncio.get_running_loop().time() - started
        left = await queued(bus)

    assert sorted(seen) == sorted(command.id for command, _ in made)
    assert left == 0
    assert took < 5, "prefetched messages waited for ack_wait"


async def test_work_goes_on_after_the_broker_was_killed(broker):
    seen: set[str] = set()

    async def handle(batch):
        seen.update(item.message.id for item in batch)
        return [None] * len(batch)

    before, after = [forget() for _ in range(50)], [forget() for _ in range(50)]
    async with connected(broker) as bus:
        await provision(bus.jetstream)
        async with hosted(taking(handle, before[0][1]), bus, Common()):
            await bus.append([entry for _, entry in before])
            await until(lambda: len(seen) >= 50)
            broker.kill()
            broker.start()
            outcomes = await bus.append([entry for _, entry in after])
            await until(lambda: len(seen) >= 100)

    assert all(isinstance(outcome, Appended) for outcome in outcomes)
    assert seen == {command.id for command, _ in before + after}


async def test_a_follower_applies_the_log_in_order_and_once_through_failures_and_restarts(broker):
    applied: list[int] = []
    failures = iter([3, 7])

    async def handle(batch):
        if len(applied) >= next(failures, 10**9):
            raise RuntimeError("the store hiccuped")
        applied.extend(int(item.message.memory_id) for item in batch)
        position[0] = batch[-1].sequence
        return [None] * len(batch)

    async def stored() -> int:
        return position[0]

    position = [0]
    consumer = GRAPH_LOG[partition_of("acme")]
    service = Service(
        name="graph",
        follows=(Following(consumer=consumer, handler=handle, position=stored, messages={"forgotten": Forgotten}),),
    )
    async with connected(broker) as bus:
        await provision(bus.jetstream)
        async with hosted(service, bus, Common()):
            for start in range(0, 400, 20):
                await bus.append([log_entry(n) for n in range(start, start + 20)])
                if start == 200:
                    broker.kill()
                    broker.start()
            await until(lambda: len(applied) >= 400, seconds=20)

    assert applied == list(range(400))


def log_entry(number: int) -> Entry:
    now = datetime.now(UTC)
    fact = Forgotten(command=new_id(), accepted_at=now, at=now, memory_id=str(number))
    return Entry(subject=log_subject("acme", "forgotten"), body=fact.encode(), id=fact.command)


async def test_a_question_is_answered_or_fails_with_the_answerers_error(broker):
    async def count(question: CountRecorded) -> Count:
        if question.tenant == "nobody":
            raise NotFound("no such tenant")
        return Count(memories=7)

    async with connected(broker) as bus:
        await provision(bus.jetstream)
        async with hosted(Service(name="graph", answers={CountRecorded: count}), bus, Common()):
            reply = await bus.ask(CountRecorded(tenant="acme"), within=1.0)
            with pytest.raises(NotFound, match="no such tenant"):
                await bus.ask(CountRecorded(tenant="nobody"), within=1.0)
            pong = await bus.ping("graph", within=1.0)
        with pytest.raises(Unavailable, match="graph is not running"):
            await bus.ask(CountRecorded(tenant="acme"), within=1.0)

    assert reply.memories == 7
    assert pong.ready and pong.metrics_url


@pytest.mark.parametrize("durability", ["power", "process"])
async def test_a_repeated_append_is_one_message_and_answers_the_same_sequence(broker, durability):
    made = [forget() for _ in range(10)]
    async with open_bus(NatsSettings(url=broker.url), name="test", durability=durability) as bus:
        await provision(bus.jetstream)
        first = await bus.append([entry for _, entry in made])
        again = await bus.append([entry for _, entry in made] + [forget()[1]])
        left = await queued(bus, settles_at=11)

    assert [o.sequence for o in again[:10]] == [o.sequence for o in first]
    assert [o.duplicate for o in again] == [True] * 10 + [False]
    assert left == 11


async def test_while_a_dependency_is_away_work_is_held_and_burns_no_tries(broker):
    away, tries, seen = True, 0, []

    async def handle(batch):
        nonlocal tries
        tries += 1
        if away:
            return [Unavailable("the model is away")] * len(batch)
        seen.extend(item.message.id for item in batch)
        return [None] * len(batch)

    made = [forget() for _ in range(40)]
    async with connected(broker) as bus:
        await provision(bus.jetstream)
        await bus.append([entry for _, entry in made])
        async with hosted(taking(handle, made[0][1]), bus, Common()) as health:
            await until(lambda: tries >= 3)
            held = await health.pong()
            away = False
            await until(lambda: len(seen) >= 40)
            after = await health.pong()
        left = await queued(bus)
        troubles = [await bus.bucket(JOBS).get(f"acme.{command.id}") for command, _ in made]

    assert not held.ready and "the model is away" in held.checks["work"].detail
    assert after.ready
    assert tries <= 8, "a held batch is probed one message at a time"
    assert {JobTrouble.model_validate_json(trouble).attempt for trouble in troubles if trouble} <= {1}
    assert left == 0
