"""A reverse proxy as people put before a door: it speaks HTTP on both sides, and passes a WebSocket on as a tunnel.

Like nginx it holds an answer back until it has all of it, unless the answer says `X-Accel-Buffering: no`; and it cuts a
connection on which nothing was sent for `idle` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse, TCPConnector, WSMsgType, web

HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "host",
    "content-length",
})  # fmt: skip

Side = web.WebSocketResponse | ClientWebSocketResponse


class ReverseProxy:
    """Passes requests on to `target`. `url` is where it listens."""

    def __init__(self, target: str, session: ClientSession, *, idle: float) -> None:
        self.url = ""
        self._target = target
        self._session = session
        self._idle = idle

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Have the target answer."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        headers["X-Forwarded-For"] = request.remote or ""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._tunnel(request, headers)
        async with self._session.request(
            request.method, self._target + request.raw_path, headers=headers, data=await request.read()
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            if answer.headers.get("X-Accel-Buffering") != "no":
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, TimeoutError):
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            return response

    async def _tunnel(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        ours = {name: value for name, value in headers.items() if not name.lower().startswith("sec-websocket")}
        async with self._session.ws_connect(self._target + request.raw_path, headers=ours, autoping=False) as inner:
            outer = web.WebSocketResponse(autoping=False)
            await outer.prepare(request)
            ways = [asyncio.create_task(self._carry(outer, inner)), asyncio.create_task(self._carry(inner, outer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await outer.close(code=inner.close_code or 1000)
        return outer

    async def _carry(self, source: Side, sink: Side) -> None:
        """Frames from one side to the other, pings and pongs as well, until it closes or is idle too long."""
        while True:
            message = await source.receive(timeout=self._idle)
            if message.type is WSMsgType.TEXT:
                await sink.send_str(message.data)
            elif message.type is WSMsgType.PING:
                await sink.ping(message.data)
            elif message.type is WSMsgType.PONG:
                await sink.pong(message.data)
            else:
                return


@contextlib.asynccontextmanager
async def reverse_proxy(target: str, *, idle: float = 60.0) -> AsyncIterator[ReverseProxy]:
    """A running proxy on a free port of the loopback; when it ends, so do its connections."""
    timeout = ClientTimeout(total=None, sock_read=idle)
    async with ClientSession(timeout=timeout, connector=TCPConnector(limit=0), auto_decompress=False) as session:
        proxy = ReverseProxy(target, session, idle=idle)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", proxy.pass_on)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield proxy
        finally:
            await runner.cleanup()
