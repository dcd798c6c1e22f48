"""Embedders as processes of their own, beside whatever else runs on a broker, and what each of them has done."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from engram_runtime.nats_bus import NatsBus
from engram_runtime.settings import NatsSettings

HANDLED = re.compile(r'^engram_messages_handled_total\{stage="embedder"\} (\S+)', re.MULTILINE)


def remote(url: str, dimension: int) -> dict[str, str]:
    """Settings of an embedder whose model is a server of OpenAI's `/embeddings`."""
    return {
        "ENGRAM_EMBEDDER": "openai", "ENGRAM_EMBEDDER_BASE_URL": url, "ENGRAM_EMBEDDER_MODEL": "m-1",
        "ENGRAM_EMBEDDER_DIMENSION": str(dimension),
    }  # fmt: skip


@contextlib.contextmanager
def another_embedder(nats: NatsSettings, folder: Path, settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """One more embedder for the work of the broker. It ends with the context, as a container does that is stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    login = {"ENGRAM_NATS_USER": nats.user, "ENGRAM_NATS_PASSWORD": nats.password and nats.password.get_secret_value()}
    own = {
        "ENGRAM_NATS_URL": nats.url, "ENGRAM_DATA_DIR": str(folder), "ENGRAM_CONFIG": os.devnull,
        "ENGRAM_DURABILITY": "process", "ENGRAM_EMBEDDER_ROLE": "work",
        **{name: value for name, value in login.items() if value},
    }  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
    with (folder / "embedder.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "engram_embedder"], env={**inherited, **own, **settings}, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


async def handled(bus: NatsBus) -> dict[int, int]:
    """Messages that each embedder which answers has handled, by its process."""
    pages = {pong.pid: pong.metrics_url for pong in await bus.ping_all(within=0.5) if pong.service == "embedder"}
    async with aiohttp.ClientSession() as session:
        return {pid: await _count(session, page) for pid, page in pages.items() if page}


async def _count(session: aiohttp.ClientSession, page: str) -> int:
    async with session.get(page) as answer:
        found = HANDLED.search(await answer.text())
    return int(float(found[1])) if found else 0
