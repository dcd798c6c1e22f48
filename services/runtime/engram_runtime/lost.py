"""Answers that were lost with their connection, and asking again where that is safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nats.errors import Error as NatsError

T = TypeVar("T")
AGAIN_SECONDS = 0.02
LONGEST_SECONDS = 5.0


class LostError(NatsError):
    """The connection was lost while an answer was waited for, and is back: whoever was asked may not have heard."""


async def steadily(act: Callable[[], Awaitable[T]]) -> T:
    """Do what may be done twice; again for some seconds where the answer was lost."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        try:
            return await act()
        except LostError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(AGAIN_SECONDS)
