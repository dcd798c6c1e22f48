"""A server in a process of its own, so that what it does costs the process that measures nothing."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from multiprocessing.connection import Connection

Open = Callable[[], AbstractAsyncContextManager[str]]
"""Opens the server, and names its address."""


@contextlib.contextmanager
def apart(server: Open) -> Iterator[str]:
    """The address of the server, which runs while the context is open."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve, args=(server, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join()


def _serve(server: Open, pipe: Connection) -> None:
    asyncio.run(_serving(server, pipe))


async def _serving(server: Open, pipe: Connection) -> None:
    async with server() as address:
        pipe.send(address)
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
