"""Keys, tenants, plans and members as the broker's buckets hold them, watched: a change counts within moments."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from engram_contracts.control import BUILT_IN, KeyRecord, Limits, Member, Plan, TenantRecord, limits_of
from engram_contracts.questions import Check
from engram_contracts.topology import KEYS, MEMBERS, PLANS, TENANTS
from engram_runtime.bus import Bus
from engram_runtime.keys import hash_key, key_id
from engram_runtime.mirror import Mirror, ended

_NO_HASH = "0" * 64
_NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The records of the control plane, as far as this process knows."""

    keys: Mirror[KeyRecord]
    tenants: Mirror[TenantRecord]
    plans: Mirror[Plan]
    members: Mirror[Member]

    def __iter__(self) -> Iterator[Mirror[KeyRecord] | Mirror[TenantRecord] | Mirror[Plan] | Mirror[Member]]:
        return iter((self.keys, self.tenants, self.plans, self.members))


class Keyring:
    """Tells whose a key is, and what is known of tenants, plans and members."""

    def __init__(
        self, mirrors: Mirrors, pepper: bytes, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.mirrors = mirrors
        self._pepper = pepper
        self._clock = clock
        self._complete = False
        self._limits: dict[str, tuple[TenantRecord, Limits, Limits]] = {}
        self.used: dict[str, datetime] = {}
        """When keys were last used here, by id, until it is written down."""

    @property
    def complete(self) -> bool:
        """Whether all records were read at least once."""
        self._complete = self._complete or all(mirror.complete.is_set() for mirror in self.mirrors)
        return self._complete

    def verify(self, text: str) -> tuple[str, KeyRecord] | None:
        """The id and record of a key that counts now, compared in constant time; else `None`."""
        identity = key_id(text)
        if identity is None:
            return None
        record = self.mirrors.keys.get(identity)
        expected = record.hash if record else _NO_HASH
        if not hmac.compare_digest(expected, hash_key(text, self._pepper)) or record is None:
            return None
        now = self._clock()
        if not record.usable(now):
            return None
        self.used[identity] = now
        return identity, record

    def usable(self, identity: str) -> bool:
        """Whether the key of this id counts now."""
        record = self.mirrors.keys.get(identity)
        return record is not None and record.usable(self._clock())

    def before(self, moment: datetime) -> bool:
        """Whether it is not yet that time."""
        return self._clock() < moment

    def tenant(self, name: str) -> TenantRecord | None:
        """What is known of a tenant."""
        return self.mirrors.tenants.get(name)

    def member(self, tenant: str, subject: str) -> Member | None:
        """What is known of the subject of a token, in a tenant."""
        return self.mirrors.members.get(f"{tenant}.{member_id(subject)}")

    def plan(self, name: str) -> Plan | None:
        """A plan: its record, or the one that is built in under the name."""
        return self.mirrors.plans.get(name) or BUILT_IN.get(name)

    def limits(self, tenant: str) -> Limits:
        """The limits of a tenant; none for a tenant nobody knows, or one whose plan is not there any more."""
        record = self.tenant(tenant)
        if record is None:
            return _NO_LIMITS
        plan = self.plan(record.plan) or _NO_LIMITS
        known = self._limits.get(tenant)
        if known is None or known[0] is not record or known[1] is not plan:
            known = self._limits[tenant] = (record, plan, self.limits_of(record))
        return known[2]

    def limits_of(self, record: TenantRecord) -> Limits:
        """The limits that a tenant's record asks for."""
        return limits_of(self.plan(record.plan) or _NO_LIMITS, record.overrides)

    async def check(self) -> Check:
        """Whether all buckets are being watched now."""
        checks = [await mirror.check() for mirror in self.mirrors]
        troubles = [check.detail for check in checks if check.detail]
        return Check(ok=not troubles, detail="; ".join(troubles) or None)


def member_id(subject: str) -> str:
    """The id of a member: 26 letters and digits from the subject of its tokens."""
    return base64.b32encode(hashlib.sha256(subject.encode()).digest()[:16]).decode().rstrip("=").lower()


@contextlib.asynccontextmanager
async def open_keyring(
    bus: Bus, pepper: bytes, *, patience: float = 5.0
) -> AsyncIterator[tuple[Keyring, Callable[[], None]]]:
    """A keyring that follows the broker, and what to call when the connection to it was lost and is back.

    Waits up to `patience` seconds for the first full reading; without it, the keyring is there but not complete.
    """
    mirrors = Mirrors(
        Mirror(bus, KEYS, KeyRecord),
        Mirror(bus, TENANTS, TenantRecord),
        Mirror(bus, PLANS, Plan),
        Mirror(bus, MEMBERS, Member),
    )
    tasks = [asyncio.create_task(mirror.run()) for mirror in mirrors]

    def watch_again() -> None:
        for mirror in mirrors:
            mirror.watch_again()

    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.gather(*(mirror.complete.wait() for mirror in mirrors))
        yield Keyring(mirrors, pepper), watch_again
    finally:
        await ended(*tasks)
