"""What the door does for each operation: one method each, named as in the route table."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter, ValidationError

from engram_api.accepting import Acceptor
from engram_api.administering import Registers
from engram_api.api_keys import KeyHandlers
from engram_api.broadcasts import Broadcasts, EventTalk
from engram_api.calls import Answer, Call, Page
from engram_api.cursors import unseal
from engram_api.dead_letters import DeadLetterHandlers
from engram_api.documents import Documents
from engram_api.drafts import Draft, command_id, remembering
from engram_api.erasures import ErasureHandlers
from engram_api.jobs import job, thoughts
from engram_api.members import MemberHandlers
from engram_api.models import (
    ContextBody,
    DropEdgeQuery,
    EdgeBody,
    EventsQuery,
    FeedbackBody,
    MemoriesQuery,
    NeighboursQuery,
    NewMemories,
    NodeBody,
    NodeQuery,
    NodesQuery,
    NoQuery,
    PathQuery,
    RecallBody,
    RecallForClient,
    ThinkBody,
    UsageExportQuery,
    UsageQuery,
    WaitQuery,
)
from engram_api.pending import Pending
from engram_api.plans import PlanHandlers
from engram_api.reach import check_change, owned, reached, reaches, without_paths
from engram_api.readiness import Readiness
from engram_api.talks import Ear, JobTalk, ThinkTalk
from engram_api.targets import targets
from engram_api.tenants import TenantHandlers
from engram_api.tickets import Tickets
from engram_api.waits import Waits
from engram_api.whereabouts import Sighting, Whereabouts
from engram_api.withholding import without_private
from engram_contracts.answers import AcceptedQuestion, Alive, Job, MemoryList, NodeList
from engram_contracts.commands import (
    DropEdge,
    DropNode,
    Forget,
    Judge,
    NodeId,
    PutEdge,
    PutNode,
    Revise,
    Think,
)
from engram_contracts.errors import Conflict, NotFound, Rejected, Unavailable
from engram_contracts.ids import JobId
from engram_contracts.memory import Filters, Memory, MemoryChanges, NewMemory, Owner
from engram_contracts.messages import Message
from engram_contracts.questions import (
    ExportUsage,
    FindIndexed,
    FindPath,
    GetHistory,
    GetMemory,
    GetNode,
    GetUsage,
    ListMemories,
    ListNodes,
    Neighbours,
    PackContext,
    ReadUsageExport,
)
from engram_contracts.topology import Urgency
from engram_runtime.bus import Bus

AnyCall = Call[Any, Any]

PING_SECONDS = 0.5
GLANCE_SECONDS = 1.0
"""So long a change waits for the index to say whose memory it changes; then the streams are read."""
UUID_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NODE_ID: TypeAdapter[str] = TypeAdapter(NodeId)
CANCELLABLE = ("accepted", "retrying")
MOST_EXPORTED = 64 * 1024 * 1024
USAGE_MEDIA = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
IN_A_ROW = 50
NO_MEMORY = "there is no memory with this id"


class Target(NamedTuple):
    """The memory that a change is of; where it still waits to be worked off, in which queue and at which sequence."""

    memory_id: str
    owner: Owner
    urgency: Urgency | None = None
    behind: int | None = None


class Handlers(TenantHandlers, PlanHandlers, KeyHandlers, MemberHandlers, DeadLetterHandlers, ErasureHandlers):
    """All operations."""

    def __init__(
        self,
        bus: Bus,
        acceptor: Acceptor,
        whereabouts: Whereabouts,
        readiness: Readiness,
        waits: Waits,
        *,
        registers: Registers,
        ask_seconds: float,
        pepper: bytes,
    ) -> None:
        super().__init__(bus, registers, ask_seconds=ask_seconds, pepper=pepper)
        self._acceptor = acceptor
        self._whereabouts = whereabouts
        self._readiness = readiness
        self._pending = Pending(bus, within=ask_seconds)
        self._documents = Documents()
        self._waits = waits
        self._tickets = Tickets(bus)
        self._broadcasts = Broadcasts(bus)

    async def remember(self, call: Call[NewMemory | NewMemories, WaitQuery]) -> Answer:
        """Accept one memory, or many."""
        now, body = datetime.now(UTC), call.body
        if isinstance(body, NewMemories):
            return await self._acceptor.many(call, await self._drafts(call, body.memories, now))
        draft = remembering(call, [without_private(owned(body, call.caller), "content")], now)[0]
        return await self._acceptor.change(call, draft)

    async def _drafts(self, call: AnyCall, memories: Sequence[NewMemory], now: datetime) -> list[Draft]:
        """A draft for each of many memories; other requests have their turn in between."""
        drafts: list[Draft] = []
        for start in range(0, len(memories), IN_A_ROW):
            mine = [owned(memory, call.caller) for memory in memories[start : start + IN_A_ROW]]
            kept = [without_private(memory, f"memories.{n}.content") for n, memory in enumerate(mine, start)]
            drafts += remembering(call, kept, now, first=start)
            await asyncio.sleep(0)
        return drafts

    async def list_memories(self, call: Call[None, MemoriesQuery]) -> Answer:
        """One page of the record."""
        tenant, listing = call.caller.tenant, "memories"
        after = unseal(call.query.cursor, tenant=tenant, listing=listing, pepper=self._pepper)
        filters = call.caller.narrowed(call.query.filters())
        page = await self._ask(ListMemories(tenant=tenant, filters=filters, limit=call.query.limit, after=after))
        return Answer(
            data=MemoryList.model_construct(memories=page.memories, total=page.total),
            meta=self._next(page.after, tenant, listing),
        )

    async def get_memory(self, call: Call[None, NoQuery]) -> Answer:
        """The record, or the index where the record lags behind or does not answer."""
        memory, degraded = await self._find_memory(call)
        return Answer(data=memory, meta=_degraded(degraded))

    async def get_history(self, call: Call[None, NoQuery]) -> Answer:
        """All versions of a memory."""
        question = GetHistory(tenant=call.caller.tenant, memory_id=_memory_id(call))
        try:
            found = reached(call.caller, await self._ask(question))
        except NotFound as error:
            raise NotFound(NO_MEMORY) from error
        if found is None:
            raise NotFound(NO_MEMORY)
        return Answer(data=found)

    async def revise(self, call: Call[MemoryChanges, WaitQuery]) -> Answer:
        """Accept a change of a memory that is there."""
        if not call.body.model_fields_set:
            raise Rejected("the body changes nothing; send at least one field", field="body")
        changes = without_private(call.body, "content")
        target = await self._changeable(call)
        check_change(changes, call.caller)
        command = Revise.model_construct(
            id=command_id(call, Revise.op, target.memory_id),
            accepted_at=datetime.now(UTC),
            actor=call.caller.actor,
            deadline=call.deadline,
            memory_id=target.memory_id,
            owner=target.owner,
            behind=target.behind,
            changes=changes.model_dump(mode="json", exclude_unset=True),
        )
        draft = Draft.of(command, memory_id=target.memory_id, urgency=target.urgency)
        return await self._acceptor.change(call, draft)

    async def forget(self, call: Call[None, WaitQuery]) -> Answer:
        """Accept that a memory which is there is to be forgotten."""
        target = await self._changeable(call)
        command = Forget.model_construct(
            id=command_id(call, Forget.op, target.memory_id),
            accepted_at=datetime.now(UTC),
            actor=call.caller.actor,
            deadline=call.deadline,
            memory_id=target.memory_id,
            owner=target.owner,
            behind=target.behind,
        )
        draft = Draft.of(command, memory_id=target.memory_id, urgency=target.urgency)
        return await self._acceptor.change(call, draft)

    async def judge(self, call: Call[FeedbackBody, WaitQuery]) -> Answer:
        """Accept a verdict on a memory that is there."""
        memory_id, owner, urgency, _ = await self._changeable(call)
        if urgency is not None:  # the graph takes verdicts from a queue of its own
            await self._pending.on_log(call.caller.tenant, memory_id)
        said = {name: getattr(call.body, name) for name in FeedbackBody.model_fields}
        command = Judge.model_construct(
            id=command_id(call, Judge.op, memory_id),
            accepted_at=datetime.now(UTC),
            actor=call.caller.actor,
            deadline=call.deadline,
            memory_id=memory_id,
            owner=owner,
            **said,
        )
        return await self._acceptor.change(call, Draft.of(command, memory_id=memory_id))

    async def recall(self, call: Call[RecallBody, NoQuery]) -> Answer:
        """Ask the index."""
        started = time.perf_counter()
        body = call.body
        unseen = await self._unseen(call, body.written)
        found = await self._ask(
            RecallForClient.model_construct(
                tenant=call.caller.tenant, query=body.query, limit=body.limit,
                filters=call.caller.narrowed(body.filters), explain=body.explain,
                deadline_ms=int(self._ask_seconds * 800), mode=body.mode,
                weights=body.weights, as_of=body.as_of, min_score=body.min_score,
                min_similarity=body.min_similarity, fold=body.fold,
            )
        )  # fmt: skip
        meta: dict[str, Any] = {"took_ms": _milliseconds(started), **_degraded((*unseen, *found.degraded))}
        if body.explain:
            meta |= {"stages_ms": found.stages_ms, "mode": found.mode, "weights": found.weights}
        hits = found.hits if call.caller.bounds.any else without_paths(found.hits)
        return Answer(data={"hits": hits}, meta=meta)

    async def context(self, call: Call[ContextBody, NoQuery]) -> Answer:
        """Have memories packed for a prompt."""
        started = time.perf_counter()
        said = {**_fields(call.body), "filters": call.caller.narrowed(call.body.filters)}
        packed = await self._ask(PackContext(tenant=call.caller.tenant, **said))
        meta = {"took_ms": _milliseconds(started), **_degraded(packed.degraded)}
        return Answer(data=packed, meta=meta)

    async def _unseen(self, call: AnyCall, jobs: Collection[str]) -> list[str]:
        """Wait for the index to show what these jobs did, half the time there is; what it does not show then."""
        if not jobs:
            return []
        names = {self._job_id(call, each, field="written").command: each for each in jobs}
        late = await self._acceptor.unseen(call.caller.tenant, list(names), self._ask_seconds / 2)
        return [f"index: does not show {names[command]} yet" for command in late]

    async def think(self, call: Call[ThinkBody, NoQuery]) -> Answer:
        """Accept a question, and wait for its answer unless the client would rather not."""
        started = time.perf_counter()
        body = call.body
        command = Think.model_construct(
            id=command_id(call, Think.op), accepted_at=datetime.now(UTC), actor=call.caller.actor,
            question=body.question, limit=body.limit, filters=call.caller.narrowed(body.filters), model=body.model,
            deadline=_deadline(call.deadline, body.deadline_ms),
        )  # fmt: skip
        if call.streamed:
            return await self._streamed(call, command)
        name, thought = await self._acceptor.question(call, Draft.of(command))
        headers = {"Location": f"/v1/jobs/{name}"}
        if thought is None:
            return Answer(data=AcceptedQuestion(job=name), status=202, headers=headers)
        meta = {"took_ms": _milliseconds(started), **_degraded(thought.degraded)}
        return Answer(data=thoughts(name, thought), meta=meta, headers=headers)

    async def _streamed(self, call: AnyCall, command: Think) -> Answer:
        """Accept a question whose answer is told as it is made; it is listened for before it is asked."""
        ear = Ear(self._bus, self._waits, call.caller.tenant, command.id)
        try:
            await ear.open()
            name, repeated = await self._acceptor.streamed(call, Draft.of(command))
        except BaseException:
            await ear.close()
            raise
        talk = ThinkTalk(ear, self._whereabouts, job_id=name, question=command.question, repeated=repeated)
        headers = {"Location": f"/v1/jobs/{name}"}
        return Answer(data=AcceptedQuestion(job=name), status=202, headers=headers, stream=talk)

    async def list_nodes(self, call: Call[None, NodesQuery]) -> Answer:
        """One page of a tenant's nodes."""
        tenant, listing, query = call.caller.tenant, "nodes", call.query
        after = unseal(query.cursor, tenant=tenant, listing=listing, pepper=self._pepper)
        page = await self._ask(
            ListNodes(
                tenant=tenant, within=_part(call), type=query.type, prefix=query.prefix, limit=query.limit, after=after
            )
        )  # fmt: skip
        return Answer(data=NodeList.model_construct(nodes=page.nodes), meta=self._next(page.after, tenant, listing))

    async def get_node(self, call: Call[None, NodeQuery]) -> Answer:
        """A node and what hangs on it."""
        question = GetNode(tenant=call.caller.tenant, within=_part(call), node=_node_id(call), limit=call.query.limit)
        return Answer(data=await self._ask(question))

    async def put_node(self, call: Call[NodeBody, WaitQuery]) -> Answer:
        """Accept a node."""
        command = PutNode.model_construct(
            id=command_id(call, PutNode.op, call.body.id), accepted_at=datetime.now(UTC), actor=call.caller.actor,
            deadline=call.deadline, node=call.body.id, attributes=call.body.attributes,
        )  # fmt: skip
        return await self._acceptor.change(call, Draft.of(command))

    async def drop_node(self, call: Call[None, WaitQuery]) -> Answer:
        """Accept that a node which is there is to go."""
        node = _node_id(call)
        await self._ask(GetNode(tenant=call.caller.tenant, node=node, limit=1))
        command = DropNode.model_construct(
            id=command_id(call, DropNode.op, node), accepted_at=datetime.now(UTC), actor=call.caller.actor,
            deadline=call.deadline, node=node,
        )  # fmt: skip
        return await self._acceptor.change(call, Draft.of(command))

    async def put_edge(self, call: Call[EdgeBody, WaitQuery]) -> Answer:
        """Accept an edge."""
        fields = {name: getattr(call.body, name) for name in EdgeBody.model_fields}
        command = PutEdge.model_construct(
            id=command_id(call, PutEdge.op, call.body.source, call.body.type, call.body.target),
            accepted_at=datetime.now(UTC),
            actor=call.caller.actor,
            deadline=call.deadline,
            **fields,
        )
        return await self._acceptor.change(call, Draft.of(command))

    async def drop_edge(self, call: Call[None, DropEdgeQuery]) -> Answer:
        """Accept that an edge is to go."""
        query = call.query
        command = DropEdge.model_construct(
            id=command_id(call, DropEdge.op, query.source, query.type, query.target),
            accepted_at=datetime.now(UTC), actor=call.caller.actor, deadline=call.deadline,
            source=query.source, type=query.type, target=query.target,
        )  # fmt: skip
        return await self._acceptor.change(call, Draft.of(command))

    async def neighbours(self, call: Call[None, NeighboursQuery]) -> Answer:
        """What lies around a node."""
        question = Neighbours(tenant=call.caller.tenant, within=_part(call), **_fields(call.query))
        return Answer(data=await self._ask(question))

    async def find_path(self, call: Call[None, PathQuery]) -> Answer:
        """A shortest path."""
        question = FindPath(tenant=call.caller.tenant, within=_part(call), **_fields(call.query))
        return Answer(data=await self._ask(question))

    async def get_job(self, call: Call[None, NoQuery]) -> Answer:
        """How far a command has come, and how it got there."""
        told, seen = await self._job(call)
        return Answer(data=told, meta=_degraded(seen.degraded))

    async def events(self, call: Call[None, EventsQuery]) -> Answer:
        """Tell what happens to the tenant's memory, as it happens."""
        query = call.query
        talk = EventTalk(self._broadcasts, call.caller.tenant, query.chosen(), call.caller.bounds)
        await talk.open(call.after if call.after is not None else query.after)
        return Answer(data=Page(b"", "text/event-stream"), stream=talk)

    async def make_ticket(self, call: Call[None, NoQuery]) -> Answer:
        """Let one WebSocket in as this caller, for clients that cannot send a key."""
        return Answer(data=await self._tickets.make(call.caller))

    async def follow_job(self, call: Call[None, NoQuery]) -> Answer:
        """Tell how a command comes along, as it happens."""
        named = self._job_id(call)
        ear = Ear(self._bus, self._waits, call.caller.tenant, named.command)
        try:
            await ear.open()
            told, _ = await self._job(call)
        except BaseException:
            await ear.close()
            raise
        return Answer(data=told, stream=JobTalk(ear, self._whereabouts, named=named, told=told))

    async def cancel_job(self, call: Call[None, NoQuery]) -> Answer:
        """Mark a command that has no effect yet as cancelled; workers honour the mark before they handle it."""
        told, seen = await self._job(call)
        if told.state == "cancelled":
            return Answer(data=told, status=200, meta=_degraded(seen.degraded))
        if told.state not in CANCELLABLE:
            raise Conflict(f"this job is {told.state}; only what has no effect yet can be cancelled")
        await self._whereabouts.cancel(call.caller.tenant, self._job_id(call).command, call.caller.actor)
        return Answer(data=told.model_copy(update={"cancelling": True}), meta=_degraded(seen.degraded))

    async def _job(self, call: AnyCall) -> tuple[Job, Sighting]:
        named = self._job_id(call)
        seen = await self._whereabouts.sight(call.caller.tenant, named)
        return job(call.path["id"], named.command, seen), seen

    def _job_id(self, call: AnyCall, text: str | None = None, *, field: str | None = None) -> JobId:
        """The job of this name. `NotFound` where the tenant has none, or the caller may not reach it."""
        named = JobId.parse(call.path["id"] if text is None else text, call.caller.tenant, self._pepper)
        if named is None or call.caller.space not in ("", named.space):
            raise NotFound("there is no job with this id", field=field)
        return named

    async def get_usage(self, call: Call[None, UsageQuery]) -> Answer:
        """What the tenant used."""
        return Answer(data=await self._ask(GetUsage(tenant=call.caller.tenant, **_fields(call.query))))

    async def export_usage(self, call: Call[None, UsageExportQuery]) -> Answer:
        """What the tenant used, as a file."""
        tenant, query = call.caller.tenant, call.query
        made = await self._ask(ExportUsage(tenant=tenant, **_fields(query)))
        if made.size > MOST_EXPORTED:
            raise Rejected("this is more than 64 MiB; ask for fewer days, or by hour", field="since", status=413)
        pieces: list[bytes] = []
        while (offset := sum(map(len, pieces))) < made.size:
            pieces.append((await self._ask(ReadUsageExport(tenant=tenant, id=made.id, offset=offset))).data)
        named = {"Content-Disposition": f'attachment; filename="usage-{tenant}.{query.format}"'}
        return Answer(data=Page(b"".join(pieces), USAGE_MEDIA[query.format]), headers=named)

    async def health(self, _: AnyCall) -> Answer:
        """This process runs."""
        return Answer(data=Alive())

    async def ready(self, _: AnyCall) -> Answer:
        """Everything the door needs, checked."""
        ready, serving = await self._readiness.look()
        return Answer(data=ready, status=200 if serving else 503)

    async def metrics(self, _: AnyCall) -> Answer:
        """What Prometheus scrapes."""
        return Answer(data=Page(generate_latest(), CONTENT_TYPE_LATEST))

    async def openapi(self, _: AnyCall) -> Answer:
        """What can be asked of this door."""
        return await self._documents.openapi()

    async def docs(self, _: AnyCall) -> Answer:
        """The same to read."""
        return self._documents.file("index.html")

    async def docs_file(self, call: AnyCall) -> Answer:
        """What that page is made of."""
        return self._documents.file(call.path["name"])

    async def metrics_targets(self, _: AnyCall) -> Answer:
        """Where Prometheus finds the metrics of every process, in the form of its HTTP service discovery."""
        found = await self._bus.ping_all(within=PING_SECONDS)
        return Answer(data=Page(targets(found), "application/json"))

    async def _changeable(self, call: AnyCall) -> Target:
        """A memory within reach, there or on its way.

        The index is asked because it is quick, not because it is needed: what it could know and the record does not
        lies before the record on the streams.
        """
        memory_id = _memory_id(call)
        try:
            memory, _ = await self._find_memory(call, within=GLANCE_SECONDS)
        except (NotFound, Unavailable) as error:
            found = await self._pending.find(call.caller.tenant, memory_id)
            if found is None:
                memory = await self._arrived(call, error)
            elif reaches(call.caller, found.memory):
                return Target(memory_id, Owner.of(found.memory), found.urgency, found.sequence)
            else:
                raise NotFound(NO_MEMORY) from error
        return Target(memory_id, Owner.of(memory))

    async def _arrived(self, call: AnyCall, error: NotFound | Unavailable) -> Memory:
        """A memory that may have arrived while it was looked for on its way. Raises what is so otherwise."""
        try:
            memory = await self._ask(GetMemory(tenant=call.caller.tenant, memory_id=_memory_id(call)))
        except NotFound:
            raise NotFound(NO_MEMORY) from error
        if not reaches(call.caller, memory):
            raise NotFound(NO_MEMORY) from error
        return memory

    async def _find_memory(self, call: AnyCall, *, within: float | None = None) -> tuple[Memory, tuple[str, ...]]:
        """A memory within the caller's reach, and the parts that could not help. `NotFound` when no part has it.

        `within` so many seconds the index has to answer.

        One that is there but out of reach is looked for as long as one that is not there.
        """
        tenant, memory_id = call.caller.tenant, _memory_id(call)
        away: Unavailable | None = None
        try:
            memory = await self._ask(GetMemory(tenant=tenant, memory_id=memory_id))
            if reaches(call.caller, memory):
                return memory, ()
        except NotFound:
            pass
        except Unavailable as error:
            away = error
        found = (await self._ask(FindIndexed(tenant=tenant, memory_id=memory_id), within=within)).found
        if found is not None and reaches(call.caller, found.memory):
            return found.memory, (f"graph: {away.message}",) if away else ()
        raise away or NotFound(NO_MEMORY)


def _memory_id(call: AnyCall) -> str:
    text = call.path["id"]
    if not UUID_FORM.fullmatch(text):
        raise NotFound(NO_MEMORY)
    return text


def _part(call: AnyCall) -> Filters | None:
    """The memories that tell the caller's graph, where it may not reach them all."""
    return None if call.caller.bounds.any else call.caller.narrowed(Filters())


def _node_id(call: AnyCall) -> str:
    try:
        return NODE_ID.validate_python(call.path["id"])
    except ValidationError as error:
        raise Rejected("a node's id reads `type:name`, the type in lower case", field="id") from error


def _deadline(at: datetime | None, milliseconds: int | None) -> datetime | None:
    """The earlier of a moment and so many milliseconds from now."""
    soon = datetime.now(UTC) + timedelta(milliseconds=milliseconds) if milliseconds is not None else None
    return min(filter(None, (at, soon)), default=None)


def _fields(query: Message) -> dict[str, Any]:
    return {name: getattr(query, name) for name in type(query).model_fields}


def _degraded(parts: Collection[str]) -> dict[str, Any]:
    return {"degraded": list(parts)} if parts else {}


def _milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
