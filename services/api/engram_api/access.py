"""Who may do what: roles, the permissions they carry, and the caller they make. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Permission = Literal[
    "public", "metrics",
    "memories:read", "memories:write", "recall", "think", "graph:read", "graph:write", "jobs:read", "jobs:write",
    "usage:read", "dead:read", "dead:write",
]  # fmt: skip
"""What an operation asks of its caller; `public` asks nothing, `metrics` the metrics token where one is set."""

PERMISSIONS: frozenset[str] = frozenset(get_args(Permission))
OPEN: frozenset[str] = frozenset({"public", "metrics"})
"""Permissions that no role has to carry, because no key is asked for."""

_READER = frozenset({"memories:read", "recall", "think", "graph:read", "jobs:read"})
_WRITER = _READER | {"memories:write", "graph:write", "jobs:write"}
_OPERATOR = _WRITER | {"usage:read", "dead:read", "dead:write"}
ROLES: dict[str, frozenset[str]] = {
    "reader": _READER,
    "writer": _WRITER,
    "operator": _OPERATOR,
    "admin": _OPERATOR,
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the tenant it acts for (`_system`: the installation), its role, and the id of its key."""

    tenant: str
    role: str
    actor: str | None = None


def allowed(role: str, permission: Permission) -> bool:
    """Whether a role carries a permission; an unknown role carries none."""
    return permission in ROLES.get(role, frozenset())
