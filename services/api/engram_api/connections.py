"""Connections: how long one may take to say what it wants, and what it is told when that is no HTTP."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from engram_api import envelope
from engram_api.protecting import ALWAYS
from engram_contracts.errors import EngramError, Internal, Rejected
from engram_contracts.ids import new_id


class Connection(RequestHandler):
    """One connection. The library's own words would repeat what was sent, keys and all.

    Its first request's head has to be whole after `head_seconds`, however it trickles in.
    """

    __slots__ = ("_head_seconds",)

    def __init__(self, manager: web.Server, *, head_seconds: float, **how: Any) -> None:
        super().__init__(manager, **how)
        self._head_seconds = head_seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See the library: the time that a quiet connection has begins; here it is that of a head."""
        super().connection_made(transport)
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._next_keepalive_close_time = self._loop.time() + self._head_seconds
        self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The last answer of this connection, unless another one has been begun."""
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        identity = new_id()
        body = envelope.failure(_error(status), identity, as_problem=False)
        headers = {"Content-Type": envelope.JSON, "X-Request-ID": identity, "X-Correlation-ID": identity, **ALWAYS}
        response = web.Response(status=status, body=body, headers=headers)
        response.force_close()
        return response


class ConnectionServer(web.Server):
    """Makes connections of ours."""

    head_seconds: float

    def __call__(self) -> RequestHandler:
        """A connection that was just opened."""
        return Connection(self, head_seconds=self.head_seconds, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """The library's runner, with connections of ours; it has no other way to say which."""

    __slots__ = ("_head_seconds",)

    def __init__(self, app: web.Application, *, head_seconds: float, **how: Any) -> None:
        super().__init__(app, **how)
        self._head_seconds = head_seconds

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        made.__class__ = ConnectionServer
        assert isinstance(made, ConnectionServer)
        made.head_seconds = self._head_seconds
        return made


def _error(status: int) -> EngramError:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Internal("something unexpected went wrong here; try again", status=status)
    return Rejected("this is no HTTP request, or its line or headers are longer than 8,190 bytes", status=status)
