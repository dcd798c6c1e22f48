"""The caller of a request: for whom it acts, what it may do, and whose memories it may reach. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from engram_contracts.control import Bounds
from engram_contracts.errors import Forbidden
from engram_contracts.memory import Filters, Scopes
from engram_contracts.permissions import BOUND, OPEN, PERMISSIONS, ROLES, Permission, allowed

__all__ = ["OPEN", "PERMISSIONS", "ROLES", "UNBOUND", "Caller", "Permission", "allowed", "granted"]

UNBOUND = Bounds()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    `tenant` is the one it acts for (`_system`: the installation), `actor` the id of its key, or `sub:` and the subject
    of its token. `permissions` is what it may do, `bounds` whose memories it may reach.
    """

    tenant: str
    role: str
    actor: str | None = None
    permissions: frozenset[str] = frozenset()
    bounds: Bounds = field(default=UNBOUND)
    until: datetime | None = None
    """When its key or token runs out."""
    member: bool = False
    """Whether it may do this as a member, and not by what its token says."""

    @property
    def space(self) -> str:
        """Names its part of the tenant; empty for all of it. Ids that derive from what a client says lie in it."""
        return "" if self.bounds.any else _space(self.bounds)

    def named(self, key: str) -> str:
        """A client's name for something, so that callers of other parts of the tenant cannot mean the same."""
        return f"{self.space}/{key}" if self.space else key

    def narrowed(self, filters: Filters) -> Filters:
        """The filters, held to what this caller may reach. Raises `Forbidden` where they ask for nothing of that."""
        if self.bounds.any:
            return filters
        return filters.model_copy(
            update={
                "user_id": _within(filters.user_id, self.bounds.user_ids, "user_id"),
                "session_id": _within(filters.session_id, self.bounds.session_ids, "session_id"),
            }
        )


def granted(role: str, scopes: Sequence[str] | None, bounds: Bounds) -> frozenset[str]:
    """What a role carries, narrowed to these scopes (`None`: all), and to what somebody with these bounds can have."""
    return _granted(role, None if scopes is None else tuple(scopes), bounds.any)


@lru_cache(maxsize=4_096)
def _granted(role: str, scopes: tuple[str, ...] | None, unbound: bool) -> frozenset[str]:
    carried = ROLES.get(role, frozenset())
    if scopes is not None:
        carried &= frozenset(scopes)
    return carried if unbound else carried & BOUND


@lru_cache(maxsize=4_096)
def _space(bounds: Bounds) -> str:
    said = repr((_sorted(bounds.user_ids), _sorted(bounds.session_ids)))
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _sorted(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else sorted(set(names))


def _within(asked: Scopes | None, may: tuple[str, ...] | None, name: str) -> Scopes | None:
    """What is asked for and may be reached."""
    if may is None:
        return asked
    if asked is None:
        return may[0] if len(may) == 1 else may
    both = tuple(each for each in ((asked,) if isinstance(asked, str) else asked) if each in may)
    if not both:
        raise Forbidden(f"this key may not reach this {name}; it is bound to others", field=name)
    return both[0] if len(both) == 1 else both
