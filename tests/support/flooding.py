"""A tenant that floods: bulk requests at a steady rate, whatever the answers, from a process of its own.

The clients beside which it is measured must not wait for its work. It runs at the lowest priority, as a machine of its
own would not take the system's processor either. A `Flood` comes by standard input, what became of it leaves by output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TESTS = Path(__file__).parent.parent
PATIENCE = 20.0


@dataclass(frozen=True)
class Flood:
    """Requests of `size` memories each, so many a second, for so many seconds."""

    url: str
    key: str
    tenant: str
    seed: int
    seconds: float
    requests: float
    size: int

    def texts(self, number: int) -> list[str]:
        """What a request says; no two texts are equal."""
        return [f"Flood {self.seed}-{number}-{n} of {self.tenant}: water." for n in range(self.size)]


@dataclass
class Flooded:
    """What became of it: requests sent, how often each status came, and ids that were taken, by request and place."""

    sent: int = 0
    began: float = 0.0
    ended: float = 0.0
    """When it was on, in monotonic seconds: without the start of its process, and without its last answers."""
    statuses: dict[str, int] = field(default_factory=dict)
    taken: list[tuple[int, int, str]] = field(default_factory=list)


async def flooded(flood: Flood) -> Flooded:
    """Run the flood in its process to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.flooding", cwd=TESTS, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate(json.dumps(asdict(flood)).encode())
    return Flooded(**json.loads(told))


async def _run(flood: Flood) -> Flooded:
    done, statuses = Flooded(), Counter[str]()
    bodies = [_body(flood, number) for number in range(int(flood.requests))]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:

        async def send(number: int, body: bytes) -> None:
            try:
                status, items = await _sent(session, flood, body)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                statuses[type(error).__name__] += 1
                return
            statuses[str(status)] += 1
            done.taken += [(number, place, item["id"]) for place, item in enumerate(items) if "id" in item]

        began = done.began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() < began + flood.seconds:
                body = bodies[done.sent] if done.sent < len(bodies) else _body(flood, done.sent)
                tasks.create_task(send(done.sent, body))
                done.sent += 1
                await asyncio.sleep(max(0.0, began + done.sent / flood.requests - time.monotonic()))
            done.ended = time.monotonic()
    done.statuses = dict(statuses)
    return done


async def _sent(session: aiohttp.ClientSession, flood: Flood, body: bytes) -> tuple[int, list[dict[str, Any]]]:
    headers = {"Authorization": f"Bearer {flood.key}", "Content-Type": "application/json"}
    async with session.post(f"{flood.url}/v1/memories", data=body, headers=headers) as answer:
        data = (await answer.json())["data"]
        return answer.status, data["memories"] if data else []


def _body(flood: Flood, number: int) -> bytes:
    return json.dumps({"memories": [{"content": text} for text in flood.texts(number)]}).encode()


def main() -> None:
    """Read what to do, do it, tell what became of it."""
    os.nice(19)
    done = asyncio.run(_run(Flood(**json.load(sys.stdin))))
    json.dump(asdict(done), sys.stdout)


if __name__ == "__main__":
    main()
