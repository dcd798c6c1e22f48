"""How a process does: liveness without dependencies, readiness with each of them, metrics."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from engram_contracts.questions import Check, Pong
from engram_runtime.service import Probe

STARTED = time.monotonic()
PROBE_SECONDS = 1.0
PAGE = os.sysconf("SC_PAGESIZE")


class Health:
    """Runs a service's checks and tells the result. `metrics_url` is known once the page is open."""

    def __init__(self, service: str, instance: str, checks: Mapping[str, Probe]) -> None:
        self._service = service
        self._instance = instance
        self._checks = checks
        self.metrics_url: str | None = None

    async def pong(self) -> Pong:
        """This instance and how it does, each check bounded to a second."""
        results = await asyncio.gather(*(_probe(probe) for probe in self._checks.values()))
        checks = dict(zip(self._checks, results, strict=True))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return Pong(
            service=self._service,
            instance=self._instance,
            version=version("engram-contracts"),
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - STARTED, 3),
            rss_bytes=resident_bytes(),
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
            ready=all(check.ok for check in results),
            checks=checks,
            metrics_url=self.metrics_url,
        )


async def _probe(probe: Probe) -> Check:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await probe()
    except TimeoutError:
        return Check(ok=False, detail=f"no answer within {PROBE_SECONDS:g} s")
    except Exception as error:
        return Check(ok=False, detail=f"{type(error).__name__}: {error}")


def resident_bytes() -> int:
    """This process's resident memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0


class HealthPage:
    """`/health`, `/health/ready` and `/metrics` of one process, on a port of its own (0 picks a free one)."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        self._health = health
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Start to serve; afterwards `health.metrics_url` is set."""
        app = web.Application()
        app.router.add_get("/health", self._alive)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        host, port = self._runner.addresses[0][:2]
        self._health.metrics_url = f"http://{host}:{port}/metrics"

    async def close(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _alive(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        pong = await self._health.pong()
        return web.Response(body=pong.encode(), status=200 if pong.ready else 503, content_type="application/json")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
