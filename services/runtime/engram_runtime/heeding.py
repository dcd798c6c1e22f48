"""Tasks that were told to stop do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def heeding(doing: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The same, raising `CancelledError` where its task was cancelled meanwhile, whatever came of it.

    Up to Python 3.11, `asyncio.wait_for` forgets a cancellation that comes in the moment in which what it waits for is
    there (CPython issue 86296). Libraries wait with it, and who asks again and again until a deadline would never end.
    """

    async def heeded(*args: P.args, **named: P.kwargs) -> T:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            return await doing(*args, **named)
        finally:
            if task and task.cancelling() > before:
                raise asyncio.CancelledError

    return heeded
