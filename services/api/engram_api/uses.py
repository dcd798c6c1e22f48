"""When keys were last used: remembered in this process, and written down together now and then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime

from engram_api.keyring import Keyring
from engram_contracts.control import KeyUse
from engram_contracts.errors import EngramError
from engram_contracts.topology import KEY_USES
from engram_runtime.bus import Bus

log = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
CLOSE_SECONDS = 2.0


@contextlib.asynccontextmanager
async def noting_uses(bus: Bus, keyring: Keyring, *, every: float = EVERY_SECONDS) -> AsyncIterator[None]:
    """While the context is open, the last use of each key is written down; once more at its end."""
    task = asyncio.create_task(_note_for_ever(bus, keyring, every))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await _note(bus, keyring)


async def _note_for_ever(bus: Bus, keyring: Keyring, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        await _note(bus, keyring)


async def _note(bus: Bus, keyring: Keyring) -> None:
    """Write down what was used since; what cannot be written is tried again the next time."""
    bucket = bus.bucket(KEY_USES)
    uses: dict[str, datetime] = dict(keyring.used)
    for key, at in uses.items():
        try:
            await bucket.put(key, KeyUse(at=at).encode())
        except EngramError as error:
            log.warning("use of keys not written", extra={"error": error.message})
            return
        if keyring.used.get(key) == at:
            del keyring.used[key]
