"""The data keys of encrypted tenants: read before a process does anything, watched, kept unwrapped in memory alone.

What a process appends for a tenant with a data key is sealed, and opened where it is read (see `engram_runtime.bus`).
Who stores text elsewhere seals it by `seal_text`. Tenants without a data key cost a look into a dictionary.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from engram_contracts.control import WrappedKey
from engram_contracts.errors import EngramError, Rejected, Unavailable
from engram_contracts.questions import Check
from engram_contracts.topology import DATA_KEYS
from engram_runtime.bus import Bus, Entry, KeyValue
from engram_runtime.mirror import Mirror, ended
from engram_runtime.sealing import MARK, DataKey, MasterKeys, named, sealed
from engram_runtime.settings import EncryptionSettings

log = logging.getLogger(__name__)

WAIT_SECONDS = 2.0
MOST_NAMED = 5
AGAIN = 0.2
SEALED_TEXT = base64.b64encode(MARK + b"\0").decode()[:3]
"""How all sealed text begins: a tenant's name has fewer than 64 letters."""


class Texts(Protocol):
    """Seals and opens the texts of a store."""

    def seal_text(self, tenant: str, text: str) -> str:
        """The text as it is to be stored."""

    def open_text(self, tenant: str, text: str) -> str:
        """The text that was stored."""


class Vault:
    """The data keys that are known here. `trouble` tells, by tenant, which cannot be unwrapped and why."""

    def __init__(self, masters: MasterKeys | None = None, bucket: KeyValue | None = None) -> None:
        self._masters = masters
        self._bucket = bucket
        self._current: dict[str, DataKey] = {}
        self._by_id: dict[bytes, DataKey] = {}
        self._absent: set[bytes] = set()
        self.trouble: dict[str, str] = {}

    @property
    def empty(self) -> bool:
        """Whether no tenant's text is encrypted."""
        return not self._current

    def seals(self, tenant: str) -> bool:
        """Whether a tenant's text is encrypted."""
        return tenant in self._current

    def seal(self, tenant: str, body: bytes) -> bytes:
        """The bytes as they may be stored; those of other tenants, and what is sealed already, as they are."""
        key = self._current.get(tenant)
        return body if key is None or sealed(body) else key.seal(body)

    def open(self, body: bytes) -> bytes:
        """What was sealed. Raises `Unavailable` where its key is not known yet, `Rejected` where there is none."""
        if not sealed(body):
            return body
        whose = named(body)
        key = self._by_id.get(whose.key)
        if key is not None:
            return key.open(body)
        if whose.key in self._absent or self._bucket is None:
            raise Rejected(f"the data key that this was sealed with is not kept here (tenant {whose.tenant!r})")
        raise Unavailable(f"the data key of tenant {whose.tenant!r} is not known here yet", retry_after=AGAIN)

    async def opened(self, body: bytes) -> bytes:
        """As `open`; a key that is not known yet is looked up first."""
        if not sealed(body):
            return body
        await self.learn((body,))
        return self.open(body)

    async def learn(self, bodies: Iterable[bytes]) -> None:
        """Look up the keys of sealed bytes where they are not known; what cannot be looked up is left for later."""
        for body in bodies:
            if sealed(body):
                with contextlib.suppress(EngramError):
                    whose = named(body)
                    if whose.key not in self._by_id and whose.key not in self._absent:
                        await self._look_up(whose.tenant, whose.key)

    def seal_text(self, tenant: str, text: str) -> str:
        """As `seal`, in base64, for stores that take text."""
        key = self._current.get(tenant)
        return text if key is None else base64.b64encode(key.seal(text.encode())).decode()

    def open_text(self, tenant: str, text: str) -> str:
        """What `seal_text` made this of. Text of tenants without a data key is answered as it is."""
        if not self._current or tenant not in self._current or not text.startswith(SEALED_TEXT):
            return text
        body = base64.b64decode(text)
        if named(body).tenant != tenant:
            raise Rejected(f"this text was sealed for another tenant than {tenant!r}")
        return self.open(body).decode()

    def entries(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Entries as they may be appended."""
        return [self._entry(entry) for entry in entries] if self._current else entries

    async def create(self, tenant: str, now: datetime) -> None:
        """Have a data key for a tenant; one that is there stays. Raises `Rejected` where no master key was given."""
        if self._masters is None or self._bucket is None:
            raise Rejected(
                "this installation has no encryption key; set ENGRAM_ENCRYPTION_KEY_FILE for all its processes",
                field="encrypted",
            )
        if tenant not in self._current:
            await self._bucket.create(tenant, self._masters.fresh(tenant, now).encode())
            await self._look_up(tenant, b"")
            if tenant not in self._current:
                raise Unavailable(self.trouble.get(tenant, "the data key cannot be read"), retry_after=1.0)

    async def destroy(self, tenant: str) -> None:
        """Take a tenant's data key away for good: what it sealed cannot be opened by anybody any more."""
        if self._bucket is not None:
            await self._bucket.delete(tenant)
        self._current.pop(tenant, None)

    async def check(self) -> Check:
        """Whether every data key that there is can be unwrapped here."""
        return Check(ok=not self.trouble, detail="; ".join(self.trouble.values()) or None)

    def take(self, tenant: str, record: WrappedKey | None) -> None:
        """Know a tenant's data key as it is kept now; `None` says that there is none any more."""
        if record is None:
            self._current.pop(tenant, None)
            self.trouble.pop(tenant, None)
            return
        try:
            self._current[tenant] = self._unwrapped(record)
        except Rejected as error:
            self.trouble[tenant] = error.message
            log.error("data key not readable", extra={"tenant": tenant, "error": error.message})
        else:
            self.trouble.pop(tenant, None)

    def _unwrapped(self, record: WrappedKey) -> DataKey:
        """The data key of a record; one that is known already is not made again, unless it cannot be unwrapped."""
        if self._masters is None:
            raise Rejected(f"tenant {record.tenant!r} is encrypted, and this process was given no encryption key")
        key = self._masters.unwrap(record)
        return self._by_id.setdefault(key.id, key)

    async def _look_up(self, tenant: str, identity: bytes) -> None:
        if self._bucket is None:
            return
        value = await self._bucket.get(tenant)
        if value is not None:
            self.take(tenant, WrappedKey.model_validate_json(value))
        if identity and identity not in self._by_id and tenant not in self.trouble:
            self._absent.add(identity)

    def _entry(self, entry: Entry) -> Entry:
        tenant = entry.owner or owner_of(entry.subject)
        if tenant not in self._current or sealed(entry.body):
            return entry
        return entry.with_body(self._current[tenant].seal(entry.body))


def owner_of(subject: str) -> str:
    """Whose text a message of this subject holds; empty where it holds none."""
    match subject.split("."):
        case ["engram", "work", _, _, tenant] | ["engram", "log", _, tenant, _] | ["engram", "dead", _, tenant]:
            return tenant
    return ""


NO_VAULT = Vault()


def vault_of(bus: Bus) -> Vault:
    """The vault of a process, or one without any key."""
    return getattr(bus, "vault", NO_VAULT)


@contextlib.asynccontextmanager
async def open_vault(bus: Bus, settings: EncryptionSettings) -> AsyncIterator[Vault]:
    """All data keys, followed while the context is open. Waits until they can be read.

    Raises `Rejected` where there are encrypted tenants and no master key, or a data key that cannot be unwrapped: then
    nothing may be written, for it would lie there in the clear.
    """
    masters = MasterKeys.parse(settings.key.get_secret_value()) if settings.key is not None else None
    vault = Vault(masters, bus.bucket(DATA_KEYS))
    mirror = Mirror(bus, DATA_KEYS, WrappedKey, changed=lambda tenant: vault.take(tenant, mirror.get(tenant)))
    reconnected: list[Callable[[], None]] = getattr(bus, "reconnected", [])
    reconnected.append(mirror.watch_again)
    running = asyncio.create_task(mirror.run())
    try:
        await _read(mirror)
        refuse_lost(masters, vault.trouble)
        yield vault
    finally:
        reconnected.remove(mirror.watch_again)
        await ended(running)


async def _read(mirror: Mirror[WrappedKey]) -> None:
    while not mirror.complete.is_set():
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await mirror.complete.wait()
        except TimeoutError:
            log.warning("waiting for the data keys; run `engram provision`", extra={"bucket": DATA_KEYS.name})


def refuse_lost(masters: MasterKeys | None, trouble: dict[str, str]) -> None:
    """Raise `Rejected` where data keys are there that cannot be unwrapped."""
    if trouble and masters is None:
        some = ", ".join(sorted(trouble)[:MOST_NAMED]) + (", ..." if len(trouble) > MOST_NAMED else "")
        raise Rejected(
            f"{len(trouble)} tenants are encrypted ({some}), and no encryption key was given; set "
            "ENGRAM_ENCRYPTION_KEY_FILE or ENGRAM_ENCRYPTION_KEY to the key they were made under. Nothing was changed"
        )
    if trouble:
        raise Rejected(f"{'; '.join(list(trouble.values())[:MOST_NAMED])}. Nothing was changed")


async def rotated(bucket: KeyValue, masters: MasterKeys, now: Callable[[], datetime]) -> dict[str, list[str]]:
    """Wrap every data key by the newest master key; which tenants' were, and which had been before.

    A run that was cut short is finished by the next. Raises `Rejected` where one cannot be unwrapped.
    """
    done: dict[str, list[str]] = {"rotated": [], "already": []}
    for tenant in await tenants_in(bucket):
        done["rotated" if await _rewrapped(bucket, masters, tenant, now) else "already"].append(tenant)
    return done


async def tenants_in(bucket: KeyValue) -> list[str]:
    """The tenants that have a data key, by name."""
    found = []
    async with contextlib.aclosing(bucket.watch()) as entries:  # type: ignore[type-var]  # a generator behind a Protocol
        async for entry in entries:
            if entry is None:
                break
            if entry[1] is not None:
                found.append(entry[0])
    return sorted(found)


async def _rewrapped(bucket: KeyValue, masters: MasterKeys, tenant: str, now: Callable[[], datetime]) -> bool:
    while entry := await bucket.entry(tenant):
        record = WrappedKey.model_validate_json(entry[0])
        if record.master == masters.newest:
            masters.unwrap(record)
            return False
        if await bucket.update(tenant, masters.rewrapped(record, now()).encode(), entry[1]) is not None:
            return True
    return False
