"""Provisioning from the command line and at start: the topology, the first tenant, the first key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.settings import Settings
from engram_contracts.topology import CONSUMERS, EXTRACT_LOG, Consumer
from engram_runtime.keys import ensure_admin_key, ensure_system_key, load_pepper
from engram_runtime.nats_bus import open_bus
from engram_runtime.provision import Drift, provision
from engram_runtime.settings import load
from engram_runtime.telemetry import log_to_stderr

FIRST_KEY = "first-key"
"""Where the first key lies until `engram serve` has shown it, readable by its owner alone."""


def run(flags: Mapping[str, Any], data_dir: Path) -> None:
    """Provision for `engram serve`; a key that was minted is left for it to show once."""
    settings = load(Settings, flags=flags, environ=os.environ)
    log_to_stderr("engram", settings.log_level)
    drifts, key = asyncio.run(provisioned(settings))
    if drifts and not settings.nats_is_external:
        os.sync()  # the broker itself forces new streams to disk only where it does so with every message
    if key is not None:
        file = data_dir / FIRST_KEY
        file.touch(mode=0o600)
        file.write_text(key)


async def provisioned(settings: Settings) -> tuple[list[Drift], str | None]:
    """What provisioning did or found, and the admin key if this was the first time. A repeat does nothing."""
    given = settings.auth.pepper
    pepper = load_pepper(settings.data_dir, given.get_secret_value() if given else None)
    async with open_bus(settings.nats, name="engram-provision", durability=settings.durability) as bus:
        drifts = await provision(bus.jetstream, replicas=settings.nats.replicas, consumers=_consumers(settings))
        await ensure_system_key(bus, settings.data_dir, pepper)
        return drifts, await ensure_admin_key(bus, settings.data_dir, pepper)


async def compared(settings: Settings) -> list[Drift]:
    """What is missing or differs from the topology; nothing is touched."""
    async with open_bus(settings.nats, name="engram-provision") as bus:
        return await provision(
            bus.jetstream, replicas=settings.nats.replicas, consumers=_consumers(settings), mend=False
        )


def _consumers(settings: Settings) -> tuple[Consumer, ...]:
    """What is consumed with these settings; a consumer nobody pulls would only show a growing lag."""
    return (*CONSUMERS, EXTRACT_LOG) if settings.reasoner.extract else CONSUMERS
