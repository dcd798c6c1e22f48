"""Whether the broker answers at all: one that hangs keeps its connections, and whoever asks it waits in vain.

The client itself finds out after 10 to 15 s, by pings of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from nats.aio.client import Client
from nats.errors import Error as NatsError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
PONG_SECONDS = 1.5


class SilentError(NatsError):
    """The broker is connected and does not answer."""


class Pulse:
    """Looks every second whether a question has waited for one; then the broker has to answer a ping, or is `silent`.

    While it is silent, what waits for an answer fails, and the same ping is waited for.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pong: asyncio.Future[bool] | None = None
        self.silent = False

    async def run(self) -> None:
        """Look for ever."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            waiting = set(self._client._resp_map)  # the client has no other word for who waits
            if self.silent or waiting & before:
                with contextlib.suppress(NatsError, OSError):
                    await self._feel()
            before = waiting

    def reconnected(self) -> None:
        """Another connection: what was asked on the old one is answered no more."""
        self._pong, self.silent = None, False

    async def _feel(self) -> None:
        if not self._client.is_connected:
            self.reconnected()
            return
        pong = self._pong
        if pong is None:
            pong = self._pong = asyncio.get_running_loop().create_future()
            await self._client._send_ping(pong)  # `flush` would cancel it, at which the late answer breaks the client
        await asyncio.wait({pong}, timeout=PONG_SECONDS)
        if pong.done():
            self.reconnected()
        elif pong is self._pong:
            self._fail()

    def _fail(self) -> None:
        if not self.silent:
            log.warning("the broker does not answer")
        self.silent = True
        for answer in list(self._client._resp_map.values()):
            if not answer.done():
                answer.set_exception(SilentError())
