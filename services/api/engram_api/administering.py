"""What handlers of the control plane share: its registers, and whose records a caller may see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from engram_api.access import Caller, granted
from engram_api.asking import Asking
from engram_api.calls import Call
from engram_api.cursors import unseal
from engram_api.keyring import Keyring
from engram_api.models import Paged
from engram_api.registers import Register, page
from engram_contracts.control import Bounds, KeyRecord, Member, Plan, TenantRecord
from engram_contracts.errors import Forbidden, NotFound
from engram_contracts.messages import Message
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import KEY_USES, KEYS, MEMBERS, PLANS, TENANTS
from engram_runtime.bus import Bus, KeyValue

M = TypeVar("M", bound=Message)
AnyCall = Call[Any, Any]


@dataclass(frozen=True, slots=True)
class Registers:
    """The records of the control plane."""

    keyring: Keyring
    keys: Register[KeyRecord]
    tenants: Register[TenantRecord]
    plans: Register[Plan]
    members: Register[Member]
    uses: KeyValue

    @classmethod
    def of(cls, bus: Bus, keyring: Keyring) -> Registers:
        """The registers of a broker, read through a keyring."""
        mirrors = keyring.mirrors
        return cls(
            keyring,
            Register(bus, KEYS, KeyRecord, mirrors.keys),
            Register(bus, TENANTS, TenantRecord, mirrors.tenants),
            Register(bus, PLANS, Plan, mirrors.plans),
            Register(bus, MEMBERS, Member, mirrors.members),
            bus.bucket(KEY_USES),
        )


class Administering(Asking):
    """Handlers that read and write those records."""

    def __init__(self, bus: Bus, registers: Registers, *, ask_seconds: float, pepper: bytes) -> None:
        super().__init__(bus, ask_seconds=ask_seconds, pepper=pepper)
        self._registers = registers

    def _page(
        self, call: Call[None, Paged], listing: str, items: Iterable[tuple[str, M]]
    ) -> tuple[list[tuple[str, M]], Mapping[str, Any]]:
        """A stretch of a list, and the `meta` that tells where it goes on."""
        tenant = call.caller.tenant
        after = unseal(call.query.cursor, tenant=tenant, listing=listing, pepper=self._pepper)
        found, more = page(items, after, call.query.limit)
        return list(found), self._next(more, tenant, listing)


def own(caller: Caller, tenant: str, words: str) -> None:
    """Raise `NotFound` for a tenant that is not the caller's; the installation's owner sees all."""
    if caller.tenant not in (SYSTEM, tenant):
        raise NotFound(words)


def check_grant(caller: Caller, role: str, scopes: tuple[str, ...] | None, bounds: Bounds) -> None:
    """Raise `Forbidden` where somebody would get more than the caller has, who could then borrow it."""
    if not granted(role, scopes, bounds) <= caller.permissions:
        raise Forbidden(
            "nobody can give more than they may do themselves; choose a lower role, or scopes", field="role"
        )
