"""A real door in a process of its own, which tells how long its event loop was held at most, and what it took.

Held is counted in processor time, so that a busy machine changes nothing. Arguments: the settings as JSON, and the file
to tell it in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from engram_api.service import open_service
from engram_api.settings import Settings
from engram_runtime import host
from engram_runtime.nats_bus import NatsBus
from engram_runtime.service import Service

TICK_SECONDS = 0.005
TELL_SECONDS = 0.1


def resident() -> int:
    """Bytes of memory this process has in hand."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


async def _watch(file: Path) -> None:
    worst, most, before, told = 0.0, 0, time.thread_time(), 0.0
    while True:
        await asyncio.sleep(TICK_SECONDS)
        now = time.thread_time()
        worst, before, most = max(worst, now - before), now, max(most, resident())
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            part = file.with_suffix(".part")
            part.write_text(json.dumps({"held": worst, "most": most, "resident": resident()}))
            part.replace(file)
        if file.with_suffix(".reset").exists():
            file.with_suffix(".reset").unlink()
            worst, most = 0.0, 0


@contextlib.asynccontextmanager
async def watched(settings: Settings, bus: NatsBus) -> AsyncIterator[Service]:
    """The door, with a task beside it that watches its loop."""
    async with open_service(settings, bus) as service:
        task = asyncio.create_task(_watch(Path(sys.argv[2])))
        try:
            yield service
        finally:
            task.cancel()


if __name__ == "__main__":
    flags: dict[str, Any] = json.loads(sys.argv[1])
    host.run("api", watched, Settings, flags)
