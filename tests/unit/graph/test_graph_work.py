"""Commands on nodes and edges become facts on the log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from engram_contracts.commands import GRAPH, Command, DropEdge, DropNode, Judge, PutEdge, PutNode
from engram_contracts.errors import Overloaded, Rejected
from engram_contracts.facts import FACTS
from engram_contracts.ids import PARTITIONS, derived_id
from engram_contracts.topology import GRAPH_LOG, GRAPH_WORK, LogSubject
from engram_graph.handlers import Work
from engram_graph.settings import GraphSettings
from engram_runtime.service import Delivery
from support.graph_story import opened
from support.recording_bus import RecordingBus

NOW = datetime(2026, 2, 3, tzinfo=UTC)
ACCEPTED = datetime(2026, 2, 2, tzinfo=UTC)


def commanded(kind: type[Command], number: int = 1, **fields: Any) -> Delivery[Command]:
    command = kind(id=derived_id("work", str(number)), accepted_at=ACCEPTED, actor="key_1", **fields)
    return Delivery(tenant="acme", event=kind.op, message=command, sequence=number, at=NOW, correlation="c1")


@pytest.mark.parametrize(
    ("command", "event"),
    [
        (commanded(PutNode, node="place:Oslo", attributes={"a": 1}), "node-put"),
        (commanded(DropNode, node="place:Oslo"), "node-dropped"),
        (commanded(PutEdge, source="a:1", type="knows", target="a:2", weight=2, valid_to=NOW), "edge-put"),
        (commanded(DropEdge, source="a:1", type="knows", target="a:2"), "edge-dropped"),
        (commanded(Judge, memory_id="m-1", verdict="wrong", query="who?", note="no"), "judged"),
    ],
)
async def test_a_command_becomes_its_fact_under_its_own_id(command: Delivery[Command], event: str) -> None:
    bus = RecordingBus()

    assert await Work(bus, lambda: NOW).take([command, command]) == [None, None]

    [entry] = bus.entries
    assert LogSubject.parse(entry.subject).event == event
    assert (entry.id, entry.correlation) == (command.message.id, "c1")
    fact = FACTS[event].model_validate_json(entry.body)
    assert (fact.command, fact.accepted_at, fact.at, fact.actor) == (entry.id, ACCEPTED, NOW, "key_1")
    said = command.message.model_dump(exclude={"v", "id", "deadline"})
    assert said.items() <= fact.model_dump().items()


@pytest.mark.parametrize(
    "command",
    [
        commanded(PutEdge, source="a:1", type="knows", target="a:1"),
        commanded(PutEdge, source="a:1", type="knows", target="a:2", valid_from=NOW, valid_to=ACCEPTED),
        commanded(PutNode, node="a:1", attributes={"text": "x" * 20_000}),
        commanded(PutNode, node="a:1", attributes={"number": float("nan")}),
    ],
)
async def test_what_can_never_hold_is_refused_alone(command: Delivery[Command]) -> None:
    bus = RecordingBus()

    outcomes = await Work(bus, lambda: NOW).take([command, commanded(PutNode, 2, node="a:2")])

    assert isinstance(outcomes[0], Rejected)
    assert outcomes[1] is None
    assert len(bus.entries) == 1


async def test_a_command_the_log_refuses_is_not_done() -> None:
    bus = RecordingBus(refuse=lambda _: Overloaded("the log is full"))

    [outcome] = await Work(bus, lambda: NOW).take([commanded(PutNode, node="a:1")])

    assert isinstance(outcome, Overloaded)


async def test_the_service_declares_every_consumer_of_the_graph(tmp_path: Any) -> None:
    async with opened(tmp_path) as service:
        assert tuple(taking.consumer for taking in service.takes) == GRAPH_WORK
        assert all(taking.commands == GRAPH for taking in service.takes)
        assert tuple(following.consumer for following in service.follows) == GRAPH_LOG
        assert set(service.follows[0].messages) == set(FACTS)
        assert (await service.checks["store"]()).ok


def test_partitions_are_named_in_the_environment_as_a_list() -> None:
    assert GraphSettings(partitions="0, 3,5").partitions == (0, 3, 5)  # type: ignore[arg-type]  # as text, on purpose
    assert GraphSettings().partitions == tuple(range(PARTITIONS))
