"""A collector of traces: a real HTTP server that takes OTLP, and keeps every byte of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from support.servers import free_port


@dataclass
class Collector:
    """`url` is what `telemetry.otlp_endpoint` is set to; `received` what came, names, attributes and events alike."""

    url: str
    received: bytearray = field(default_factory=bytearray)

    async def take(self, request: web.Request) -> web.Response:
        """Keep a batch of spans."""
        assert "Content-Encoding" not in request.headers
        self.received += await request.read()
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """A running collector on a free port."""
    port = free_port()
    running = Collector(f"http://127.0.0.1:{port}")
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", running.take)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield running
    finally:
        await runner.cleanup()
