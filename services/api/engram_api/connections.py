"""What a connection says to what is no HTTP, or more of it than the door reads: an error in the form of all others."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from engram_api import envelope
from engram_contracts.errors import EngramError, Internal, Rejected
from engram_contracts.ids import new_id


class Connection(RequestHandler):
    """One connection. The library's own words would repeat what was sent, keys and all."""

    __slots__ = ()

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
        headers = {"Content-Type": envelope.JSON, "X-Request-ID": identity, "X-Correlation-ID": identity}
        response = web.Response(status=status, body=body, headers=headers)
        response.force_close()
        return response


class ConnectionServer(web.Server):
    """Makes connections of ours."""

    def __call__(self) -> RequestHandler:
        """A connection that was just opened."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """The library's runner, with connections of ours; it has no other way to say which."""

    __slots__ = ()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        made.__class__ = ConnectionServer
        return made


def _error(status: int) -> EngramError:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Internal("something unexpected went wrong here; try again", status=status)
    return Rejected("this is no HTTP request, or its line or headers are longer than 8,190 bytes", status=status)
