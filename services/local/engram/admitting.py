"""Credentials issued and taken back, and the broker waited for until it knows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engram.door import running
from engram.operating import bounded, settings_for
from engram.trails import actor
from engram.verifying import connected
from engram_contracts.errors import NotFound, Rejected, Unavailable
from engram_contracts.topology import TENANTS
from engram_contracts.trail import Act
from engram_runtime.credentials import Credential, Credentials, Role, is_let_in
from engram_runtime.nats_bus import open_bus
from engram_runtime.trail import note

PATIENCE = 20.0
LOOK_SECONDS = 0.05


async def issue(data_dir: Path, tenant: str, role: Role, name: str) -> dict[str, Any]:
    """New credentials, which the broker takes by now; raises `NotFound` where there is no such tenant."""
    url = _broker(data_dir)
    await _require(data_dir, tenant)
    made = _credentials(data_dir).issue(tenant, role, name, now=datetime.now(UTC))
    await _until(url, made, let_in=True)
    await _noted(data_dir, "nats-creds-issue", made)
    return {**_told(made), "url": url, "password": made.password}


def listed(data_dir: Path, tenant: str | None) -> list[dict[str, Any]]:
    """The credentials of a tenant, or all."""
    return [_told(each) for each in _credentials(data_dir).all() if tenant in (None, each.tenant)]


async def revoke(data_dir: Path, user: str) -> dict[str, Any]:
    """Take credentials back; returns once the broker refuses them. Raises `NotFound` where there are none."""
    gone = _credentials(data_dir).revoke(lambda credential: credential.id == user)
    if not gone:
        raise NotFound(f"there are no credentials {user!r}; see `engram nats-creds list`")
    if url := running(data_dir).get("nats"):
        await _until(url, gone[0], let_in=False)
        await _noted(data_dir, "nats-creds-revoke", gone[0])
    return _told(gone[0])


async def _noted(data_dir: Path, action: str, credential: Credential) -> None:
    async with connected(data_dir) as bus:
        act = Act(
            tenant=credential.tenant, at=datetime.now(UTC), action=action, actor=actor(), targets=(credential.id,)
        )
        await note(bus, act, writer="command")


def _credentials(data_dir: Path) -> Credentials:
    return Credentials(data_dir / "nats")


def _broker(data_dir: Path) -> str:
    found = running(data_dir)
    if not found:
        raise Unavailable(f"no Engram runs on {str(data_dir)!r}; start it with `engram serve`")
    if "nats" not in found["processes"]:
        raise Rejected("the broker is one of your own (ENGRAM_NATS_URL); docs/nats.md says which accounts it needs")
    return str(found["nats"])


async def _require(data_dir: Path, tenant: str) -> None:
    settings = settings_for(data_dir)
    async with bounded(settings, PATIENCE), open_bus(settings.nats, name="engram-nats-creds") as bus:
        if await bus.bucket(TENANTS).get(tenant) is None:
            raise NotFound(f"there is no tenant {tenant!r}")


async def _until(url: str, credential: Credential, *, let_in: bool) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while await asyncio.to_thread(is_let_in, url, credential) is not let_in:
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(f"the broker has not taken note after {PATIENCE:g} s; is it `engram serve` that runs it?")
        await asyncio.sleep(LOOK_SECONDS)


def _told(credential: Credential) -> dict[str, Any]:
    return {
        "user": credential.id,
        "tenant": credential.tenant,
        "role": credential.role,
        "name": credential.name,
        "created_at": credential.created_at.isoformat(),
        "publish": credential.publishes(),
        "subscribe": credential.subscribes(),
    }
