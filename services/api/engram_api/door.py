"""The HTTP side of the door: every route from the table, through one way in and one way out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.typedefs import Handler
from prometheus_client import Counter, Histogram

from engram_api import envelope, sse, traces
from engram_api.access import OPEN, Caller
from engram_api.admission import Admission, Place
from engram_api.bodies import decode, query
from engram_api.brake import Brake
from engram_api.calls import Answer, Call, Page, Stream
from engram_api.gate import Gate
from engram_api.idempotency import Kept, digest, record_key
from engram_api.incoming import (
    Request,
    Spoken,
    correlation_id,
    deadline,
    idempotency_key,
    last_event,
    nothing,
    preferences,
    read_body,
    wants_events,
)
from engram_api.limiting import Limiter
from engram_api.lines import Line, Lines
from engram_api.metrics import AUTH_FAILURES, RATE_LIMITED, REQUESTS, SECONDS, UNMATCHED
from engram_api.protecting import ALWAYS, protect
from engram_api.refusals import Refusals
from engram_api.repeats import Repeats
from engram_api.routes import CALL, OPERATIONS, Operation, check
from engram_api.settings import ServeSettings
from engram_api.share import Share
from engram_api.usage import UsageLog
from engram_contracts.errors import EngramError, Internal, NotFound, RateLimited, Rejected, Unauthorized
from engram_contracts.ids import new_id
from engram_contracts.trail import Mark, targets
from engram_runtime.context import correlation

log = logging.getLogger(__name__)

LARGE = 16 * 1024
"""Bytes of a body that are more than one memory has, and so many that reading what is refused would cost others."""
READINESS = "/health/ready"
"""Its 503 says that a part is away, which is what it was asked; that is no failure of the request."""
_NOT_PASSED_ON = frozenset({"content-type", "content-length"})
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
Method = Callable[[Call[Any, Any]], Awaitable[Answer]]


@dataclass(slots=True)
class Exchange:
    """One request on its way through; what is learned about it is kept for its answer, its usage and its metrics."""

    request: web.BaseRequest | Spoken
    route: str
    request_id: str
    correlation: str
    started: float
    caller: Caller | None = None
    key: str | None = None
    digest: str | None = None
    told: dict[str, str] = field(default_factory=dict)
    stream: Stream | None = None
    seated: bool = False
    trace: str | None = None

    @classmethod
    def begin(cls, request: web.BaseRequest | Spoken, route: str) -> Exchange:
        """A request that has just come in."""
        request_id = new_id()
        known_as = correlation_id(request.headers, request_id)
        correlation.set(known_as)
        return cls(request, route, request_id, known_as, time.perf_counter())

    def answer(self, status: int, body: bytes, content_type: str, headers: Mapping[str, str]) -> web.Response:
        """A response with everything each of them carries."""
        every = {
            "Content-Type": content_type,
            "X-Request-ID": self.request_id,
            "X-Correlation-ID": self.correlation,
            **({"X-Trace-ID": self.trace} if self.trace else {}),
            **ALWAYS,
            **self.told,
            **headers,
        }
        return web.Response(status=status, body=body, headers=every)

    def send(self, kept: Kept, *, repeated: bool = False) -> web.Response:
        """A response with an answer of ours, or of an earlier request under the same key."""
        headers = {**kept.headers, "Idempotency-Replayed": "true"} if repeated else kept.headers
        if "ETag" in headers and self.request.headers.get("If-None-Match") == headers["ETag"]:
            return self.answer(HTTPStatus.NOT_MODIFIED, b"", kept.content_type, headers)
        return self.answer(kept.status, kept.body or b"", kept.content_type, headers)

    def fail(self, error: EngramError, headers: Mapping[str, str] | None = None) -> web.Response:
        """A response that says what went wrong."""
        as_problem = envelope.PROBLEM in self.request.headers.get("Accept", "")
        body = envelope.failure(error, self.request_id, as_problem=as_problem)
        content_type = envelope.PROBLEM if as_problem else envelope.JSON
        response = self.answer(
            error.http_status, body, content_type, {**envelope.error_headers(error), **(headers or {})}
        )
        if error.http_status == HTTPStatus.REQUEST_TIMEOUT:
            response.force_close()
        return response


class Door:
    """Turns HTTP requests into calls of the handlers, and their answers into HTTP."""

    def __init__(
        self,
        handlers: object,
        settings: ServeSettings,
        *,
        gate: Gate,
        admission: Admission,
        share: Share,
        limiter: Limiter,
        usage: UsageLog,
        refusals: Refusals | None,
        repeats: Repeats,
        lines: Lines,
    ) -> None:
        check(OPERATIONS, handlers)
        self._gate = gate
        self._admission = admission
        self._share = share
        self._limiter = limiter
        self._brake = Brake()
        self._usage = usage
        self._refusals = refusals
        self._repeats = repeats
        self._settings = settings
        self._lines = lines
        self._methods: dict[str, Method] = {one.name: getattr(handlers, one.name) for one in OPERATIONS}
        self._plain = {one.name: nothing(one.query) for one in OPERATIONS}

    def application(self) -> web.Application:
        """The application with all routes."""
        application = web.Application(middlewares=[_enveloped])
        for operation in OPERATIONS:
            application.router.add_route(operation.method, operation.path, self._route(operation))
        protect(application, self._settings)
        return application

    def _route(self, operation: Operation) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            exchange = Exchange.begin(request, operation.path)
            try:
                response = await self.respond(operation, exchange, request)
                if exchange.stream is None or response.status >= HTTPStatus.BAD_REQUEST:
                    return response
                line = self._line(operation, exchange, request)
                return await sse.play(request, response, exchange.stream, line, self._lines)
            finally:
                await self.let_go(exchange)

        return serve

    async def respond(self, operation: Operation, exchange: Exchange, request: Request) -> web.Response:
        """The response to a request, whatever brought it. What is streamed behind it lies in the exchange."""
        with traces.of_request(operation, request.headers, exchange.request_id, exchange.correlation) as step:
            exchange.trace = step.trace_id
            response = await self._responded(operation, exchange, request)
            if exchange.trace is not None:
                traces.ended(step, response.status, exchange.caller.tenant if exchange.caller else None)
            return response

    async def _responded(self, operation: Operation, exchange: Exchange, request: Request) -> web.Response:
        try:
            exchange.caller = await self._admitted(operation, request)
            if exchange.caller is not None:
                await self._limiter.rate(exchange.caller.tenant, operation, exchange.told)
            with self._admission.enter(exchange.caller.tenant if exchange.caller else "") as place:
                turn = self._turn(operation, request, exchange.caller)
                raw = await self._read(operation, request, place)
                async with turn:
                    call = self._call(operation, request, exchange, raw)
                    response = await self._answered(operation, exchange, call)
        except EngramError as error:
            self._note_refusal(error, request)
            response = await self._refused(exchange, error)
        except Exception as error:
            response = exchange.fail(_unexpected(error, operation.path))
        if exchange.caller is not None:
            mark = _mark(exchange, request, response) if operation.audited and self._refusals is not None else None
            response = await self._metered(operation, exchange, exchange.caller, response, mark)
        return _measured(exchange, response)

    def check_address(self, address: str | None) -> None:
        """Raise where too many from this address were not let in."""
        self._limiter.addresses.check(address)

    def failed_address(self, address: str | None) -> None:
        """Note that somebody from this address was not let in."""
        self._limiter.addresses.failed(address)

    async def _admitted(self, operation: Operation, request: Request) -> Caller | None:
        if isinstance(request, Spoken):
            self._gate.recheck(request.caller, operation.permission, system=operation.system)
            return request.caller
        if operation.permission not in OPEN:
            self._limiter.addresses.check(request.remote)
        try:
            return await self._gate.admit(request.headers, operation.permission, system=operation.system)
        except Unauthorized:
            self._limiter.addresses.failed(request.remote)
            raise

    def _turn(
        self, operation: Operation, request: Request, caller: Caller | None
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """What a request that was read waits for. A large one may be refused already, before it is read."""
        if caller is None:
            return _AT_ONCE
        if not operation.bulk:
            self._share.served(caller.tenant)
            return _AT_ONCE if operation.writes or operation.events else self._share.question(caller.tenant)
        if request.content_length is not None and request.content_length <= LARGE:
            return _AT_ONCE
        self._share.check(caller.tenant)
        return self._share.large(caller.tenant)

    async def _refused(self, exchange: Exchange, error: EngramError) -> web.Response:
        response = exchange.fail(error)
        if isinstance(error, RateLimited) and exchange.caller and not await self._brake.hold(exchange.caller.tenant):
            response.force_close()
        return response

    def _line(self, operation: Operation, exchange: Exchange, request: web.Request) -> Line:
        """The connection of a request whose answer is streamed; it ends when its client may not ask again."""
        assert request.transport is not None
        beat = sse.chunked(sse.BEAT) if request.version >= HttpVersion11 else sse.BEAT
        return Line(
            "sse",
            request.transport,
            most=self._settings.unread_bytes,
            slow=self._settings.slow_seconds,
            every=self._settings.beat_seconds,
            beat=lambda: beat,
            recheck=lambda: self._gate.recheck(exchange.caller, operation.permission, system=operation.system),
        )

    async def let_go(self, exchange: Exchange) -> None:
        """Give back what an exchange held while it was streamed."""
        if exchange.stream is not None:
            await exchange.stream.close()
        if exchange.seated and exchange.caller is not None:
            self._lines.give_back(exchange.caller.tenant)

    async def _answered(self, operation: Operation, exchange: Exchange, call: Call[Any, Any]) -> web.Response:
        """The response; under an idempotency key that of the first such request.

        What is streamed is told anew to who repeats the request: the effect is one, because its id is.
        """

        async def answer() -> Kept:
            if exchange.caller is not None:
                await self._limiter.quota(exchange.caller.tenant, operation, call.body)
            said = await self._methods[operation.name](call)
            exchange.stream = said.stream
            return _rendered(operation, exchange, said)

        if exchange.digest is None or exchange.key is None or call.streamed:
            return exchange.send(await answer())
        key = record_key(call.caller.tenant, operation.name, exchange.key)
        kept, repeated = await self._repeats.once(key, exchange.digest, answer, keep=not operation.secret)
        return exchange.send(kept, repeated=repeated)

    async def _read(self, operation: Operation, request: Request, place: Place) -> bytes:
        if operation.body is None:
            return b""
        limit = self._settings.bulk_body_limit if operation.bulk else self._settings.body_limit
        return await read_body(request, place, limit=limit, seconds=self._settings.body_seconds)

    def _call(
        self,
        operation: Operation,
        request: Request,
        exchange: Exchange,
        raw: bytes,
    ) -> Call[Any, Any]:
        streamed = self._streamed(operation, exchange, request)
        caller = exchange.caller or _ANYONE
        exchange.key = caller.named(key) if (key := _repeatable(operation, request)) else None
        asked = self._plain[operation.name]
        if asked is None or request.query_string:
            asked = query(operation.query, request.query)
        body = decode(operation.body, raw) if operation.body is not None else None
        if exchange.key is not None and operation.writes:
            exchange.digest = digest(request.method, request.rel_url.raw_path, request.query.items(), raw)
        return Call(
            caller=caller,
            body=body,
            query=asked,
            path=request.match_info,
            request_id=exchange.request_id,
            correlation=exchange.correlation,
            idempotency_key=exchange.key,
            prefer=preferences(request.headers),
            deadline=deadline(request.headers) if operation.writes else None,
            streamed=streamed,
            after=last_event(request.headers) if streamed else None,
        )

    def _streamed(self, operation: Operation, exchange: Exchange, request: Request) -> bool:
        """Whether the answer is to be streamed; a connection of its own then takes a seat for as long as it is open."""
        if not operation.events or not (operation.answer is None or wants_events(request)):
            return False
        if exchange.caller is not None and not isinstance(request, Spoken):
            self._lines.take(exchange.caller.tenant)
            exchange.seated = True
        return True

    async def _metered(
        self, operation: Operation, exchange: Exchange, caller: Caller, response: web.Response, mark: Mark | None
    ) -> web.Response:
        """The response, once its usage is durable; an error instead where it cannot be."""
        try:
            await self._usage.record(
                tenant=caller.tenant,
                route=operation.name,
                status=response.status,
                counters=_counters(operation, response.status),
                request_id=exchange.request_id,
                idempotency_key=exchange.key,
                mark=mark,
            )
        except EngramError as error:
            return exchange.fail(error)
        return response

    def _note_refusal(self, error: EngramError, request: Request) -> None:
        if self._refusals is not None and error.http_status in REFUSED:
            self._refusals.count(error.code, request.remote)


_AT_ONCE: contextlib.AbstractAsyncContextManager[None] = contextlib.nullcontext()
_ANYONE = Caller(tenant="", role="")


def _repeatable(operation: Operation, request: Request) -> str | None:
    return idempotency_key(request.headers) if operation.method != "GET" else None


@web.middleware
async def _enveloped(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers of the library itself (no such path, wrong method) in our form, with their headers, such as Allow."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        exchange = Exchange.begin(request, UNMATCHED)
        kept = {name: value for name, value in error.headers.items() if name.lower() not in _NOT_PASSED_ON}
        return _measured(exchange, exchange.fail(_translated(error), kept))


def _translated(error: web.HTTPException) -> EngramError:
    if error.status == HTTPStatus.NOT_FOUND:
        return NotFound("there is nothing at this path")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Rejected(f"this path does not take {error.method}; it takes {allowed}", status=error.status)
    return Rejected(error.reason, status=error.status)


def _rendered(operation: Operation, exchange: Exchange, answer: Answer) -> Kept:
    status = answer.status or (operation.settled if answer.settled and operation.settled else operation.status)
    body, content_type = _body(exchange, answer)
    return Kept.model_construct(status=status, content_type=content_type, headers=dict(answer.headers), body=body)


def _body(exchange: Exchange, answer: Answer) -> tuple[bytes, str]:
    if isinstance(answer.data, Page):
        return answer.data.body, answer.data.content_type
    return envelope.success(answer.data, {"request_id": exchange.request_id, **answer.meta}), envelope.JSON


def _mark(exchange: Exchange, request: Request, response: web.Response) -> Mark:
    """What the audit trail is told: who asked, and the ids in the path or of what was made."""
    named = [*request.match_info.values()]
    made = response.headers.get("Location", "").rsplit("/", 1)[-1]
    known_as = exchange.correlation if exchange.correlation != exchange.request_id else None
    actor = exchange.caller.actor if exchange.caller else None
    return Mark(actor=actor, correlation=known_as, **targets([*named, *([made] if made else [])]))


def _counters(operation: Operation, status: int) -> Mapping[str, int]:
    """What a request adds to its tenant's usage; one that failed is a call and nothing else."""
    return operation.counters if status < HTTPStatus.BAD_REQUEST else CALL


def _unexpected(error: Exception, route: str) -> EngramError:
    log.error("request failed", exc_info=error, extra={"route": route, "error": type(error).__name__})
    return Internal("something unexpected went wrong here; the request id leads to it in the log")


def _measured(exchange: Exchange, response: web.Response) -> web.Response:
    route, status = exchange.route, response.status
    seconds = time.perf_counter() - exchange.started
    _requests(route, exchange.request.method, status).inc()
    _seconds(route).observe(seconds)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        AUTH_FAILURES.labels("UNAUTHORIZED" if status == HTTPStatus.UNAUTHORIZED else "FORBIDDEN").inc()
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        RATE_LIMITED.labels(route).inc()
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR and route != READINESS
    if failed or log.isEnabledFor(logging.DEBUG):
        _logged(exchange, status, seconds, failed=failed)
    return response


@lru_cache(maxsize=1_024)
def _requests(route: str, method: str, status: int) -> Counter:
    return REQUESTS.labels(route, method, str(status))


@lru_cache(maxsize=256)
def _seconds(route: str) -> Histogram:
    return SECONDS.labels(route)


def _logged(exchange: Exchange, status: int, seconds: float, *, failed: bool) -> None:
    log.log(
        logging.WARNING if failed else logging.DEBUG,
        "request",
        extra={
            "request_id": exchange.request_id,
            "tenant_id": exchange.caller.tenant if exchange.caller else None,
            "route": exchange.route,
            "method": exchange.request.method,
            "status_code": status,
            "latency_ms": round(seconds * 1000, 3),
        },
    )
