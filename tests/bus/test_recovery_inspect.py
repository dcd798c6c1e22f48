"""Dead letters on a real broker: found, counted, shown, given up; each tenant's for itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from engram_contracts.errors import Forbidden, NotFound
from engram_contracts.events import JobTrouble
from engram_contracts.ids import new_id
from engram_contracts.recovery import DeadFilter, DropDead, GroupDead, ListDead, Selection, ShowDead
from engram_contracts.topology import DEAD, JOBS, dead_subject
from engram_runtime.bus import Entry
from support.burying import buried, connected, letters_there, listed, recovering, until
from support.servers import nats_server

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def broker(tmp_path: Path):
    with nats_server(tmp_path / "nats") as server:
        yield server


async def test_what_was_buried_is_listed_counted_and_shown_with_all_that_is_known_of_it(broker):
    async with connected(broker) as bus, recovering(broker):
        first, second = await buried(broker, bus, 2)
        [other] = await buried(broker, bus, 1, tenant="zeta")

        page = await bus.ask(ListDead(tenant="_system"), within=5.0)
        groups = await bus.ask(GroupDead(tenant="_system"), within=5.0)
        shown = await bus.ask(ShowDead(tenant="acme", sequence=page.letters[-1].sequence), within=5.0)

    assert {letter.command for letter in page.letters} == {first.id, second.id, other.id}
    assert [letter.sequence for letter in page.letters] == [3, 2, 1]
    assert [(group.key, group.count) for group in groups.groups] == [
        ({"code": "INVALID_REQUEST", "stage": "embedder", "tenant": "acme", "age": "hour"}, 2),
        ({"code": "INVALID_REQUEST", "stage": "embedder", "tenant": "zeta", "age": "hour"}, 1),
    ]
    assert groups.groups[0].example.sequence == 2
    assert shown.body["id"] == shown.letter.command
    assert shown.letter.subject.endswith(".forget.acme") and shown.letter.op == "forget"
    assert (shown.letter.error, shown.letter.why, shown.letter.attempts) == ("Rejected", "never", 1)
    assert shown.letter.reason == f"no memory {shown.body['memory_id']}"
    assert shown.headers["Nats-Msg-Id"] == shown.letter.command
    assert shown.history == () and not shown.truncated


async def test_a_tenant_sees_its_own_dead_letters_alone(broker):
    async with connected(broker) as bus, recovering(broker):
        await buried(broker, bus, 1)
        await buried(broker, bus, 1, tenant="zeta")

        page = await bus.ask(ListDead(tenant="zeta"), within=5.0)
        groups = await bus.ask(GroupDead(tenant="zeta", by=("tenant",)), within=5.0)
        with pytest.raises(NotFound):
            await bus.ask(ShowDead(tenant="zeta", sequence=1), within=5.0)
        with pytest.raises(Forbidden):
            await bus.ask(ListDead(tenant="zeta", filter=DeadFilter(tenant="acme")), within=5.0)
        with pytest.raises(NotFound):
            await bus.ask(DropDead(tenant="zeta", selection=Selection(sequences=(1,)), reason="x"), within=5.0)
        dropped = await bus.ask(DropDead(tenant="zeta", selection=Selection(all=True), reason="x"), within=5.0)
        left = await listed(bus)

    assert [letter.tenant for letter in page.letters] == ["zeta"]
    assert [group.key["tenant"] for group in groups.groups] == ["zeta"]
    assert dropped.dropped == 1
    assert [letter.tenant for letter in left] == ["acme"]


async def test_a_list_goes_on_page_by_page_through_thousands_with_gaps(broker):
    async with connected(broker) as bus, recovering(broker):
        for start in range(0, 2_000, 500):
            await bus.append([letter(n) for n in range(start, start + 500)])
        for sequence in range(101, 1_900):
            await bus.archive(DEAD).delete(sequence)

        seen, after = [], None
        while True:
            page = await bus.ask(ListDead(tenant="acme", limit=60, after=after), within=10.0)
            seen += [found.sequence for found in page.letters]
            after = page.after
            if after is None:
                break

    assert seen == [*range(2_000, 1_899, -1), *range(100, 0, -1)]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (DeadFilter(code="NOT_FOUND"), {1, 3, 5}),
        (DeadFilter(stage="graph"), {4, 5}),
        (DeadFilter(error="Conflict"), {0, 2, 4}),
        (DeadFilter(text="NUMBER 3"), {3}),
        (DeadFilter(code="NOT_FOUND", stage="graph"), {5}),
        (DeadFilter(since=LONG_AGO), set(range(6))),
        (DeadFilter(until=LONG_AGO), set()),
        (DeadFilter(tenant="zeta"), set()),
    ],
    ids=str,
)
async def test_a_filter_narrows_by_every_condition_it_names(broker, wanted, numbers):
    async with connected(broker) as bus, recovering(broker):
        await bus.append([letter(n, stage="graph" if n > 3 else "embedder") for n in range(6)])

        page = await bus.ask(ListDead(tenant="_system", filter=wanted), within=5.0)

    assert {int(found.command or "") for found in page.letters} == numbers


def letter(number: int, *, stage: str = "embedder") -> Entry:
    return Entry(
        subject=dead_subject(stage, "acme"),
        body=b"{}",
        id=new_id(),
        headers={
            "Engram-Original-Nats-Msg-Id": str(number),
            "Engram-Dead-Code": "NOT_FOUND" if number % 2 else "CONFLICT",
            "Engram-Dead-Error": "NotFound" if number % 2 else "Conflict",
            "Engram-Dead-Reason": f"number {number} is not right",
        },
    )


@pytest.mark.parametrize(
    "headers",
    [{}, {"Engram-Dead-Attempts": "many", "Engram-Dead-First": "once", "Engram-Dead-History": "[{"}],
    ids=["none", "junk"],
)
async def test_bytes_that_say_nothing_of_themselves_are_shown_as_they_are(broker, headers):
    async with connected(broker) as bus, recovering(broker):
        await bus.append([Entry(subject=dead_subject("graph", "acme"), body=b"\xff\x00", id="x", headers=headers)])

        page = await bus.ask(ListDead(tenant="acme"), within=5.0)
        shown = await bus.ask(ShowDead(tenant="acme", sequence=1), within=5.0)

    assert page.letters == (shown.letter,)
    assert shown.raw == b"\xff\x00" and shown.body is None
    assert shown.letter.attempts == 0 and shown.letter.subject == ""


async def test_a_large_body_is_shown_in_part(broker):
    body = json.dumps({"text": "x" * 300_000}).encode()
    async with connected(broker) as bus, recovering(broker):
        await bus.append([Entry(subject=dead_subject("graph", "acme"), body=body, id="x")])

        shown = await bus.ask(ShowDead(tenant="acme", sequence=1), within=5.0)

    assert shown.truncated and shown.letter.size == len(body)
    assert shown.raw == body[: 256 * 1024]


async def test_what_is_dropped_is_gone_the_job_says_why_and_the_log_who(broker, caplog):
    caplog.set_level("INFO", logger="engram_recovery")
    async with connected(broker) as bus, recovering(broker):
        gone, *_ = await buried(broker, bus, 3)
        sequence = next(found.sequence for found in await listed(bus) if found.command == gone.id)
        question = DropDead(tenant="acme", selection=Selection(sequences=(sequence,)), reason="a test", actor="key-7")

        dropped = await bus.ask(question, within=5.0)
        left = await listed(bus)
        trouble = await bus.bucket(JOBS).get(f"acme.{gone.id}")

    assert dropped.dropped == 1 and not dropped.more
    assert gone.id not in {found.command for found in left} and len(left) == 2
    assert JobTrouble.model_validate_json(trouble or b"").reason == "dropped: a test"
    [line] = [record for record in caplog.records if record.message == "dropping dead letters"]
    assert (line.actor, line.reason, line.selection["sequences"]) == ("key-7", "a test", [sequence])


async def test_dropping_by_filter_says_when_there_is_more(broker):
    async with connected(broker) as bus, recovering(broker):
        for start in range(0, 4_500, 500):
            await bus.append([letter(n) for n in range(start, start + 500)])
        question = DropDead(tenant="_system", selection=Selection(filter=DeadFilter(code="CONFLICT")), reason="x")

        answers = [await bus.ask(question, within=20.0) for _ in range(2)]
        left = await letters_there(bus)

    assert [answer.more for answer in answers] == [True, False]
    assert sum(answer.dropped for answer in answers) == 2_250
    assert left == 2_250


async def test_the_gauge_counts_what_lies_there_by_stage(broker):
    async with connected(broker) as bus:
        await bus.append([letter(n, stage="graph" if n > 3 else "embedder") for n in range(6)])
        async with recovering(broker):
            await until(lambda: b'engram_dead_letters{stage="embedder"} 4.0' in generate_latest())
            page = generate_latest().decode()

    assert 'engram_dead_letters{stage="graph"} 2.0' in page
