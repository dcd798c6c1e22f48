"""The door's place on the network: a socket of its own or one it was given, and leaving without turning anyone away.

A door that leaves takes no new connection. On those it has, it answers what still comes and says that it was the last
answer; then it closes them. With a socket that another door also has, nobody finds the door shut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from engram_api.connections import Runner
from engram_api.protecting import encryption
from engram_api.settings import ServeSettings
from engram_contracts.errors import Rejected

log = logging.getLogger(__name__)

LINGER_SECONDS = 5.0
"""How long the rest of a refused body is read and dropped, so that the client sees the refusal."""

FAREWELL_SECONDS = 1.5
"""How long connections that are open, but quiet, are kept for a last request when the door leaves."""
LOOK_SECONDS = 0.02


class Leaving:
    """Whether the door is about to leave; `tell` is what says so on each answer."""

    def __init__(self) -> None:
        self.begun = False

    async def tell(self, _: web.Request, response: web.StreamResponse) -> None:
        """Mark an answer as the connection's last."""
        if self.begun:
            response.force_close()
            response.headers["Connection"] = "close"


@contextlib.asynccontextmanager
async def listening(app: web.Application, settings: ServeSettings) -> AsyncIterator[None]:
    """The application, listening while the context is open. Raises `Rejected` where its port is taken."""
    leaving = Leaving()
    app.on_response_prepare.append(leaving.tell)
    runner = Runner(
        app,
        access_log=None,
        logger=_silent(),
        auto_decompress=False,
        head_seconds=settings.head_seconds,
        keepalive_timeout=settings.idle_seconds,
        lingering_time=LINGER_SECONDS,
        shutdown_timeout=settings.drain_seconds,
    )
    await runner.setup()
    site = _site(runner, settings)
    try:
        try:
            await site.start()
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise Rejected(f"cannot listen on {where}: {error.strerror}; set ENGRAM_SERVE_PORT") from error
        log.info("listening", extra={"url": site.name})
        yield
        leaving.begun = True
        await site.stop()
        await _farewell(runner)
    finally:
        await runner.cleanup()


async def _farewell(runner: web.AppRunner) -> None:
    """Wait until the connections have had their last answer."""
    deadline = asyncio.get_running_loop().time() + FAREWELL_SECONDS
    while runner.server is not None and runner.server.connections:
        if asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(LOOK_SECONDS)


def _site(runner: web.AppRunner, settings: ServeSettings) -> web.BaseSite:
    secured = encryption(settings)
    if settings.socket is not None:
        given = socket.socket(fileno=settings.socket)
        given.setblocking(False)
        return web.SockSite(runner, given, ssl_context=secured)
    return web.TCPSite(
        runner, settings.host, settings.port, ssl_context=secured, reuse_port=settings.reuse_port or None
    )


def _silent() -> logging.Logger:
    """A logger for the HTTP library, which would log malformed requests word by word, keys and all."""
    logger = logging.Logger("aiohttp.server")
    logger.addHandler(logging.NullHandler())
    return logger
