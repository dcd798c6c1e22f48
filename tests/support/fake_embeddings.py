"""A server that speaks OpenAI's `/embeddings`, and can fail in the ways real ones do."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Reply = Callable[[dict[str, Any]], Awaitable[web.StreamResponse]]


@dataclass
class FakeEmbeddings:
    """What the server saw, and how it answers. Texts that share words get vectors that are alike."""

    dimension: int = 24
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    reply: Reply | None = None
    """Answers instead of vectors, while it is set."""
    refused: str | None = None
    """A word whose texts are refused with 400, together with everything sent along."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.reply is not None:
            return await self.reply(body)
        if self.refused and any(self.refused in text for text in body["input"]):
            return web.json_response({"error": {"message": "input is not acceptable"}}, status=400)
        return web.json_response(self.vectors(body))

    def vectors(self, body: dict[str, Any]) -> dict[str, Any]:
        """A good answer, its items in reverse order, as the protocol allows."""
        dimension = body.get("dimensions", self.dimension)
        items = [
            {"object": "embedding", "index": n, "embedding": bag_of_words(text, dimension)}
            for n, text in enumerate(body["input"])
        ]
        tokens = sum(len(text.split()) for text in body["input"])
        return {"object": "list", "data": items[::-1], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def bag_of_words(text: str, dimension: int) -> list[float]:
    """A vector, not of length 1, that counts words by hash."""
    vector = [0.01] * dimension
    for word in text.lower().split():
        vector[zlib.crc32(word.encode()) % dimension] += 3.0
    return vector


def failing(status: int, text: str = "{}", **headers: str) -> Reply:
    """Answer every request like this."""

    async def reply(_: dict[str, Any]) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=text, headers=named, content_type="application/json")

    return reply


def hanging(release: asyncio.Event) -> Reply:
    """Answer nothing until released."""

    async def reply(_: dict[str, Any]) -> web.StreamResponse:
        await release.wait()
        return web.Response(status=500)

    return reply


@contextlib.asynccontextmanager
async def fake_embeddings(dimension: int = 24) -> AsyncIterator[FakeEmbeddings]:
    """A running server on a free port of the loopback."""
    fake = FakeEmbeddings(dimension)
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_post("/v1/embeddings", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield fake
    finally:
        await runner.cleanup()
