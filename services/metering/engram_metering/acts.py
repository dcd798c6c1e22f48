"""What belongs into the audit trail, of facts and of usage events, with the place in its stream of each: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engram_contracts.ids import derived_id
from engram_contracts.trail import Act, Reached
from engram_metering.intake import (
    Counted,
    CountedForgotten,
    CountedLinked,
    CountedRemembered,
    CountedRequest,
    CountedRevised,
    CountedUsage,
    Noted,
)
from engram_runtime.service import Delivery


def of_facts(deliveries: Sequence[Delivery[Counted]]) -> Iterator[tuple[Reached, Act]]:
    """An act for each fact that changed something; an answer to a question did not."""
    for delivery in deliveries:
        targets = _targets(delivery.tenant, delivery.message)
        if targets:
            yield place(delivery), _act(delivery, targets)


def of_requests(deliveries: Sequence[Delivery[CountedUsage]]) -> Iterator[tuple[Reached, Act]]:
    """An act for each request that its door marked, and what was noted beside them."""
    for delivery in deliveries:
        for event in delivery.message.events:
            if event.audit is not None:
                yield place(delivery), _request(event)
        for act in delivery.message.acts:
            yield place(delivery), act


def place(delivery: Delivery[Any]) -> Reached:
    """Where a message stands in its stream."""
    return Reached(sequence=delivery.sequence, at=delivery.at)


def node_name(tenant: str, node: str) -> str:
    """How the trail names a node of the graph, whose own id may be somebody's name."""
    return f"node:{derived_id(tenant, node)}"


def _act(delivery: Delivery[Counted], targets: tuple[str, ...]) -> Act:
    fact = delivery.message
    return Act.model_construct(
        tenant=delivery.tenant, at=fact.at, action=delivery.event, outcome="done", actor=fact.actor, targets=targets,
        count=None, request_id=delivery.correlation, correlation=None, address=None,
    )  # fmt: skip


def _request(event: CountedRequest) -> Act:
    mark = event.audit
    assert mark is not None
    return Act(
        tenant=event.tenant, at=event.at, action=event.route, outcome=str(event.status), actor=mark.actor,
        targets=mark.targets, count=mark.count, request_id=event.request_id, correlation=mark.correlation,
    )  # fmt: skip


def _targets(tenant: str, fact: Counted) -> tuple[str, ...]:
    match fact:
        case CountedRemembered(memory=memory):
            return (memory["id"],)
        case CountedRevised(memory_id=memory_id) | CountedForgotten(memory_id=memory_id):
            return (memory_id,)
        case CountedLinked(memory_id=memory_id):
            return (memory_id,)
        case Noted():
            return _noted(tenant, fact)
    return ()


def _noted(tenant: str, fact: Noted) -> tuple[str, ...]:
    if fact.memory_id is not None:
        return (fact.memory_id,)
    return tuple(node_name(tenant, node) for node in (fact.node, fact.source, fact.target) if node is not None)
