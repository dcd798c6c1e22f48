"""Provisioning from the command line and at start: the topology, the first tenant, the first key."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nats.js.errors import APIError

from engram import broker
from engram.settings import Settings
from engram_contracts.errors import EngramError, Unavailable
from engram_contracts.topology import CONSUMERS, EXTRACT_LOG, Consumer
from engram_runtime.keys import ensure_admin_key, ensure_system_key, load_pepper
from engram_runtime.nats_bus import NatsBus, open_bus
from engram_runtime.provision import Drift, provision
from engram_runtime.settings import load
from engram_runtime.telemetry import log_to_stderr
from engram_runtime.vault import open_vault

log = logging.getLogger(__name__)
NO_ROOM = 10047
FIRST_KEY = "first-key"
"""Where the first key lies until `engram serve` has shown it, readable by its owner alone."""


def run(flags: Mapping[str, Any], data_dir: Path) -> None:
    """Provision for `engram serve`; a key that was minted is left for it to show once."""
    settings = load(Settings, flags=flags, environ=os.environ)
    log_to_stderr("engram", settings.log_level)
    try:
        drifts, key = asyncio.run(_provisioned_and_readable(settings))
    except EngramError as error:
        log.critical(error.message)
        sys.exit(2)
    if drifts and not settings.nats_is_external:
        os.sync()  # the broker itself forces new streams to disk only where it does so with every message
    if key is not None:
        file = data_dir / FIRST_KEY
        file.touch(mode=0o600)
        file.write_text(key)


async def _provisioned_and_readable(settings: Settings) -> tuple[list[Drift], str | None]:
    """As `provisioned`. Raises `Rejected` where text is encrypted under a key that was not given."""
    done = await provisioned(settings)
    async with open_bus(settings.nats, name="engram-provision") as bus, open_vault(bus, settings.encryption):
        return done


async def provisioned(settings: Settings) -> tuple[list[Drift], str | None]:
    """What provisioning did or found, and the admin key if this was the first time. A repeat does nothing."""
    given = settings.auth.pepper
    pepper = load_pepper(settings.data_dir, given.get_secret_value() if given else None)
    async with open_bus(settings.nats, name="engram-provision", durability=settings.durability) as bus:
        drifts = await _provision(bus, settings, mend=True)
        await ensure_system_key(bus, settings.data_dir, pepper)
        return drifts, await ensure_admin_key(bus, settings.data_dir, pepper)


async def compared(settings: Settings) -> list[Drift]:
    """What is missing or differs from the topology; nothing is touched."""
    async with open_bus(settings.nats, name="engram-provision") as bus:
        return await _provision(bus, settings, mend=False)


async def _provision(bus: NatsBus, settings: Settings, *, mend: bool) -> list[Drift]:
    """As `provision`. Raises `Unavailable` where the broker refuses."""
    folder = settings.data_dir / "nats"
    room = broker.disk_size(folder) if broker.is_own(folder, settings.nats.url) else None
    replicas, consumers = settings.nats.replicas, _consumers(settings)
    try:
        return await provision(bus.jetstream, replicas=replicas, consumers=consumers, mend=mend, room=room)
    except APIError as error:
        if error.err_code == NO_ROOM:
            raise Unavailable(
                "the broker has too little room for what the streams reserve; make room, or raise its max_file_store"
            ) from error
        raise Unavailable(f"the broker refuses what the topology declares: {error.description}") from error


def _consumers(settings: Settings) -> tuple[Consumer, ...]:
    """What is consumed with these settings; a consumer nobody pulls would only show a growing lag."""
    return (*CONSUMERS, EXTRACT_LOG) if settings.reasoner.extract else CONSUMERS
