"""The caller of a request: for whom it acts, and what it may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from engram_contracts.permissions import OPEN, PERMISSIONS, ROLES, Permission, allowed

__all__ = ["OPEN", "PERMISSIONS", "ROLES", "Caller", "Permission", "allowed"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the tenant it acts for (`_system`: the installation), its role, and the id of its key."""

    tenant: str
    role: str
    actor: str | None = None
