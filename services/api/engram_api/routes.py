"""The route table: every operation of the door, declared once.

Routes, permission checks, usage counters and documents are derived from it; so are the tests that try every
operation with every role. `name` is also the name of the handler's method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Literal, get_args

from pydantic import BaseModel

from engram_api.access import PERMISSIONS, Permission
from engram_api.bodies import Body, OneOrMany
from engram_api.models import (
    ContextBody,
    DeadGroupsQuery,
    DeadLettersQuery,
    DropBody,
    DropEdgeQuery,
    DropQuery,
    EdgeBody,
    ErasureBody,
    ErasuresQuery,
    EventsQuery,
    ExportQuery,
    FeedbackBody,
    MemoriesQuery,
    NeighboursQuery,
    NewMemories,
    NodeBody,
    NodeQuery,
    NodesQuery,
    NoQuery,
    OneReplayBody,
    Paged,
    PathQuery,
    RecallBody,
    ReplayBody,
    ReplaysQuery,
    ThinkBody,
    UsageExportQuery,
    UsageQuery,
    WaitQuery,
)  # fmt: skip
from engram_contracts.administration import (
    KeyList,
    KeyMade,
    KeyShown,
    MemberChanges,
    MemberList,
    MemberShown,
    NewKey,
    NewMember,
    NewPlan,
    NewTenant,
    PlanChanges,
    PlanList,
    Rotation,
    Suspension,
    TenantChanges,
    TenantList,
    TenantShown,
)  # fmt: skip
from engram_contracts.answers import (
    Accepted,
    AcceptedChange,
    AcceptedMany,
    AcceptedQuestion,
    Alive,
    DeadLetterList,
    Export,
    Hits,
    Job,
    MemoryList,
    NodeList,
    Ready,
    Thoughts,
)  # fmt: skip
from engram_contracts.control import Plan
from engram_contracts.erasing import ErasurePage, ErasureStatus
from engram_contracts.live import JOB_EVENTS, TENANT_EVENTS, THINK_EVENTS, Ticket
from engram_contracts.memory import Memory, MemoryChanges, NewMemory
from engram_contracts.questions import History, Neighbourhood, NodeDetail, PackedContext, Path, Usage
from engram_contracts.recovery import DeadDetail, DeadGroups, Dropped, ReplayPage, ReplayStatus

Method = Literal["GET", "POST", "PATCH", "DELETE"]

CALL: Mapping[str, int] = {"api_calls": 1}
FEEDBACK: Mapping[str, int] = {"api_calls": 1, "feedback": 1}
SEARCH: Mapping[str, int] = {"api_calls": 1, "search_queries": 1}

READING = frozenset({"recall", "context"})
"""Questions that are too long for a query, so they are posted."""
TOLD_BY_FACTS = frozenset({"memories:write", "graph:write", "think", "recall"})
EXPORTS = frozenset({"export_usage"})
SENSITIVE = frozenset({"data:export", "data:erase", "audit:read"})
"""Permissions of operations that are audited even where they only read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the door.

    `answer` is the model of `data` (`None` where the answer is no envelope but of type `media`), `status` that of a
    plain success, `settled` that of one whose effect the client waited for; `also` names other answers with their
    models. `bulk` allows the larger body; `events` names what is streamed to who asks for it (always, where there is
    no answer), with their models; `system` takes a key that speaks for the installation (`_system`). `counters` are
    what one success adds to the tenant's usage, beside what metering counts from facts. A `secret` answer is never
    kept.
    """

    name: str
    method: Method
    path: str
    permission: Permission
    summary: str
    answer: type[BaseModel] | UnionType | None
    status: int = 200
    settled: int | None = None
    also: Mapping[int, type[BaseModel]] = field(default_factory=dict)
    body: Body | None = None
    query: type[BaseModel] = NoQuery
    bulk: bool = False
    system: bool = False
    counters: Mapping[str, int] = field(default_factory=lambda: CALL)
    events: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    media: str = "application/json"
    secret: bool = False

    @property
    def writes(self) -> bool:
        """Whether it changes something; then a request may carry an idempotency key."""
        return self.method != "GET" and self.name not in READING

    @property
    def audited(self) -> bool:
        """Whether its requests are in the audit trail. Changes of memories and of the graph are there as facts."""
        return (
            (self.writes and self.permission not in TOLD_BY_FACTS)
            or self.permission in SENSITIVE
            or self.name in EXPORTS
        )


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="remember", method="POST", path="/v1/memories", permission="memories:write",
        summary="Keep one memory, or many in one request.",
        body=OneOrMany(one=NewMemory, many=NewMemories, key="memories"), query=WaitQuery, bulk=True,
        answer=Accepted | AcceptedMany, status=202, settled=201, also={207: AcceptedMany},
    ),
    Operation(
        name="list_memories", method="GET", path="/v1/memories", permission="memories:read",
        summary="List memories, newest first.", query=MemoriesQuery, answer=MemoryList,
    ),
    Operation(
        name="get_memory", method="GET", path="/v1/memories/{id}", permission="memories:read",
        summary="Show a memory.", answer=Memory,
    ),
    Operation(
        name="revise", method="PATCH", path="/v1/memories/{id}", permission="memories:write",
        summary="Change fields of a memory; its history keeps the earlier version.",
        body=MemoryChanges, query=WaitQuery, answer=Accepted, status=202, settled=200,
    ),
    Operation(
        name="forget", method="DELETE", path="/v1/memories/{id}", permission="memories:write",
        summary="Delete a memory's text everywhere.", query=WaitQuery, answer=Accepted, status=202, settled=200,
    ),
    Operation(
        name="get_history", method="GET", path="/v1/memories/{id}/history", permission="memories:read",
        summary="Show all versions of a memory, oldest first.", answer=History,
    ),
    Operation(
        name="judge", method="POST", path="/v1/memories/{id}/feedback", permission="memories:write",
        summary="Say how a recalled memory served: useful, not useful or wrong.",
        body=FeedbackBody, query=WaitQuery, answer=Accepted, status=202, settled=200, counters=FEEDBACK,
    ),
    Operation(
        name="recall", method="POST", path="/v1/recall", permission="recall",
        summary="Find the memories that best answer a query.", body=RecallBody, answer=Hits, counters=SEARCH,
    ),
    Operation(
        name="context", method="POST", path="/v1/context", permission="recall",
        summary="Pack the memories that a prompt should know into a budget of tokens, with their marks.",
        body=ContextBody, answer=PackedContext, counters=SEARCH,
    ),
    Operation(
        name="think", method="POST", path="/v1/think", permission="think",
        summary="Answer a question from memories, with citations.",
        body=ThinkBody, answer=Thoughts, also={202: AcceptedQuestion}, events=THINK_EVENTS,
    ),
    Operation(
        name="list_nodes", method="GET", path="/v1/graph/nodes", permission="graph:read",
        summary="List nodes, most mentioned first.", query=NodesQuery, answer=NodeList,
    ),
    Operation(
        name="put_node", method="POST", path="/v1/graph/nodes", permission="graph:write",
        summary="Create a node, or merge attributes into it.",
        body=NodeBody, query=WaitQuery, answer=AcceptedChange, status=202, settled=201,
    ),
    Operation(
        name="get_node", method="GET", path="/v1/graph/nodes/{id}", permission="graph:read",
        summary="Show a node with its strongest edges and the memories that mention it.",
        query=NodeQuery, answer=NodeDetail,
    ),
    Operation(
        name="drop_node", method="DELETE", path="/v1/graph/nodes/{id}", permission="graph:write",
        summary="Remove a node with its edges and mentions.",
        query=WaitQuery, answer=AcceptedChange, status=202, settled=200,
    ),
    Operation(
        name="put_edge", method="POST", path="/v1/graph/edges", permission="graph:write",
        summary="Create an edge, or set its weight and validity.",
        body=EdgeBody, query=WaitQuery, answer=AcceptedChange, status=202, settled=201,
    ),
    Operation(
        name="drop_edge", method="DELETE", path="/v1/graph/edges", permission="graph:write",
        summary="Remove an edge.", query=DropEdgeQuery, answer=AcceptedChange, status=202, settled=200,
    ),
    Operation(
        name="neighbours", method="GET", path="/v1/graph/neighbours", permission="graph:read",
        summary="Show what lies around a node.", query=NeighboursQuery, answer=Neighbourhood,
    ),
    Operation(
        name="find_path", method="GET", path="/v1/graph/path", permission="graph:read",
        summary="Show a shortest path between two nodes.", query=PathQuery, answer=Path,
    ),
    Operation(
        name="events", method="GET", path="/v1/events", permission="events:read",
        summary="Tell what happens to the tenant's memory, as it happens; resumes behind the last event that was seen.",
        query=EventsQuery, answer=None, media="text/event-stream", events=TENANT_EVENTS,
    ),
    Operation(
        name="make_ticket", method="POST", path="/v1/ws-tickets", permission="events:read",
        summary="Make a ticket that opens one WebSocket, once, within half a minute.",
        answer=Ticket, status=201, secret=True,
    ),
    Operation(
        name="get_job", method="GET", path="/v1/jobs/{id}", permission="jobs:read",
        summary="Show how far an accepted command has come.", answer=Job,
    ),
    Operation(
        name="follow_job", method="GET", path="/v1/jobs/{id}/events", permission="jobs:read",
        summary="Tell how an accepted command comes along, as it happens.", answer=None,
        media="text/event-stream", events=JOB_EVENTS,
    ),
    Operation(
        name="cancel_job", method="DELETE", path="/v1/jobs/{id}", permission="jobs:write",
        summary="Call off a command that has no effect yet.", answer=Job, status=202, also={200: Job},
    ),
    Operation(
        name="list_dead", method="GET", path="/v1/dead-letters", permission="dead:read", system=True,
        summary="List dead letters, newest first.", query=DeadLettersQuery, answer=DeadLetterList,
    ),
    Operation(
        name="group_dead", method="GET", path="/v1/dead-letters/groups", permission="dead:read", system=True,
        summary="Count dead letters by what they have in common.", query=DeadGroupsQuery, answer=DeadGroups,
    ),
    Operation(
        name="list_replays", method="GET", path="/v1/dead-letters/replays", permission="dead:read", system=True,
        summary="List the replays of the last 30 days, newest first.", query=ReplaysQuery, answer=ReplayPage,
    ),
    Operation(
        name="start_replay", method="POST", path="/v1/dead-letters/replays", permission="dead:write", system=True,
        summary="Give some dead letters another try, or all.", body=ReplayBody, answer=ReplayStatus, status=202,
    ),
    Operation(
        name="drop_some", method="POST", path="/v1/dead-letters/drops", permission="dead:write", system=True,
        summary="Delete some dead letters for good, or all.", body=DropBody, answer=Dropped,
    ),
    Operation(
        name="get_replay", method="GET", path="/v1/dead-letters/replays/{id}", permission="dead:read", system=True,
        summary="Show how far a replay is.", answer=ReplayStatus,
    ),
    Operation(
        name="cancel_replay", method="DELETE", path="/v1/dead-letters/replays/{id}", permission="dead:write",
        system=True, summary="Stop a replay before its next message.", answer=ReplayStatus,
    ),
    Operation(
        name="get_dead", method="GET", path="/v1/dead-letters/{id}", permission="dead:read", system=True,
        summary="Show a dead letter with its body, its headers and what went wrong before.", answer=DeadDetail,
    ),
    Operation(
        name="replay_one", method="POST", path="/v1/dead-letters/{id}/replay", permission="dead:write", system=True,
        summary="Give a dead letter another try, as it is or edited.",
        body=OneReplayBody, answer=ReplayStatus, status=202,
    ),
    Operation(
        name="drop_one", method="DELETE", path="/v1/dead-letters/{id}", permission="dead:write", system=True,
        summary="Delete a dead letter for good.", query=DropQuery, answer=Dropped,
    ),
    Operation(
        name="list_tenants", method="GET", path="/v1/tenants", permission="tenants:read", system=True,
        summary="List tenants; a tenant's own admins see theirs.", query=Paged, answer=TenantList,
    ),
    Operation(
        name="create_tenant", method="POST", path="/v1/tenants", permission="tenants:write", system=True,
        summary="Create a tenant.", body=NewTenant, answer=TenantShown, status=201,
    ),
    Operation(
        name="get_tenant", method="GET", path="/v1/tenants/{id}", permission="tenants:read", system=True,
        summary="Show a tenant with its limits.", answer=TenantShown,
    ),
    Operation(
        name="change_tenant", method="PATCH", path="/v1/tenants/{id}", permission="tenants:write", system=True,
        summary="Change a tenant's title, plan or limits.", body=TenantChanges, answer=TenantShown,
    ),
    Operation(
        name="suspend_tenant", method="POST", path="/v1/tenants/{id}/suspend", permission="tenants:write",
        system=True, summary="Refuse a tenant's requests until it is resumed.", body=Suspension, answer=TenantShown,
    ),
    Operation(
        name="resume_tenant", method="POST", path="/v1/tenants/{id}/resume", permission="tenants:write", system=True,
        summary="Serve a suspended tenant again.", answer=TenantShown,
    ),
    Operation(
        name="delete_tenant", method="DELETE", path="/v1/tenants/{id}", permission="tenants:write", system=True,
        summary="Erase a tenant and all it owns; asked again, tells how far that is.",
        answer=ErasureStatus, status=202, also={200: ErasureStatus},
    ),
    Operation(
        name="list_plans", method="GET", path="/v1/plans", permission="plans:read", system=True,
        summary="List plans.", query=Paged, answer=PlanList,
    ),
    Operation(
        name="create_plan", method="POST", path="/v1/plans", permission="plans:write", system=True,
        summary="Create a plan.", body=NewPlan, answer=Plan, status=201,
    ),
    Operation(
        name="get_plan", method="GET", path="/v1/plans/{id}", permission="plans:read", system=True,
        summary="Show a plan.", answer=Plan,
    ),
    Operation(
        name="change_plan", method="PATCH", path="/v1/plans/{id}", permission="plans:write", system=True,
        summary="Change a plan's limits, for all its tenants.", body=PlanChanges, answer=Plan,
    ),
    Operation(
        name="delete_plan", method="DELETE", path="/v1/plans/{id}", permission="plans:write", system=True,
        summary="Take away a plan that no tenant has.", answer=Plan,
    ),
    Operation(
        name="list_keys", method="GET", path="/v1/keys", permission="keys:read", system=True,
        summary="List the tenant's keys, or the installation's.", query=Paged, answer=KeyList,
    ),
    Operation(
        name="create_key", method="POST", path="/v1/keys", permission="keys:write", system=True,
        summary="Make a key, which is shown this once.", body=NewKey, answer=KeyMade, status=201, secret=True,
    ),
    Operation(
        name="get_key", method="GET", path="/v1/keys/{id}", permission="keys:read", system=True,
        summary="Show what is known of a key.", answer=KeyShown,
    ),
    Operation(
        name="rotate_key", method="POST", path="/v1/keys/{id}/rotate", permission="keys:write", system=True,
        summary="Make a key's successor; both count for a while.", body=Rotation, answer=KeyMade, status=201,
        secret=True,
    ),
    Operation(
        name="revoke_key", method="DELETE", path="/v1/keys/{id}", permission="keys:write", system=True,
        summary="Refuse a key from now on.", answer=KeyShown,
    ),
    Operation(
        name="list_members", method="GET", path="/v1/members", permission="members:read",
        summary="List whose tokens count for the tenant.", query=Paged, answer=MemberList,
    ),
    Operation(
        name="add_member", method="POST", path="/v1/members", permission="members:write",
        summary="Let the tokens of somebody count.", body=NewMember, answer=MemberShown, status=201,
    ),
    Operation(
        name="get_member", method="GET", path="/v1/members/{id}", permission="members:read",
        summary="Show a member.", answer=MemberShown,
    ),
    Operation(
        name="change_member", method="PATCH", path="/v1/members/{id}", permission="members:write",
        summary="Change what a member may do.", body=MemberChanges, answer=MemberShown,
    ),
    Operation(
        name="remove_member", method="DELETE", path="/v1/members/{id}", permission="members:write",
        summary="Let the tokens of somebody count no more.", answer=MemberShown,
    ),
    Operation(
        name="export", method="GET", path="/v1/export", permission="data:export",
        summary="Take along everything that is kept, page by page.", query=ExportQuery, answer=Export,
    ),
    Operation(
        name="start_erasure", method="POST", path="/v1/erasures", permission="data:erase",
        summary="Erase everything of a user, from everywhere.", body=ErasureBody, answer=ErasureStatus, status=202,
    ),
    Operation(
        name="list_erasures", method="GET", path="/v1/erasures", permission="data:erase", system=True,
        summary="List the erasures of the last 30 days, newest first.", query=ErasuresQuery, answer=ErasurePage,
    ),
    Operation(
        name="get_erasure", method="GET", path="/v1/erasures/{id}", permission="data:erase", system=True,
        summary="Show how far an erasure is, and its signed report once it is done.", answer=ErasureStatus,
    ),
    Operation(
        name="get_usage", method="GET", path="/v1/usage", permission="usage:read",
        summary="Show the tenant's usage, in total and by day or hour.", query=UsageQuery, answer=Usage,
    ),
    Operation(
        name="export_usage", method="GET", path="/v1/usage/export", permission="usage:read",
        summary="The tenant's usage as CSV or Parquet, by day, by hour, or every event.",
        query=UsageExportQuery, answer=None, media="text/csv",
    ),
    Operation(
        name="health", method="GET", path="/health", permission="public",
        summary="Tell that this process runs.", answer=Alive,
    ),
    Operation(
        name="ready", method="GET", path="/health/ready", permission="public",
        summary="Tell whether everything the door needs works.", answer=Ready, also={503: Ready},
    ),
    Operation(
        name="metrics", method="GET", path="/metrics", permission="metrics",
        summary="Prometheus metrics of this process.", answer=None, media="text/plain",
    ),
    Operation(
        name="openapi", method="GET", path="/openapi.json", permission="public",
        summary="This document: every operation, in OpenAPI 3.1.", answer=None,
    ),
    Operation(
        name="docs", method="GET", path="/docs", permission="public",
        summary="The same as a page to read.", answer=None, media="text/html",
    ),
    Operation(
        name="docs_file", method="GET", path="/docs/{name}", permission="public",
        summary="A file of that page.", answer=None, media="text/javascript",
    ),
    Operation(
        name="metrics_targets", method="GET", path="/metrics/targets", permission="metrics",
        summary="Where the metrics of every process are, for Prometheus' HTTP service discovery.", answer=None,
    ),
)  # fmt: skip


def check(operations: tuple[Operation, ...], handlers: object) -> None:
    """Raise `ValueError` for a table that must not be served: no permission, no handler, or a route given twice."""
    seen: set[tuple[str, str]] = set()
    for operation in operations:
        where = f"{operation.method} {operation.path}"
        if operation.permission not in PERMISSIONS:
            raise ValueError(f"{where} declares no permission; declare one of {get_args(Permission)}")
        if not callable(getattr(handlers, operation.name, None)):
            raise ValueError(f"{where} has no handler {operation.name!r}")
        if (operation.method, operation.path) in seen:
            raise ValueError(f"{where} is declared twice")
        seen.add((operation.method, operation.path))
