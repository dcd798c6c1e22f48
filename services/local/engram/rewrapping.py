"""What operators ask of the data keys: under which master keys they are, and to be wrapped by the newest."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engram.operating import settings_for
from engram.trails import actor
from engram.verifying import connected
from engram_contracts.control import WrappedKey
from engram_contracts.errors import Rejected
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import DATA_KEYS
from engram_contracts.trail import Act
from engram_runtime.sealing import MasterKeys
from engram_runtime.trail import note
from engram_runtime.vault import rotated, tenants_in


async def status(data_dir: Path) -> dict[str, Any]:
    """The encrypted tenants, each with the id of the master key that wraps its data key."""
    masters = _masters(data_dir)
    async with connected(data_dir) as bus:
        bucket = bus.bucket(DATA_KEYS)
        values = [await bucket.get(tenant) for tenant in await tenants_in(bucket)]
    records = [WrappedKey.model_validate_json(value) for value in values if value is not None]
    return {
        "tenants": [
            {
                "tenant": record.tenant,
                "master": record.master,
                "given": masters is not None and record.master in masters,
                "wrapped_at": record.wrapped_at.isoformat(),
            }
            for record in records
        ]
    }


async def rotate(data_dir: Path) -> dict[str, Any]:
    """Wrap all data keys by the newest master key; whose were, and whose had been before. It is noted in the audit."""
    masters = _masters(data_dir)
    if masters is None:
        raise Rejected("no encryption key was given; set ENGRAM_ENCRYPTION_KEY_FILE, the new key in its first line")
    async with connected(data_dir) as bus:
        act = Act(tenant=SYSTEM, at=_now(), action="rotate-master-key", actor=actor())
        await note(bus, act, writer="command")
        done = await rotated(bus.bucket(DATA_KEYS), masters, _now)
    return {"newest": masters.newest, **done}


def _masters(data_dir: Path) -> MasterKeys | None:
    given = settings_for(data_dir).encryption.key
    return MasterKeys.parse(given.get_secret_value()) if given is not None else None


def _now() -> datetime:
    return datetime.now(UTC)
