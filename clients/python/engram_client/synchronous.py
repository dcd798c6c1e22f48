"""The synchronous client, made from the asynchronous one by `make client`; change that one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from engram_client.asks import STREAM, Again, Ask, Exchange, Policy, Values, data_as, everything, page_of, with_meta
from engram_client.streams import Event, Thinking, read
from engram_contracts.answers import Accepted, AcceptedChange, AcceptedMany, AcceptedQuestion, Job, Ready, Thoughts
from engram_contracts.errors import Expired, Internal
from engram_contracts.live import JOB_EVENTS, TENANT_EVENTS, HappeningKind
from engram_contracts.memory import Filters, Memory, MemoryChanges, NewMemory, Verdict
from engram_contracts.questions import (
    Fold,
    History,
    Mode,
    Neighbourhood,
    Node,
    NodeDetail,
    PackedContext,
    PackingOrder,
    Path,
    RecallWeights,
    Recollection,
    Usage,
)
from engram_contracts.recovery import DeadLetter

T = TypeVar("T")
Wait = Literal["indexed", "done"]

QUIET = httpx.Timeout(60.0, connect=5.0)
"""A stream of which nothing is heard for so long is broken; the door says something every few seconds."""

LASTING = ("done", "dead", "cancelled", "expired")
"""States in which a job stays."""


class Engram:
    """Engram over HTTP. Use it as a context manager, or call `close`.

    Each call is tried again when the door is away or busy, as `policy` says; what changes something is sent under an
    idempotency key, so that it has one effect. Errors are those of `engram_contracts.errors`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8765",
        key: str | None = None,
        *,
        timeout: float = 70.0,
        policy: Policy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._policy = policy or Policy()
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout, connect=5.0),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, ask: Ask[T]) -> T:
        """What comes of a request, after as many tries as it takes. Raises the door's error."""
        exchange = Exchange(ask, self._policy)
        while True:
            try:
                answer = self._http.request(**exchange.sent())
                outcome = exchange.answered(answer.status_code, answer.headers, answer.content)
            except httpx.TransportError as error:
                outcome = exchange.broken(error)
            if not isinstance(outcome, Again):
                return outcome
            time.sleep(outcome.seconds)

    def call(self, method: str, path: str, body: Values | None = None, **query: Any) -> dict[str, Any]:
        """Any operation of the door by its path (see `/docs`): `data` and `meta` of its answer."""
        ask = Ask(method=method, path=path, body=body, query=query, read=everything, writes=method != "GET")
        return self.send(ask)

    # --- memories ---------------------------------------------------------------------------------------------

    def remember(
        self, memory: NewMemory | str, *, wait: Wait | None = None, idempotency_key: str | None = None
    ) -> Accepted:
        """Keep a memory. It is safe when this returns; with `wait`, it can be recalled as well (or time was up)."""
        given = NewMemory(content=memory) if isinstance(memory, str) else memory
        ask = Ask(
            method="POST", path="/v1/memories", body=given, query={"wait": wait}, read=data_as(Accepted), writes=True,
            idempotency_key=idempotency_key,
        )  # fmt: skip
        return self.send(ask)

    def remember_many(
        self, memories: Sequence[NewMemory], *, wait: Wait | None = None, idempotency_key: str | None = None
    ) -> AcceptedMany:
        """Keep up to 1,000 memories; one outcome for each, in their order."""
        body = {"memories": [memory.model_dump(mode="json", exclude_unset=True) for memory in memories]}
        ask = Ask(
            method="POST", path="/v1/memories", body=body, query={"wait": wait}, read=data_as(AcceptedMany),
            writes=True, idempotency_key=idempotency_key,
        )  # fmt: skip
        return self.send(ask)

    def memory(self, memory_id: str) -> Memory:
        """One memory as it is now."""
        return self.send(Ask(method="GET", path=_path("/v1/memories", memory_id), read=data_as(Memory)))

    def memories(self, filters: Filters | None = None, *, page: int = 100) -> Iterator[Memory]:
        """All memories that fit, newest first, fetched page by page."""
        query = filters.model_dump(mode="json", exclude_unset=True) if filters else {}
        for memory in self._paged("/v1/memories", "memories", Memory, {**query, "limit": page}):
            yield memory

    def history(self, memory_id: str) -> History:
        """All versions of a memory, oldest first."""
        return self.send(Ask(method="GET", path=_path("/v1/memories", memory_id, "history"), read=data_as(History)))

    def revise(self, memory_id: str, changes: MemoryChanges, *, wait: Wait | None = None) -> Accepted:
        """Change the fields that are set; earlier versions stay in the history."""
        ask = Ask(
            method="PATCH", path=_path("/v1/memories", memory_id), body=changes, query={"wait": wait},
            read=data_as(Accepted), writes=True,
        )  # fmt: skip
        return self.send(ask)

    def forget(self, memory_id: str, *, wait: Wait | None = None) -> Accepted:
        """Delete a memory's text everywhere."""
        path = _path("/v1/memories", memory_id)
        return self.send(Ask(method="DELETE", path=path, query={"wait": wait}, read=data_as(Accepted), writes=True))

    def feedback(
        self, memory_id: str, verdict: Verdict, *, query: str | None = None, note: str | None = None
    ) -> Accepted:
        """Say how a recalled memory served."""
        ask = Ask(
            method="POST", path=_path("/v1/memories", memory_id, "feedback"),
            body={"verdict": verdict, "query": query, "note": note}, read=data_as(Accepted), writes=True,
        )  # fmt: skip
        return self.send(ask)

    # --- questions --------------------------------------------------------------------------------------------

    def recall(
        self,
        query: str,
        *,
        limit: int = 10,
        filters: Filters | None = None,
        explain: bool = False,
        mode: Mode = "auto",
        weights: RecallWeights | None = None,
        as_of: datetime | None = None,
        min_score: float = 0.0,
        min_similarity: float = 0.0,
        fold: Fold = "same",
        written: Sequence[str] = (),
    ) -> Recollection:
        """The memories that best answer a query. `written` are jobs whose effect the answer has to show."""
        body = {
            "query": query, "limit": limit, "filters": filters, "explain": explain, "mode": mode, "weights": weights,
            "as_of": as_of, "min_score": min_score, "min_similarity": min_similarity, "fold": fold,
            "written": list(written),
        }  # fmt: skip
        return self.send(Ask(method="POST", path="/v1/recall", body=body, read=with_meta(Recollection)))

    def context(
        self,
        query: str,
        *,
        budget: int = 2_000,
        order: PackingOrder = "greedy",
        limit: int = 50,
        filters: Filters | None = None,
        as_of: datetime | None = None,
        min_score: float = 0.0,
    ) -> PackedContext:
        """What a prompt should know to answer a query, in a budget of tokens. No model is asked."""
        body = {
            "query": query, "budget": budget, "order": order, "limit": limit, "filters": filters, "as_of": as_of,
            "min_score": min_score,
        }  # fmt: skip
        return self.send(Ask(method="POST", path="/v1/context", body=body, read=with_meta(PackedContext)))

    def think(
        self,
        question: str,
        *,
        limit: int = 10,
        filters: Filters | None = None,
        model: str | None = None,
        deadline_ms: int | None = None,
        within: float = 300.0,
    ) -> Thoughts:
        """An answer with the memories it rests on; waited for by its job when the door does not have it at once."""
        body = _question(question, limit, filters, model, deadline_ms)
        ask = Ask(method="POST", path="/v1/think", body=body, read=_thoughts, writes=True)
        answer = self.send(ask)
        if isinstance(answer, Thoughts):
            return answer
        job = self.settled(answer.job, within=within)
        if job.thought is None:
            raise Internal(f"the question ended as {job.state}: {job.reason or 'without an answer'}")
        return job.thought

    def stream_think(
        self,
        question: str,
        *,
        limit: int = 10,
        filters: Filters | None = None,
        model: str | None = None,
        deadline_ms: int | None = None,
    ) -> Generator[Event, None, None]:
        """The answer as it is made: `accepted`, `token`s, `citations`, `usage`, and `done` with all of it.

        `retry` says that the pieces so far do not count. A broken connection is taken up again. Leaving the iterator
        loses nothing: the job that `accepted` names has the answer.
        """
        thinking = Thinking(_question(question, limit, filters, model, deadline_ms))
        ask = Ask(method="POST", path="/v1/think", body=thinking.question, read=everything, writes=True)
        exchange = Exchange(ask, self._policy)
        while not thinking.over:
            with closing(self._listen(exchange, thinking.instead())) as heard:
                for sent in heard:
                    event = thinking.take(sent)
                    if event is not None:
                        yield event
                    if thinking.over:
                        return

    # --- the graph --------------------------------------------------------------------------------------------

    def nodes(
        self,
        *,
        node_type: str | None = None,
        prefix: str | None = None,
        page: int = 100,
    ) -> Iterator[Node]:
        """All nodes that fit, most mentioned first, fetched page by page."""
        query = {"type": node_type, "prefix": prefix, "limit": page}
        for node in self._paged("/v1/graph/nodes", "nodes", Node, query):
            yield node

    def node(self, node: str, *, limit: int = 20) -> NodeDetail:
        """A node with its strongest edges and the memories that mention it."""
        ask = Ask(method="GET", path=_path("/v1/graph/nodes", node), query={"limit": limit}, read=data_as(NodeDetail))
        return self.send(ask)

    def put_node(self, node: str, attributes: Values | None = None, *, wait: Wait | None = None) -> AcceptedChange:
        """Create a node, or merge attributes into it."""
        body = {"id": node, "attributes": dict(attributes or {})}
        return self.send(_change("POST", "/v1/graph/nodes", body, {"wait": wait}))

    def drop_node(self, node: str, *, wait: Wait | None = None) -> AcceptedChange:
        """Remove a node with its edges and mentions."""
        return self.send(_change("DELETE", _path("/v1/graph/nodes", node), None, {"wait": wait}))

    def put_edge(
        self,
        source: str,
        edge_type: str,
        target: str,
        *,
        weight: float = 1.0,
        valid_from: datetime | None = None,
        valid_to: datetime | None = None,
        evidence: Sequence[str] = (),
        wait: Wait | None = None,
    ) -> AcceptedChange:
        """Create an edge, or set its weight and validity."""
        body = {
            "source": source, "type": edge_type, "target": target, "weight": weight, "valid_from": valid_from,
            "valid_to": valid_to, "evidence": list(evidence),
        }  # fmt: skip
        return self.send(_change("POST", "/v1/graph/edges", body, {"wait": wait}))

    def drop_edge(
        self,
        source: str,
        edge_type: str,
        target: str,
        *,
        wait: Wait | None = None,
    ) -> AcceptedChange:
        """Remove an edge."""
        query = {"source": source, "type": edge_type, "target": target, "wait": wait}
        return self.send(_change("DELETE", "/v1/graph/edges", None, query))

    def neighbours(
        self,
        node: str,
        *,
        hops: int = 1,
        limit: int = 50,
        edge_type: str | None = None,
        at: datetime | None = None,
    ) -> Neighbourhood:
        """What lies around a node."""
        query = {"node": node, "hops": hops, "limit": limit, "edge_type": edge_type, "at": at}
        return self.send(Ask(method="GET", path="/v1/graph/neighbours", query=query, read=data_as(Neighbourhood)))

    def path(self, source: str, target: str, *, max_hops: int = 6) -> Path:
        """A shortest path between two nodes. Raises `NotFound` where there is none."""
        query = {"source": source, "target": target, "max_hops": max_hops}
        return self.send(Ask(method="GET", path="/v1/graph/path", query=query, read=data_as(Path)))

    # --- what becomes of it -----------------------------------------------------------------------------------

    def job(self, job: str) -> Job:
        """How far an accepted command has come."""
        return self.send(Ask(method="GET", path=_path("/v1/jobs", job), read=data_as(Job)))

    def settled(self, job: str, *, within: float = 60.0) -> Job:
        """A job once it changes no more. Raises `Expired` when that takes longer than so many seconds."""
        waited, pause = 0.0, 0.05
        while (found := self.job(job)).state not in LASTING:
            if waited > within:
                raise Expired(f"the job is still {found.state} after {within:g} s; look again later")
            time.sleep(pause)
            waited, pause = waited + pause, min(pause * 1.5, 2.0)
        return found

    def cancel(self, job: str) -> Job:
        """Call off a command that has no effect yet."""
        return self.send(Ask(method="DELETE", path=_path("/v1/jobs", job), read=data_as(Job), writes=True))

    def follow(self, job: str) -> Generator[Event, None, None]:
        """What becomes of a job, as it happens, until it ends."""
        exchange = Exchange(Ask(method="GET", path=_path("/v1/jobs", job, "events"), read=everything), self._policy)
        while True:
            with closing(self._listen(exchange, {})) as heard:
                for sent in heard:
                    event = read(sent, JOB_EVENTS)
                    if event is not None:
                        yield event
                    if sent.event == "done":
                        return

    def events(
        self,
        *,
        after: str | int | None = None,
        kinds: Sequence[HappeningKind] = (),
        user_id: str | None = None,
        agent_id: str | None = None,
        session_id: str | None = None,
    ) -> Generator[Event, None, None]:
        """What happens to the tenant's memory, for ever, without gaps or repeats across broken connections.

        Keep the `id` of the last event that was dealt with: `after` it, another client goes on.
        """
        query = {"kind": list(kinds), "user_id": user_id, "agent_id": agent_id, "session_id": session_id}
        last = None if after is None else str(after)
        exchange = Exchange(Ask(method="GET", path="/v1/events", query=query, read=everything), self._policy)
        while True:
            own = {} if last is None else {"headers": {"Last-Event-ID": last}}
            with closing(self._listen(exchange, own)) as heard:
                for sent in heard:
                    event = read(sent, TENANT_EVENTS)
                    last = sent.id or last
                    if event is not None:
                        yield event

    def usage(
        self,
        *,
        since: str | None = None,
        until: str | None = None,
        meter: str | None = None,
        by: Literal["day", "hour"] = "day",
    ) -> Usage:
        """What the tenant used, in total and by day or hour, from day to day (`YYYY-MM-DD`), both inclusive."""
        query = {"since": since, "until": until, "meter": meter, "by": by}
        return self.send(Ask(method="GET", path="/v1/usage", query=query, read=data_as(Usage)))

    def dead_letters(self, *, page: int = 100, **filters: str | None) -> Iterator[DeadLetter]:
        """What could not be handled, newest first, fetched page by page."""
        for letter in self._paged("/v1/dead-letters", "letters", DeadLetter, {**filters, "limit": page}):
            yield letter

    def ready(self) -> Ready:
        """Whether everything works."""
        return self.send(Ask(method="GET", path="/health/ready", read=data_as(Ready)))

    def _listen(self, exchange: Exchange[Any], instead: dict[str, Any]) -> Generator[ServerSentEvent, None, None]:
        """What one connection brings. It ends with the connection, after the pause that is due before the next one."""
        try:
            with connect_sse(self._http, **{**exchange.sent(), **instead}, timeout=QUIET) as source:
                again = _refused(exchange, source.response)
                if again is None:
                    for sent in source.iter_sse():
                        exchange.begun()
                        yield sent
                    again = exchange.broken(EOFError())
        except httpx.TransportError as error:
            again = exchange.broken(error)
        time.sleep(again.seconds)

    def _paged(self, path: str, name: str, kind: Any, query: Values) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            asked = {**query, "cursor": cursor}
            found, cursor = self.send(Ask(method="GET", path=path, query=asked, read=page_of(kind, name)))
            for each in found:
                yield each
            if cursor is None:
                return


def _path(*parts: str) -> str:
    return "/".join([parts[0], *(quote(part, safe="") for part in parts[1:])])


def _change(method: str, path: str, body: Values | None, query: Values) -> Ask[AcceptedChange]:
    return Ask(method=method, path=path, body=body, query=query, read=data_as(AcceptedChange), writes=True)


def _question(
    question: str, limit: int, filters: Filters | None, model: str | None, deadline_ms: int | None
) -> dict[str, Any]:
    return {"question": question, "limit": limit, "filters": filters, "model": model, "deadline_ms": deadline_ms}


def _thoughts(data: Any, _: dict[str, Any]) -> Thoughts | AcceptedQuestion:
    return Thoughts.model_validate(data) if "answer" in data else AcceptedQuestion.model_validate(data)


def _refused(exchange: Exchange[Any], response: httpx.Response) -> Again | None:
    """When to try again where the door did not begin a stream. Raises its error where that would not help."""
    if response.status_code < 400 and STREAM in response.headers.get("Content-Type", ""):
        return None
    outcome = exchange.answered(response.status_code, response.headers, response.read())
    if isinstance(outcome, Again):
        return outcome
    raise Internal("the answer is no stream of events; is this door of an older release?")
