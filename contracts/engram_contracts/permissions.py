"""Who may do what: permissions, and the roles that carry them. Routes and commands each declare one permission."""

from __future__ import annotations

from typing import Literal, get_args

Permission = Literal[
    "public", "metrics",
    "memories:read", "memories:write", "recall", "think", "graph:read", "graph:write", "jobs:read", "jobs:write",
    "events:read", "usage:read", "dead:read", "dead:write", "audit:read", "data:export", "data:erase",
    "keys:read", "keys:write", "members:read", "members:write", "tenants:read", "tenants:write",
    "plans:read", "plans:write",
]  # fmt: skip
"""What an operation asks of its caller; `public` asks nothing, `metrics` the metrics token where one is set."""

Role = Literal["reader", "writer", "operator", "admin", "owner"]
"""A role carries everything the one before it does. `owner` is the owner of the installation, not of a tenant."""

PERMISSIONS: frozenset[str] = frozenset(get_args(Permission))
OPEN: frozenset[str] = frozenset({"public", "metrics"})
"""Permissions that no role has to carry, because no key is asked for."""

BOUND: frozenset[str] = frozenset(
    {"memories:read", "memories:write", "recall", "think", "graph:read", "jobs:read", "jobs:write", "events:read"}
)
"""All that a caller bound to some users or sessions can have, narrowed to their memories; the rest is the tenant's."""

_READER = frozenset({"memories:read", "recall", "think", "graph:read", "jobs:read", "events:read"})
_WRITER = _READER | {"memories:write", "graph:write", "jobs:write"}
_OPERATOR = _WRITER | {"usage:read", "dead:read", "dead:write"}
_ADMIN = _OPERATOR | {
    "audit:read", "data:export", "data:erase", "keys:read", "keys:write", "members:read", "members:write",
    "tenants:read", "plans:read",
}  # fmt: skip
_OWNER = _ADMIN | {"tenants:write", "plans:write"}
ROLES: dict[str, frozenset[str]] = {
    "reader": _READER,
    "writer": _WRITER,
    "operator": _OPERATOR,
    "admin": _ADMIN,
    "owner": _OWNER,
}


def allowed(role: str, permission: str) -> bool:
    """Whether a role carries a permission; an unknown role carries none."""
    return permission in ROLES.get(role, frozenset())
