"""A process that hangs is ended, so that another one can take its place: nothing else makes it let go.

A handler that waits for ever is seen by a task; an event loop that stands still is seen by a thread of the
interpreter that needs no Python to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable

log = logging.getLogger(__name__)

HUNG = 75
"""The exit code of a process that ended itself for this."""


@contextlib.asynccontextmanager
async def watched(busy_for: Callable[[], float], *, seconds: float) -> AsyncIterator[None]:
    """While the context is open, end the process when a batch takes longer, or the event loop stands still for it.

    `busy_for` tells how long the longest batch under way has taken.
    """
    watching = asyncio.create_task(_watch(busy_for, seconds))
    try:
        yield
    finally:
        watching.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _watch(busy_for: Callable[[], float], seconds: float) -> None:
    while True:
        with contextlib.suppress(ValueError, OSError, AttributeError):  # an output that is no file cannot be told
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)
        if busy_for() > seconds:
            log.critical("a batch hangs; this process ends", extra={"seconds": seconds})
            os._exit(HUNG)
        await asyncio.sleep(min(seconds / 4, 5.0))
