"""Server-sent events over HTTP (WHATWG HTML, 9.2). Data is one line of JSON, so it needs no further framing."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web
from aiohttp.http import HttpVersion11

from engram_api.calls import Stream
from engram_api.lines import EndError, Line, Lines, Outlet
from engram_contracts.answers import Refusal

EVENT_STREAM = "text/event-stream"
HEADERS = {
    "Content-Type": f"{EVENT_STREAM}; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}
BEAT = b": here\n\n"
_OWN = frozenset(name.lower() for name in (*HEADERS, "Content-Length", "Transfer-Encoding"))


def frame(event: str, data: bytes, at: int | None) -> bytes:
    """One event."""
    told = b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    return told if at is None else b"id: %d\n%b" % (at, told)


def chunked(body: bytes) -> bytes:
    """Bytes as a chunk of HTTP/1.1; the same for every client, unlike what the library makes of them."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def chunked_frame(event: str, data: bytes, at: int | None) -> bytes:
    """One event as a chunk."""
    return chunked(frame(event, data, at))


async def play(
    request: web.Request, head: web.Response, stream: Stream, line: Line, lines: Lines
) -> web.StreamResponse:
    """Send the stream under the headers of `head` until it ends or its client is gone."""
    response = await _begun(request, head)
    in_chunks = request.version >= HttpVersion11
    outlet = Outlet(line, "sse" if in_chunks else "sse/1.0", chunked_frame if in_chunks else frame)
    with lines.held(line):
        playing = asyncio.create_task(_played(stream, outlet))
        await asyncio.wait((playing, line.over), return_when=asyncio.FIRST_COMPLETED)
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing
        await _finished(response, line, outlet)
    return response


async def _played(stream: Stream, outlet: Outlet) -> None:
    try:
        await stream.play(outlet)
    except EndError as end:
        outlet.line.end(end.reason, end.error)
    else:
        outlet.line.end("done")


async def _begun(request: web.Request, head: web.Response) -> web.StreamResponse:
    kept = {name: value for name, value in head.headers.items() if name.lower() not in _OWN}
    response = web.StreamResponse(status=200, headers={**kept, **HEADERS})
    await response.prepare(request)
    await response.write(b": engram\n\n")
    return response


async def _finished(response: web.StreamResponse, line: Line, outlet: Outlet) -> None:
    """Say why, where that can be said, and close what cannot be used further."""
    end = line.over.result()
    if end.reason in ("slow", "gone"):
        line.transport.abort()
        return
    if end.error is not None:
        refusal = Refusal(code=end.error.code, message=end.error.message)
        with contextlib.suppress(OSError, RuntimeError):
            line.transport.write(outlet.frame("error", refusal.encode(), None))
    with contextlib.suppress(ConnectionError):
        await response.write_eof()
