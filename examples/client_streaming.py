"""Follow an answer as it is made, and what happens to a tenant's memory, with the asynchronous client.

ENGRAM_URL and ENGRAM_API_KEY say where Engram is; without them it is the one that runs on this machine.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from engram_client import AsyncEngram
from engram_contracts.live import Opened, Token

URL = os.environ.get("ENGRAM_URL", "http://127.0.0.1:8765")
KEY = os.environ.get("ENGRAM_API_KEY") or Path("~/.engram/data/admin.key").expanduser().read_text().strip()


async def watch(engram: AsyncEngram, listening: asyncio.Event, wanted: int) -> None:
    """Print the next events; a connection that breaks is taken up again behind the last one."""
    async for event in engram.events(kinds=["remembered"]):
        if isinstance(event.data, Opened):
            listening.set()
            continue
        print(f"event {event.id}: {event.name}")
        wanted -= 1
        if wanted == 0:
            return


async def main() -> None:
    """Watch while two memories are kept, then ask."""
    async with AsyncEngram(URL, KEY) as engram:
        listening = asyncio.Event()
        watching = asyncio.create_task(watch(engram, listening, wanted=2))
        await listening.wait()
        await engram.remember("Mara feeds the kiln at six.", wait="indexed")
        await engram.remember("Ines collects the glazes on Friday.", wait="indexed")
        await watching

        async for event in engram.stream_think("When is the kiln fed?"):
            if isinstance(event.data, Token):
                print(event.data.text, end="")
        print()


asyncio.run(main())
