"""Replay on a real broker: another try for what was buried, once in effect, in order, and only of one's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engram_contracts.commands import Forget, Remember
from engram_contracts.errors import Conflict, EngramError, Forbidden, NotFound, Rejected
from engram_contracts.events import JobTrouble
from engram_contracts.facts import Forgotten
from engram_contracts.ids import new_id, partition_of
from engram_contracts.memory import MemoryFields
from engram_contracts.recovery import (
    CancelReplay,
    ListReplays,
    Replay,
    ReplayRecord,
    Selection,
    ShowDead,
    StartReplay,
    StatusReplay,
)
from engram_contracts.topology import DEAD, GRAPH_LOG, JOBS, REPLAYS, WORK, dead_subject, log_subject, work_subject
from engram_recovery.letters import message_id
from engram_runtime.bus import Entry
from engram_runtime.host import hosted
from engram_runtime.service import Following, Service
from engram_runtime.settings import Common
from support.burying import (
    buried,
    connected,
    ended,
    forget,
    letters_there,
    listed,
    recovering,
    refuse,
    replay,
    until,
    working,
)
from support.servers import nats_server


@pytest.fixture
def broker(tmp_path: Path):
    with nats_server(tmp_path / "nats") as server:
        yield server


class Worker:
    """Takes everything; `handled` counts by command id, in the order it came."""

    def __init__(self) -> None:
        self.handled: Counter[str] = Counter()
        self.times: list[float] = []

    async def handle(self, batch):
        self.handled.update(item.message.id for item in batch)
        self.times += [time.monotonic()] * len(batch)
        return [None] * len(batch)


async def test_what_is_replayed_is_handled_and_gone_and_its_job_is_on_its_way_again(broker):
    worker = Worker()
    async with connected(broker) as bus, recovering(broker):
        commands = await buried(broker, bus, 20)

        status = await replay(bus, "acme", selection={"all": True})
        trouble = JobTrouble.model_validate_json(await bus.bucket(JOBS).get(f"acme.{commands[0].id}") or b"")
        waiting = await bus.read(WORK, trouble.work_sequence or 0)
        async with working(broker, worker.handle):
            await until(lambda: len(worker.handled), 20)
        left = await letters_there(bus)

    assert (status.state, status.replayed, status.skipped, status.failed, status.swallowed) == ("done", 20, 0, 0, 0)
    assert left == 0
    assert worker.handled == Counter(command.id for command in commands)
    assert (trouble.state, trouble.reason, trouble.attempt) == ("retrying", "replayed", 0)
    assert waiting is not None and json.loads(waiting.body)["id"] == commands[0].id


async def test_a_message_is_sent_again_as_it_was_under_a_fresh_id_and_says_what_it_is(broker):
    command, entry = forget()
    entry = Entry(subject=entry.subject, body=entry.body, id=entry.id, correlation="c-1", headers={"Mine": "kept"})
    async with connected(broker) as bus, recovering(broker):
        async with working(broker, refuse):
            await bus.append([entry])
            await until(lambda: letters_there(bus), 1)

        status = await replay(bus, selection={"sequences": [1]})
        sent = await bus.read(WORK, 3)  # after the command and the replay

    assert sent is not None
    assert (sent.subject, sent.body) == (entry.subject, entry.body)
    assert sent.headers["Mine"] == "kept" and sent.headers["Engram-Correlation"] == "c-1"
    assert sent.headers["Engram-Replay-Of"] == "1" and sent.headers["Engram-Replay"] == status.id
    assert sent.id not in (None, command.id)


async def test_only_what_is_chosen_is_replayed(broker):
    async with connected(broker) as bus, recovering(broker):
        await buried(broker, bus, 6)
        await buried(broker, bus, 2, tenant="zeta")

        named = await replay(bus, selection={"sequences": [2, 4]})
        filtered = await replay(bus, selection={"filter": {"tenant": "zeta", "code": "INVALID_REQUEST"}})
        none = await replay(bus, selection={"filter": {"code": "NOT_FOUND"}})
        left = [letter.sequence for letter in await listed(bus)]

    assert (named.replayed, filtered.replayed, none.replayed) == (2, 2, 0)
    assert left == [1, 3, 5, 6]


async def test_a_dry_run_counts_and_changes_nothing(broker):
    async with connected(broker) as bus, recovering(broker):
        commands = await buried(broker, bus, 30)
        jobs = [await bus.bucket(JOBS).get(f"acme.{command.id}") for command in commands]
        before = await listed(bus)

        status = await replay(bus, "acme", selection={"all": True}, dry_run=True, rate=1)
        after = await listed(bus)
        work = (await bus.jetstream.stream_info(WORK.name)).state
        jobs_after = [await bus.bucket(JOBS).get(f"acme.{command.id}") for command in commands]

    assert (status.state, status.replayed) == ("done", 30)
    assert after == before and jobs_after == jobs
    assert work.last_seq == 31, "the commands and the replay itself, nothing more"


async def test_an_edit_that_does_not_fit_names_the_field_and_changes_nothing(broker):
    async with connected(broker) as bus, recovering(broker):
        memory = Remember(id=new_id(), accepted_at=datetime.now(UTC), memory_id="m", memory=MemoryFields(content="x"))
        await bus.append([letter(work_subject("acme", "remember"), memory.encode())])
        good = json.loads(memory.encode())

        bad = {
            "payload.memory.content": {**good, "memory": {"content": ""}},
            "payload.memory_id": {name: value for name, value in good.items() if name != "memory_id"},
            "payload.colour": {**good, "colour": "red"},
            "payload.memory.mood": {**good, "memory": {"content": "x", "mood": "calm"}},
            "payload.id": {**good, "id": new_id()},
            "payload.accepted_at": {**good, "accepted_at": "yesterday"},
            "payload.v": {**good, "v": 99},
        }
        fields = {}
        for field, payload in bad.items():
            with pytest.raises(Rejected) as refused:
                await bus.ask(ask("acme", sequences=[1], payload=payload), within=5.0)
            fields[field] = refused.value.field
        with pytest.raises(EngramError, match="exactly one"):
            await raw(bus, {"tenant": "acme", "selection": {"all": True}, "payload": good})
        left = await letters_there(bus)

    assert fields == {field: field for field in bad}
    assert left == 1


async def raw(bus, body: dict) -> None:
    message = await bus.client.request("engram.rpc.recovery.start-replay", json.dumps(body).encode(), timeout=5)
    failure = json.loads(message.data)
    raise Rejected(failure["message"])


def ask(tenant: str, *, sequences: list[int], **how: object) -> StartReplay:
    return StartReplay.model_validate({"tenant": tenant, "selection": {"sequences": sequences}, **how})


def letter(subject: str, body: bytes, *, stage: str = "embedder", **headers: str) -> Entry:
    said = {"Engram-Dead-Subject": subject, "Engram-Dead-Code": "INVALID_REQUEST", "Engram-Dead-Reason": "no"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Entry(subject=dead_subject(stage, "acme"), body=body, id=new_id(), headers={**said, **named})


async def test_what_was_mended_by_hand_takes_effect(broker):
    mended: list[Forget] = []

    async def only_known(batch):
        mended.extend(item.message for item in batch if item.message.memory_id == "known")
        return [None if i.message.memory_id == "known" else Rejected("unknown memory") for i in batch]

    async with connected(broker) as bus, recovering(broker):
        [command] = await buried(broker, bus, 1, handle=only_known)
        shown = await bus.ask(ShowDead(tenant="acme", sequence=1), within=5.0)
        async with working(broker, only_known):
            status = await replay(
                bus, "acme", selection={"sequences": [1]}, payload={**shown.body, "memory_id": "known"}, actor="ann"
            )
            await until(lambda: len(mended), 1)
        left = await letters_there(bus)

    assert status.edited and status.actor == "ann" and status.replayed == 1
    assert mended[0].id == command.id
    assert left == 0


async def test_an_entry_that_fails_again_keeps_its_history_and_is_left_alone_by_the_same_replay(broker):
    reasons = iter(("second", "third", "fourth"))

    async def refuse_anew(batch):
        return [Conflict(next(reasons)) for _ in batch]

    async with connected(broker) as bus, recovering(broker):
        [command] = await buried(broker, bus, 1)
        async with working(broker, refuse_anew):
            first = await replay(bus, "acme", selection={"all": True})
            await until(lambda: letters_there(bus), 1)
            second = await replay(bus, "acme", selection={"all": True})
            await until(lambda: letters_there(bus), 1)
        [last] = await listed(bus)
        shown = await bus.ask(ShowDead(tenant="acme", sequence=last.sequence), within=5.0)

    assert (first.replayed, second.replayed) == (1, 1)
    assert last.command == shown.body["id"] == command.id
    assert shown.headers["Nats-Msg-Id"] != command.id
    assert (last.reason, last.replays) == ("third", 2)
    assert [failure.reason for failure in shown.history] == [f"no memory {command.memory_id}", "second"]
    assert [failure.code for failure in shown.history] == ["INVALID_REQUEST", "CONFLICT"]
    assert [failure.replay for failure in shown.history] == [first.id, second.id]
    assert [failure.sequence for failure in shown.history] == [1, 2]
    assert "Engram-Dead-History" not in shown.headers


async def test_dead_letters_of_another_tenant_cannot_be_chosen(broker):
    async with connected(broker) as bus, recovering(broker):
        await buried(broker, bus, 3)
        await buried(broker, bus, 1, tenant="zeta")

        with pytest.raises(NotFound, match="no dead letter 1"):
            await bus.ask(ask("zeta", sequences=[4, 1]), within=5.0)
        with pytest.raises(Forbidden):
            await replay(bus, "zeta", selection={"filter": {"tenant": "acme"}})
        everything = await replay(bus, "zeta", selection={"all": True})
        left = [found.tenant for found in await listed(bus)]

    assert everything.replayed == 1
    assert left == ["acme"] * 3


async def test_a_command_sent_past_the_questions_reaches_no_further(broker):
    chosen = Selection(sequences=(1, 4))
    other = Selection.model_validate({"filter": {"tenant": "acme"}})
    async with connected(broker) as bus, recovering(broker):
        await buried(broker, bus, 3)
        await buried(broker, bus, 1, tenant="zeta")

        skipping, forbidden = [
            Replay(id=new_id(), accepted_at=datetime.now(UTC), selection=selection) for selection in (chosen, other)
        ]
        await bus.append([command_entry("zeta", skipping), command_entry("zeta", forbidden)])
        await until(lambda: states(bus, "zeta"), {"done", "failed"})
        status = await bus.ask(StatusReplay(tenant="zeta", id=skipping.id), within=5.0)
        failed = await bus.ask(StatusReplay(tenant="zeta", id=forbidden.id), within=5.0)
        await until(lambda: letters_there(bus), 4)  # three of acme, and the command that was forbidden
        left = await listed(bus)

    assert (status.state, status.replayed, status.skipped) == ("done", 1, 1)
    assert (failed.state, failed.replayed) == ("failed", 0) and "acme" in (failed.reason or "")
    assert [(found.stage, found.tenant) for found in left] == [("embedder", "acme")] * 3 + [("recovery", "zeta")]


async def states(bus, tenant: str) -> set[str]:
    return {found.state for found in (await bus.ask(ListReplays(tenant=tenant), within=5.0)).replays}


def command_entry(tenant: str, command: Replay) -> Entry:
    return Entry(subject=work_subject(tenant, "replay"), body=command.encode(), id=command.id)


async def test_replays_belong_to_who_asked_for_them(broker):
    async with connected(broker) as bus, recovering(broker):
        await buried(broker, bus, 1)
        own = await replay(bus, "acme", selection={"all": True}, dry_run=True)
        all_of_them = await replay(bus, selection={"all": True}, dry_run=True)

        with pytest.raises(NotFound):
            await bus.ask(StatusReplay(tenant="zeta", id=own.id), within=5.0)
        with pytest.raises(NotFound):
            await bus.ask(CancelReplay(tenant="zeta", id=own.id), within=5.0)
        zeta, acme, system = [
            [found.id for found in (await bus.ask(ListReplays(tenant=tenant), within=5.0)).replays]
            for tenant in ("zeta", "acme", "_system")
        ]

    assert (zeta, acme, system) == ([], [own.id], [all_of_them.id, own.id])


async def test_asking_again_under_the_same_id_replays_nothing_twice(broker):
    worker, identity = Worker(), new_id()
    async with connected(broker) as bus, recovering(broker), working(broker, worker.handle):
        await bus.append([letter(entry.subject, entry.body) for _, entry in (forget() for _ in range(5))])

        first = await replay(bus, "acme", selection={"all": True}, id=identity)
        again = await replay(bus, "acme", selection={"all": True}, id=identity)
        command = Replay(id=identity, accepted_at=datetime.now(UTC), selection=Selection(all=True))
        await bus.append([Entry(subject=work_subject("acme", "replay"), body=command.encode(), id=new_id())])
        await until(lambda: queued(bus), 0)

    assert again == first
    assert list(worker.handled.values()) == [1] * 5


async def queued(bus) -> int:
    return (await bus.jetstream.stream_info(WORK.name)).state.messages


async def test_a_replay_stops_within_a_second_of_being_cancelled(broker):
    async with connected(broker) as bus, recovering(broker):
        await buried(broker, bus, 10)
        begun = await bus.ask(StartReplay(tenant="acme", selection=Selection(all=True), rate=1.0), within=5.0)
        await until(lambda: letters_there(bus), 9)

        asked = time.monotonic()
        answer = await bus.ask(CancelReplay(tenant="acme", id=begun.id), within=5.0)
        status = await ended(bus, begun)
        took = time.monotonic() - asked
        again = await bus.ask(CancelReplay(tenant="acme", id=begun.id), within=5.0)
        left = await letters_there(bus)

    assert answer.cancelling or answer.state == "cancelled"
    assert status.state == again.state == "cancelled" and not again.cancelling
    assert took < 1.5, "a second, and the time to notice"
    assert left == 10 - status.replayed


async def test_a_full_queue_is_waited_for_in_order_and_the_replay_says_so(broker):
    seen: list[str] = []

    async def slow(batch):
        seen.extend(item.message.id for item in batch)
        return [None] * len(batch)

    async with connected(broker) as bus, recovering(broker):
        commands = [command for command, _ in (forget() for _ in range(40))]
        await bus.append([letter(work_subject("acme", "forget"), command.encode()) for command in commands])
        config = (await bus.jetstream.stream_info(WORK.name)).config
        config.max_msgs_per_subject = 15
        await bus.jetstream.update_stream(config)

        begun = await bus.ask(StartReplay(tenant="acme", selection=Selection(all=True)), within=5.0)
        await until(
            lambda: waiting_for(bus, begun.id), "too much of this tenant's work is waiting; slow down and try again"
        )
        async with working(broker, slow):
            status = await ended(bus, begun)
            await until(lambda: len(seen), 40)

    assert (status.state, status.replayed, status.failed, status.waiting) == ("done", 40, 0, None)
    assert seen == [command.id for command in commands]


async def waiting_for(bus, identity: str) -> str | None:
    return (await bus.ask(StatusReplay(tenant="acme", id=identity), within=5.0)).waiting


async def test_what_the_broker_swallows_stays_among_the_dead_letters(broker):
    identity, salt = new_id(), "grain"
    async with connected(broker) as bus:
        await bus.append([letter(entry.subject, entry.body) for _, entry in (forget() for _ in range(3))])
        command = Replay(id=identity, accepted_at=datetime.now(UTC), selection=Selection(all=True))
        now = datetime.now(UTC)
        record = ReplayRecord(
            id=identity, tenant="acme", selection=command.selection, accepted_at=now, updated_at=now, salt=salt
        )
        await bus.bucket(REPLAYS).create(f"acme.{identity}", record.encode())
        foreign = Entry(subject=work_subject("acme", "forget"), body=b"foreign", id=message_id(identity, salt, 2))
        await bus.append([foreign, command_entry("acme", command)])
        async with recovering(broker):
            status = await ended(bus, record.status())
        left = await bus.archive(DEAD).read(1, pattern="engram.dead.>", limit=10)

    assert (status.replayed, status.swallowed) == (2, 1)
    assert [found.sequence for found in left] == [2]
    assert [refusal.sequence for refusal in status.refusals] == [2]


async def test_a_dead_letter_that_belongs_nowhere_stays_and_is_counted(broker):
    _, entry = forget("zeta")
    async with connected(broker) as bus, recovering(broker):
        await bus.append([letter("elsewhere.entirely", b"{}"), letter(entry.subject, entry.body)])

        status = await replay(bus, "acme", selection={"all": True})
        left = await letters_there(bus)

    assert (status.state, status.replayed, status.failed) == ("done", 0, 2)
    assert [refusal.sequence for refusal in status.refusals] == [1, 2]
    assert left == 2


async def test_tries_of_the_first_life_do_not_wear_out_the_second(broker):
    command, entry = forget()
    long_ago = datetime.now(UTC) - timedelta(minutes=5)
    worn = JobTrouble(state="retrying", stage="embedder", attempt=8, reason="away", code="UNAVAILABLE", at=long_ago)
    async with connected(broker) as bus, recovering(broker):
        await bus.append([letter(entry.subject, entry.body)])
        await bus.bucket(JOBS).put(f"acme.{command.id}", worn.encode())

        await replay(bus, "acme", selection={"all": True})
        after = JobTrouble.model_validate_json(await bus.bucket(JOBS).get(f"acme.{command.id}") or b"")

    assert (after.state, after.attempt, after.reason) == ("retrying", 0, "replayed")


async def test_a_fact_that_a_follower_gave_up_is_told_again(broker):
    applied: list[str] = []
    refusing = True

    async def handle(batch):
        outcomes = [Rejected("not now") if refusing else None for _ in batch]
        applied.extend(i.message.memory_id for i, outcome in zip(batch, outcomes, strict=True) if outcome is None)
        position[0] = batch[-1].sequence
        return outcomes

    async def stored() -> int:
        return position[0]

    position, now = [0], datetime.now(UTC)
    consumer = GRAPH_LOG[partition_of("acme")]
    service = Service(
        name="graph",
        follows=(Following(consumer=consumer, handler=handle, position=stored, messages={"forgotten": Forgotten}),),
    )
    fact = Forgotten(command=new_id(), accepted_at=now, at=now, memory_id="m-1")
    async with connected(broker) as bus, recovering(broker), connected(broker, provisioned=False) as own:
        async with hosted(service, own, Common()):
            await bus.append([Entry(subject=log_subject("acme", "forgotten"), body=fact.encode(), id=fact.command)])
            await until(lambda: letters_there(bus), 1)
            refusing = False
            status = await replay(bus, "acme", selection={"all": True})
            await until(lambda: applied, ["m-1"])
        left = await letters_there(bus)

    assert status.replayed == 1 and left == 0


async def test_stopping_hands_a_replay_to_the_next_worker(broker):
    worker = Worker()
    async with connected(broker) as bus, working(broker, worker.handle):
        commands = [command for command, _ in (forget() for _ in range(60))]
        await bus.append([letter(work_subject("acme", "forget"), command.encode()) for command in commands])
        async with recovering(broker):
            begun = await bus.ask(StartReplay(tenant="acme", selection=Selection(all=True), rate=30.0), within=5.0)
            await until(lambda: len(worker.handled) > 10)
            stopping = time.monotonic()
        stopped = time.monotonic()
        async with recovering(broker):
            status = await ended(bus, begun)
            taken_up = min(at for at in worker.times if at > stopped)
            await until(lambda: len(worker.handled), 60)

    assert stopped - stopping < 2.0, "it did not wait for the replay's end"
    assert taken_up - stopped < 2.0, "it was handed back, not waited for"
    assert (status.state, status.replayed) == ("done", 60)
    assert worker.handled == Counter(command.id for command in commands)


async def test_a_replay_goes_on_after_the_broker_was_killed(broker):
    worker = Worker()
    async with connected(broker) as bus, recovering(broker), working(broker, worker.handle):
        commands = [command for command, _ in (forget() for _ in range(150))]
        await bus.append([letter(work_subject("acme", "forget"), command.encode()) for command in commands])
        begun = await bus.ask(StartReplay(tenant="acme", selection=Selection(all=True), rate=100.0), within=5.0)
        await until(lambda: len(worker.handled) > 30)
        broker.kill()
        broker.start()
        await until(lambda: bus.connected)
        status = await ended(bus, begun, seconds=40)
        await until(lambda: len(worker.handled), 150)
        left = await letters_there(bus)

    assert (status.state, status.replayed, left) == ("done", 150, 0)
    assert set(worker.handled) == {command.id for command in commands}


async def test_many_replays_at_once_do_not_wait_for_each_other(broker):
    worker = Worker()
    async with connected(broker) as bus, recovering(broker), working(broker, worker.handle):
        for tenant in ("acme", "beta", "zeta"):
            entries = [forget(tenant)[1] for _ in range(5)]
            await bus.append(
                [
                    Entry(
                        subject=dead_subject("embedder", tenant),
                        body=entry.body,
                        id=new_id(),
                        headers={"Engram-Dead-Subject": entry.subject},
                    )
                    for entry in entries
                ]
            )
        slow = await bus.ask(StartReplay(tenant="acme", selection=Selection(all=True), rate=0.1), within=5.0)

        quick = await asyncio.gather(*(replay(bus, tenant, selection={"all": True}) for tenant in ("beta", "zeta")))
        still = await bus.ask(CancelReplay(tenant="acme", id=slow.id), within=5.0)

    assert [status.replayed for status in quick] == [5, 5]
    assert still.state == "running"
