"""An issuer's key set, read from its address, kept, and read anew when it may have changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from engram_api.tokens import KeySet
from engram_contracts.errors import EngramError, Unauthorized, Unavailable

log = logging.getLogger(__name__)

FRESH_SECONDS = 600.0
COOLING_SECONDS = 10.0
"""So long no second reading begins, whatever tokens come."""
USABLE_SECONDS = 86_400.0
"""So long keys are used while their issuer cannot be reached."""


class IssuerKeys:
    """Keys by id. An id nobody knows has the set read anew, but not more often than every ten seconds."""

    algorithms: tuple[str, ...] = ("RS256", "ES256")

    def __init__(self, fetch: Callable[[], Awaitable[bytes]], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: KeySet | None = None
        self._read_at = self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def key(self, algorithm: str, kid: object) -> Any:  # a key of the library's
        """The key. Raises `Unauthorized` where there is none, `Unavailable` while no set could be read."""
        found = self._known(algorithm, kid)
        if found is not None and self._clock() - self._read_at < FRESH_SECONDS:
            return found
        reading = self._begin()
        if found is None and reading is not None:
            await asyncio.shield(reading)
            found = self._known(algorithm, kid)
        if found is None:
            raise self._unknown()
        return found

    async def close(self) -> None:
        """Return once nothing is being read."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _known(self, algorithm: str, kid: object) -> Any:
        if self._keys is None or self._clock() - self._read_at > USABLE_SECONDS:
            return None
        return self._keys.get(algorithm, kid)

    def _begin(self) -> asyncio.Task[None] | None:
        """The reading that is under way, or a new one where it is time."""
        if self._reading is not None and not self._reading.done():
            return self._reading
        if self._clock() - self._tried_at < COOLING_SECONDS:
            return None
        self._tried_at = self._clock()
        self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        try:
            keys = KeySet.parse(await self._fetch())
        except (EngramError, ValueError, RecursionError) as error:
            log.warning("key set not read", extra={"error": str(error)})
            return
        self._keys, self._read_at = keys, self._clock()

    def _unknown(self) -> EngramError:
        if self._keys is None or self._clock() - self._read_at > USABLE_SECONDS:
            return Unavailable("the issuer's keys cannot be read; try again", retry_after=COOLING_SECONDS)
        return Unauthorized("this token is not valid here; get a new one from its issuer")
