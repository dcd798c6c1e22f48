"""The door's other side: commands that other systems publish straight on NATS.

The broker hands them over with the tenant and the credential in the subject (see `engram_runtime.credentials`). They
pass what a request over HTTP passes: the tenant's state, a place, validation, the group commit, metering. The answer
has the form of JetStream's, so any client that can publish with an acknowledgement understands it.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Protocol, runtime_checkable

from pydantic_core import to_json

from engram_api.access import UNBOUND, Caller, granted
from engram_api.admission import Admission
from engram_api.calls import Call, Prefer
from engram_api.drafts import Draft
from engram_api.gate import Gate
from engram_api.limiting import Limiter
from engram_api.metrics import AUTH_FAILURES, RATE_LIMITED, REQUESTS
from engram_api.refusals import Refusals
from engram_api.routes import CALL, OPERATIONS
from engram_api.usage import UsageLog
from engram_api.withholding import without_private
from engram_api.writes import Writer
from engram_contracts.commands import COMMANDS, Command, Remember, Revise
from engram_contracts.errors import EngramError, Failure, Internal, RateLimited, Rejected
from engram_contracts.ids import JobId, derived_id, new_id
from engram_contracts.topology import ARRIVING, WORK, ArrivingSubject
from engram_runtime.bus import Appended, Bus
from engram_runtime.decoding import decode

log = logging.getLogger(__name__)

QUEUE = "doors"
FULL = 10077
"""JetStream's number for a stream, or a subject of it, that takes no more."""
REFUSED = 10025
"""JetStream's number for a request that it does not take."""

ROUTES: Mapping[str, str] = {
    "remember": "remember", "revise": "revise", "forget": "forget", "judge": "judge", "think": "think",
    "put-node": "put_node", "drop-node": "drop_node", "put-edge": "put_edge", "drop-edge": "drop_edge",
}  # fmt: skip
"""The operation of the door that does what a command asks; its permission and counters are the command's."""

_OPERATIONS = {op: next(each for each in OPERATIONS if each.name == name) for op, name in ROUTES.items()}
ROLE = "writer"
"""The most that a credential may be; what it may send is the broker's to see to."""
_GRANTED = granted(ROLE, None, UNBOUND)
_MEMORY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_ANSWERED_AT_ONCE = Prefer(respond_async=True)

Receive = Callable[[str, bytes], Awaitable[bytes]]


@runtime_checkable
class Receiving(Protocol):
    """A bus on which messages arrive from outside; each is answered with what `receive` makes of it."""

    def receiving(self, pattern: str, queue: str, receive: Receive) -> contextlib.AbstractAsyncContextManager[None]:
        """Take part in a queue group while the context is open; leaving it finishes what was begun."""


class Arrivals:
    """Takes commands of other systems. `pepper` signs job ids; `refusals` are for the audit trail where one is kept."""

    def __init__(
        self,
        gate: Gate,
        admission: Admission,
        *,
        limiter: Limiter,
        writer: Writer,
        usage: UsageLog,
        refusals: Refusals | None,
        pepper: bytes,
    ) -> None:
        self._gate = gate
        self._limiter = limiter
        self._admission = admission
        self._writer = writer
        self._usage = usage
        self._refusals = refusals
        self._pepper = pepper

    async def receive(self, subject: str, body: bytes) -> bytes:
        """The answer to a message: an acknowledgement, or the refusal, in the form of JetStream's."""
        if subject.endswith(".ping"):
            return b"{}"
        at = ArrivingSubject.parse(subject)
        caller = Caller(tenant=at.tenant, role=ROLE, actor=at.credential, permissions=_GRANTED)
        request_id = new_id()
        status, once, answer = HTTPStatus.ACCEPTED.value, None, b""
        try:
            with self._admission.enter(at.tenant) as place:
                place.reserve(len(body))
                command = _command(at, body)
                self._gate.check(caller, command.permission)
                await self._bounded(at, command)
                once = command.id
                answer = self._acknowledged(at.tenant, command, await self._written(caller, command, request_id))
        except Exception as error:
            known = error if isinstance(error, EngramError) else _unexpected(error, at.op)
            status, answer = known.http_status, refusal(known)
            self._note_refusal(known, at)
        return await self._metered(at, status, once, request_id, answer)

    def _note_refusal(self, error: EngramError, at: ArrivingSubject) -> None:
        if error.http_status == HTTPStatus.FORBIDDEN:
            AUTH_FAILURES.labels(error.code).inc()
            if self._refusals is not None:
                self._refusals.count(error.code, at.credential)
        elif error.http_status == HTTPStatus.TOO_MANY_REQUESTS:
            RATE_LIMITED.labels(_route(at.op)).inc()

    async def _bounded(self, at: ArrivingSubject, command: Command) -> None:
        operation = _OPERATIONS[at.op]
        await self._limiter.rate(at.tenant, operation, {})
        body = command.memory if isinstance(command, Remember) else None
        await self._limiter.quota(at.tenant, operation, body)

    async def _written(self, caller: Caller, command: Command, request_id: str) -> Appended:
        """Where the command lies. Messages are told apart by tenant, so that none hides another's behind its own."""
        memory_id = getattr(command, "memory_id", None)
        draft = Draft(command.op, derived_id("arrival", caller.tenant, command.id), command.encode(), memory_id)
        call: Call[None, None] = Call(
            caller=caller, body=None, query=None, path={}, request_id=request_id, correlation=request_id,
            idempotency_key=command.id, prefer=_ANSWERED_AT_ONCE, deadline=command.deadline,
        )  # fmt: skip
        outcome = (await self._writer.write(call, [draft]))[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _acknowledged(self, tenant: str, command: Command, lies: Appended) -> bytes:
        job = JobId(lies.sequence, command.id).text(tenant, self._pepper)
        said = {"stream": WORK.name, "seq": lies.sequence, "job": job}
        return to_json({**said, "duplicate": True} if lies.duplicate else said)

    async def _metered(
        self, at: ArrivingSubject, status: int, once: str | None, request_id: str, answer: bytes
    ) -> bytes:
        """The answer, once its usage is durable; an error instead where it cannot be."""
        route = ROUTES.get(at.op, "unknown")
        REQUESTS.labels(_route(at.op), "PUB", str(status)).inc()
        accepted = status < HTTPStatus.BAD_REQUEST
        try:
            await self._usage.record(
                tenant=at.tenant, route=route, status=status,
                counters=_OPERATIONS[at.op].counters if accepted else CALL,
                request_id=request_id, idempotency_key=f"nats {once}" if once else None,
            )  # fmt: skip
        except EngramError as error:
            return refusal(error)
        return answer


@contextlib.asynccontextmanager
async def arriving(bus: Bus, arrivals: Arrivals) -> AsyncIterator[None]:
    """Take what other systems send, where the bus brings it, while the context is open."""
    if not isinstance(bus, Receiving):
        yield
        return
    async with bus.receiving(ARRIVING, QUEUE, arrivals.receive):
        yield


def refusal(error: EngramError) -> bytes:
    """A refusal as JetStream words them; `failure` says it in Engram's own words."""
    failure = Failure.of(error)
    number = FULL if isinstance(error, RateLimited) or error.http_status == HTTPStatus.SERVICE_UNAVAILABLE else REFUSED
    said = {"code": error.http_status, "err_code": number, "description": f"{failure.code}: {failure.message}"}
    return to_json({"error": said, "failure": failure.model_dump(mode="json", exclude_none=True)})


def _command(at: ArrivingSubject, body: bytes) -> Command:
    """The command in a message, as the door would have made it: accepted now, in the name of the credential.

    Raises `Rejected` for what is none, or names what no memory can be called.
    """
    kind = COMMANDS.get(at.op)
    if kind is None:
        raise Rejected(f"no command is called {at.op!r}; there are {', '.join(COMMANDS)}", field="subject")
    command: Command = decode(kind, body)
    memory_id = getattr(command, "memory_id", None)
    if memory_id is not None and not _MEMORY_ID.fullmatch(memory_id):
        raise Rejected("a memory's id is a UUID in lower case; derive one with `derived_id`", field="memory_id")
    return command.model_copy(update={"accepted_at": datetime.now(UTC), "actor": at.credential, **_kept(command)})


def _kept(command: Command) -> dict[str, Any]:
    """What changes of a command because private parts are never kept, and edits must be valid."""
    if isinstance(command, Remember):
        return {"memory": without_private(command.memory, "memory.content")}
    if isinstance(command, Revise):
        try:
            changes = command.edit()
        except ValueError as error:
            raise Rejected("Revise.changes: these are no valid changes of a memory", field="changes") from error
        return {"changes": without_private(changes, "changes.content").model_dump(mode="json", exclude_unset=True)}
    return {}


def _route(op: str) -> str:
    """The name of a command in metrics."""
    return f"nats:{op if op in ROUTES else 'unknown'}"


def _unexpected(error: Exception, op: str) -> EngramError:
    log.error("message failed", exc_info=error, extra={"op": op, "error": type(error).__name__})
    return Internal("something unexpected went wrong here")
