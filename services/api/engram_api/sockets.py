"""The WebSocket `/v1/ws`: who speaks, then commands, streams and subscriptions, each by the door's one way in.

What a client sends goes through the route table like a request over HTTP. What it is sent goes straight to the
transport, bounded like every open connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, cast

from aiohttp import WSMsgType, web
from multidict import CIMultiDict, CIMultiDictProxy

from engram_api import speaking
from engram_api.access import Caller, Permission
from engram_api.calls import Stream
from engram_api.door import Door, Exchange
from engram_api.gate import KEY_HEADER, TENANT_HEADER, Gate
from engram_api.lines import EndError, Line, Lines, Outlet, Reason
from engram_api.settings import ServeSettings
from engram_api.shares import Shares
from engram_api.speaking import PING, PONG, Ask, framed, said
from engram_api.tickets import Tickets
from engram_contracts.answers import Refusal
from engram_contracts.errors import EngramError, Forbidden, RateLimited, Rejected, Unauthorized
from engram_contracts.live import CLOSE_CODES, Failed, Hello, Ping, Pong, Stop, Stopped, Subscribe, Welcome

log = logging.getLogger(__name__)

PATH = "/v1/ws"
CREDENTIALS = ("Authorization", KEY_HEADER)
UNKNOWN_AT_ONCE = 200
"""So many may be connected that have not said who they are."""
MOST_CALLS = 64
"""So many of one client's commands, streams and subscriptions may be under way."""
MOST_MISTAKES = 10
CLOSING_SECONDS = 2.0
ENDS: Mapping[Reason, int] = {"done": 1000, "leaving": 1001, "silent": 4408, "slow": 4480, "invalid": 4400}


class Sockets:
    """Opens WebSockets and serves them."""

    def __init__(self, door: Door, gate: Gate, tickets: Tickets, lines: Lines, settings: ServeSettings) -> None:
        self._door = door
        self._gate = gate
        self._tickets = tickets
        self._lines = lines
        self._settings = settings
        self._unknown = Shares("unknown connections", total=UNKNOWN_AT_ONCE)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one WebSocket until it is closed."""
        socket = web.WebSocketResponse(
            timeout=CLOSING_SECONDS, autoping=False, compress=False, max_msg_size=self._settings.body_limit
        )
        try:
            if not socket.can_prepare(request).ok:
                raise Rejected("open this path as a WebSocket", status=426)
            caller = await self._known(request)
        except EngramError as error:
            return Exchange.begin(request, PATH).fail(error)
        await socket.prepare(request)
        try:
            caller = caller or await self._introduced(socket, request)
            self._lines.take(caller.tenant)
        except EngramError as error:
            await _close(socket, request, code_of(error), error.message)
            return socket
        await self._spoken_with(socket, request, caller)
        return socket

    async def _spoken_with(self, socket: web.WebSocketResponse, request: web.Request, caller: Caller) -> None:
        session = Session(socket, request, caller, door=self._door, gate=self._gate, settings=self._settings)
        try:
            await session.run(self._lines)
        finally:
            self._lines.give_back(caller.tenant)

    async def _known(self, request: web.Request) -> Caller | None:
        """The caller where the request itself says so; keys do not belong into addresses, which are logged."""
        if request.query.keys() - {"ticket"}:
            raise Rejected(
                "the address takes a ticket and nothing else; send a key in the first message", field="query"
            )
        self._door.check_address(request.remote)
        if "ticket" in request.query:
            return await self._checked(self._tickets.take(request.query["ticket"]), request)
        if self._gate.open:
            _check_origin(request)
        elif not any(name in request.headers for name in CREDENTIALS):
            return None
        return await self._checked(self._gate.identify(request.headers), request)

    async def _introduced(self, socket: web.WebSocketResponse, request: web.Request) -> Caller:
        self._unknown.take("")
        try:
            async with asyncio.timeout(self._settings.hello_seconds):
                message = await socket.receive()
        except TimeoutError as error:
            raise Unauthorized("the first message has to be a hello, and came too late") from error
        finally:
            self._unknown.give_back("")
        if message.type is not WSMsgType.TEXT:
            raise Rejected("the first message has to be a hello")
        hello = speaking.introduced(message.data)
        if (hello.key is None) == (hello.ticket is None):
            raise Rejected("a hello takes a key or a ticket")
        if hello.ticket is not None:
            return await self._checked(self._tickets.take(hello.ticket), request)
        return await self._checked(self._gate.identify(_headers(hello, request)), request)

    async def _checked(self, finding: Coroutine[Any, Any, Caller], request: web.Request) -> Caller:
        try:
            caller = await finding
        except Unauthorized:
            self._door.failed_address(request.remote)
            raise
        self._gate.recheck(caller, _any_permission(caller))
        return caller


class Session:
    """One WebSocket of a known caller."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        caller: Caller,
        *,
        door: Door,
        gate: Gate,
        settings: ServeSettings,
    ) -> None:
        assert request.transport is not None
        self._socket = socket
        self._request = request
        self._caller = caller
        self._door = door
        self._settings = settings
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._streaming: dict[str, asyncio.Task[None]] = {}
        self._stopped: set[str] = set()
        self._mistakes = 0
        permission = _any_permission(caller)
        self._line = Line(
            "ws",
            request.transport,
            most=settings.unread_bytes,
            slow=settings.slow_seconds,
            every=settings.beat_seconds,
            beat=lambda: framed(b"", PING),
            recheck=lambda: gate.recheck(caller, permission),
            answers=True,
        )

    async def run(self, lines: Lines) -> None:
        """Welcome the client and serve it until it leaves, or has to."""
        with lines.held(self._line):
            self._say(
                Welcome(
                    tenant=self._caller.tenant,
                    role=self._caller.role,
                    heartbeat_seconds=self._settings.beat_seconds,
                )
            )
            listening = asyncio.create_task(self._listen())
            await asyncio.wait((listening, self._line.over), return_when=asyncio.FIRST_COMPLETED)
            self._line.end("done")
            await _ended(listening, *self._streaming.values())
            await self._leave(self._line.over.result())
            if self._calls:  # what the door has begun to serve is served, and metered
                await asyncio.wait(self._calls.values())

    async def _leave(self, end: EndError) -> None:
        if end.reason == "gone":
            self._line.transport.abort()
            return
        code = code_of(end.error) if end.error is not None else ENDS[end.reason]
        await _close(self._socket, self._request, code, end.error.message if end.error else CLOSE_CODES[code])

    async def _listen(self) -> None:
        """Take what the client says until it says no more."""
        while True:
            message = await self._socket.receive()
            self._line.heard()
            if message.type is WSMsgType.PING:
                self._line.offer(framed(message.data, PONG))
            elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self._take(message.data)
            elif message.type is not WSMsgType.PONG:
                return

    def _take(self, text: str | bytes) -> None:
        try:
            message = speaking.heard(text)
        except Rejected as error:
            self._refuse(None, error)
            return
        if isinstance(message, Ping):
            self._say(Pong())
        elif isinstance(message, Stop):
            self._stop(message.id)
        elif message.id in self._calls:
            self._refuse(message.id, Rejected("this id is still in use; choose another one", field="id"))
        elif len(self._calls) >= MOST_CALLS:
            self._refuse(message.id, RateLimited(f"more than {MOST_CALLS} things under way on this connection"))
        else:
            self._calls[message.id] = asyncio.create_task(self._call(message))

    def _stop(self, identity: str) -> None:
        """End a stream, or have it end before it begins; what is no stream is served to its end."""
        if (playing := self._streaming.get(identity)) is not None:
            playing.cancel()
        elif identity in self._calls:
            self._stopped.add(identity)

    async def _call(self, ask: Ask) -> None:
        """Have the door serve a message, and send what it answers, or what it streams."""
        try:
            await self._served(ask)
        except EndError as end:
            self._line.end(end.reason, end.error)
        except Exception as error:
            log.exception("command failed", extra={"error": type(error).__name__})
            self._line.end("gone")
        finally:
            del self._calls[ask.id]
            self._stopped.discard(ask.id)

    async def _served(self, ask: Ask) -> None:
        spoken = speaking.request_of(ask, self._caller, remote=self._request.remote, host=self._request.host)
        operation = speaking.operation_of(ask)
        exchange = Exchange.begin(spoken, operation.path)
        try:
            response = await self._door.respond(operation, exchange, spoken)
            if exchange.stream is None or response.status >= 400:
                body = response.body if isinstance(response.body, bytes) else b""
                await self._line.send(speaking.answer(ask.id, response.status, body))
                return
            form = f"ws/{ask.id}" if isinstance(ask, Subscribe) else "ws"
            await self._played(ask.id, exchange.stream, Outlet(self._line, form, speaking.frame_of(ask.id)))
        finally:
            await self._door.let_go(exchange)
        await self._line.send(said(Stopped(id=ask.id)))

    async def _played(self, identity: str, stream: Stream, outlet: Outlet) -> None:
        """Play a stream until it ends, is stopped, or the client leaves."""
        if identity in self._stopped or self._line.over.done():
            return
        playing = self._streaming[identity] = asyncio.create_task(stream.play(outlet))
        try:
            await asyncio.wait((playing,))
            if not playing.cancelled():
                playing.result()
        finally:
            del self._streaming[identity]

    def _say(self, message: Welcome | Pong | Failed) -> None:
        if not self._line.offer(said(message)):
            self._line.end("slow")

    def _refuse(self, identity: str | None, error: EngramError) -> None:
        """Tell what is wrong with a message; who makes nothing but mistakes is closed."""
        self._say(Failed(id=identity, error=Refusal(code=error.code, message=error.message)))
        self._mistakes += 1
        if self._mistakes >= MOST_MISTAKES:
            self._line.end("invalid")


def code_of(error: EngramError) -> int:
    """The close code that stands for an error."""
    if isinstance(error, Unauthorized):
        return 4401
    if isinstance(error, Forbidden):
        return 4403
    if isinstance(error, RateLimited):
        return 4429
    return 4400 if error.retry == "never" else 4503


async def _close(socket: web.WebSocketResponse, request: web.Request, code: int, why: str) -> None:
    """Say why and close. Who does not read what lies before that is cut off after a while."""
    await socket.close(code=code, message=why.encode()[:120], drain=False)
    transport = request.transport
    deadline = asyncio.get_running_loop().time() + CLOSING_SECONDS
    while transport is not None and transport.get_write_buffer_size():
        if asyncio.get_running_loop().time() > deadline:
            transport.abort()
            return
        await asyncio.sleep(0.05)


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _headers(hello: Hello, request: web.Request) -> CIMultiDictProxy[str]:
    given = {"Authorization": f"Bearer {hello.key}", "Host": request.host}
    if hello.tenant is not None:
        given[TENANT_HEADER] = hello.tenant
    return CIMultiDictProxy(CIMultiDict(given))


def _any_permission(caller: Caller) -> Permission:
    """One that it has, to ask whether it still counts."""
    if not caller.permissions:
        raise Forbidden("this key may do nothing here")
    return cast(Permission, min(caller.permissions))


def _check_origin(request: web.Request) -> None:
    """Where no key is asked for, a page of another origin may not speak: browsers send it without asking."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise Forbidden("pages of other origins may not connect while keys are switched off", field="Origin")
