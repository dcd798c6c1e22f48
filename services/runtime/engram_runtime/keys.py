"""API keys: their form, their record in the key-value bucket, and the first one.

A key reads `eng_live_<id>_<secret><crc>`, or `eng_test_...`, which is the same to Engram and tells people apart
what may be lost from what may not. The bucket holds an HMAC of the whole key under a pepper that never
enters the broker, so a copy of the bucket opens nothing. The checksum tells a mistyped or invented key from a
real one before anything is looked up.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import tempfile
import zlib
from datetime import UTC, datetime
from pathlib import Path

from engram_contracts.control import KeyRecord, Mode, TenantRecord
from engram_contracts.errors import Rejected
from engram_contracts.permissions import Role
from engram_contracts.recovery import SYSTEM
from engram_contracts.topology import KEYS, TENANTS
from engram_runtime.bus import Bus

PEPPER_BYTES = 32
SEED_BYTES = 48
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_FORM = re.compile(r"eng_(?:live|test)_([a-z2-7]{12})_[0-9A-Za-z]{43}([0-9A-Za-z]{6})", re.ASCII)
_CHECKSUM_LENGTH = 6


def key_id(text: str) -> str | None:
    """The id inside a key, or `None` when the form or the checksum is wrong."""
    match = _FORM.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM_LENGTH]) != match.group(2):
        return None
    return match.group(1)


def hash_key(text: str, pepper: bytes) -> str:
    """What the record holds in place of the key."""
    return hmac.digest(pepper, text.encode(), "sha256").hex()


def mint_key(
    tenant: str,
    role: Role,
    name: str,
    pepper: bytes,
    *,
    expires_at: datetime | None = None,
    mode: Mode = "live",
    seed: bytes | None = None,
) -> tuple[str, KeyRecord]:
    """A new key of 256 random bits, and its record, which is to be stored under `key_id(text)`.

    With a `seed` (a secret of 48 bytes) it is always the same key.
    """
    bits = seed if seed is not None else secrets.token_bytes(SEED_BYTES)
    identity = "".join(_BASE32[byte % 32] for byte in bits[:12])
    body = f"eng_{mode}_{identity}_{_base62(int.from_bytes(bits[16:48], 'big'), 43)}"
    text = body + _checksum(body)
    record = KeyRecord(
        tenant=tenant,
        hash=hash_key(text, pepper),
        name=name,
        role=role,
        created_at=datetime.now(UTC),
        expires_at=expires_at,
        mode=mode,
    )
    return text, record


def seed_of(pepper: bytes, *parts: str) -> bytes:
    """A seed that only who has the pepper can derive, always the same from the same parts."""
    said = "".join(f"{len(part)}:{part}" for part in ("key", *parts))
    return hmac.digest(pepper, said.encode(), "sha512")[:SEED_BYTES]


async def create_tenant(bus: Bus, name: str) -> bool:
    """Create an active tenant; whether there was none of that name. A repeat changes nothing."""
    record = TenantRecord(name=name, created_at=datetime.now(UTC))
    return await bus.bucket(TENANTS).create(name, record.encode())


async def create_key(
    bus: Bus, tenant: str, role: Role, name: str, pepper: bytes, *, expires_at: datetime | None = None
) -> str:
    """Mint a key and store its record; the text is nowhere else. Every call makes another key."""
    text, record = mint_key(tenant, role, name, pepper, expires_at=expires_at)
    await bus.bucket(KEYS).put(str(key_id(text)), record.encode())
    return text


async def ensure_admin_key(bus: Bus, data_dir: Path, pepper: bytes) -> str | None:
    """The new admin key of tenant `default`, or `None` where `<data_dir>/admin.key` holds one that works.

    A new key is also written to that file, readable by its owner alone. Of two that start together, one wins
    and the other makes nothing.
    """
    await create_tenant(bus, "default")
    return await _ensure_key(bus, _key_file(data_dir, "admin"), "default", pepper)


async def ensure_system_key(bus: Bus, data_dir: Path, pepper: bytes) -> None:
    """A key that speaks for the whole installation lies in `<data_dir>/system.key`, readable by its owner alone.

    A repeat changes nothing while that key works.
    """
    await _ensure_key(bus, _key_file(data_dir, "system"), SYSTEM, pepper)


async def _ensure_key(bus: Bus, file: Path, tenant: str, pepper: bytes) -> str | None:
    present = _read(file)
    if await _works(bus, present, pepper):
        return None
    if present:
        _remove(file)
    text = await create_key(bus, tenant, "admin", "admin", pepper)
    if _write_once(file, text + "\n"):
        return text
    await bus.bucket(KEYS).delete(str(key_id(text)))
    return None


def _key_file(data_dir: Path, name: str) -> Path:
    return data_dir.expanduser() / f"{name}.key"


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def load_pepper(data_dir: Path, setting: str | None) -> bytes:
    """The secret under which keys are hashed and job ids signed: the setting, else a file made once.

    The file is `<data_dir>/pepper`, readable by its owner alone. All doors need the same one. Raises `Rejected`
    when either is shorter than 32 bytes.
    """
    file = data_dir.expanduser() / "pepper"
    if setting is None:
        _write_once(file, secrets.token_hex(PEPPER_BYTES) + "\n")
    text = setting if setting is not None else _read(file)
    if len(text.encode()) < PEPPER_BYTES:
        where = "ENGRAM_AUTH_PEPPER" if setting is not None else repr(str(file))
        raise Rejected(f"the pepper in {where} is shorter than {PEPPER_BYTES} bytes; set a longer random text")
    return text.encode()


def load_signing_secret(data_dir: Path, setting: str | None) -> bytes:
    """The secret from which the key follows that reports are signed with: the setting, else a file made once.

    The file is `<data_dir>/signing.key`, readable by its owner alone. Raises `Rejected` when it is shorter than 32
    bytes.
    """
    file = data_dir.expanduser() / "signing.key"
    if setting is None:
        _write_once(file, secrets.token_hex(PEPPER_BYTES) + "\n")
    text = setting if setting is not None else _read(file)
    if len(text.encode()) < PEPPER_BYTES:
        raise Rejected(
            f"the signing secret (ENGRAM_RECOVERY_SIGNING_SECRET, or {str(file)!r}) is too short; it needs 32 bytes"
        )
    return text.encode()


async def _works(bus: Bus, text: str, pepper: bytes) -> bool:
    identity = key_id(text)
    stored = await bus.bucket(KEYS).get(identity) if identity else None
    if stored is None:
        return False
    record = KeyRecord.model_validate_json(stored)
    return hmac.compare_digest(record.hash, hash_key(text, pepper)) and record.usable(datetime.now(UTC))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""


def _write_once(file: Path, text: str) -> bool:
    """Make the file whole, mode 0600, unless there is one; whether this call made it."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    draft = Path(name)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
