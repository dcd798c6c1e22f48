"""How text is encrypted: data keys seal it, master keys wrap data keys. AES-256-GCM throughout, pure but for nonces.

What is sealed reads `mark (2 bytes), length of the tenant's name (1), name, id of the data key (8), nonce (12),
ciphertext with tag`. All before the nonce is associated data. Engram's own messages begin with `{`, so that nothing
that is not sealed can be taken for it. With nonces by chance a data key is good for 2^32 messages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from engram_contracts.control import WrappedKey
from engram_contracts.errors import Rejected

MARK = b"\xe5\x01"
KEY_BYTES, ID_BYTES, NONCE_BYTES = 32, 8, 12
FIXED = len(MARK) + 1


def sealed(body: bytes) -> bool:
    """Whether these bytes are sealed."""
    return body[:2] == MARK


class Named(NamedTuple):
    """Whose sealed bytes these are, by which key, and how many of them say so."""

    tenant: str
    key: bytes
    length: int


def named(body: bytes) -> Named:
    """What sealed bytes say of themselves. Raises `Rejected` where they are cut short."""
    length = FIXED + body[2] + ID_BYTES if len(body) >= FIXED else FIXED
    if len(body) < length + NONCE_BYTES:
        raise Rejected("what is sealed here is not whole")
    return Named(body[FIXED : length - ID_BYTES].decode(errors="replace"), body[length - ID_BYTES : length], length)


class DataKey:
    """Seals and opens what is one tenant's. Safe to use from several threads."""

    def __init__(self, tenant: str, identity: bytes, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # 9 MB that few need

        self.id = identity
        self._cipher = AESGCM(key)
        self._head = MARK + bytes([len(tenant)]) + tenant.encode() + identity

    def seal(self, body: bytes) -> bytes:
        """The bytes, encrypted; different each time."""
        nonce = os.urandom(NONCE_BYTES)
        return b"".join((self._head, nonce, self._cipher.encrypt(nonce, body, self._head)))

    def open(self, body: bytes) -> bytes:
        """What was sealed. Raises `Rejected` where it was changed since."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # loaded with the cipher

        start = len(self._head)
        nonce, text = body[start : start + NONCE_BYTES], body[start + NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, text, body[:start])
        except InvalidTag:
            raise Rejected("what is sealed here was changed, or damaged") from None


class MasterKeys:
    """Wrap and unwrap data keys; the first wraps. `repr` shows ids alone."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {master_id(key): key for key in keys}
        self.newest = master_id(keys[0])

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"

    def __contains__(self, identity: str) -> bool:
        return identity in self._keys

    @classmethod
    def parse(cls, text: str) -> MasterKeys:
        """Keys in base64, the newest first. Raises `Rejected`, which says which one is none and never what it is."""
        parts = [part for part in re.split(r"[\s,]+", text) if part]
        keys = [key for number, part in enumerate(parts, 1) if (key := _decoded(part, number))]
        if not keys:
            raise Rejected("encryption.key holds no key; make one with `engram encryption new-key`")
        return cls(keys)

    def fresh(self, tenant: str, now: datetime) -> WrappedKey:
        """A new data key."""
        return self._wrapped(tenant, os.urandom(ID_BYTES).hex(), os.urandom(KEY_BYTES), created=now, now=now)

    def unwrap(self, record: WrappedKey) -> DataKey:
        """The data key. Raises `Rejected` where its master key is not here, or the record was changed."""
        return DataKey(record.tenant, bytes.fromhex(record.id), self._unwrapped(record))

    def rewrapped(self, record: WrappedKey, now: datetime) -> WrappedKey:
        """The same data key under the newest master key. Raises as `unwrap` does."""
        return self._wrapped(record.tenant, record.id, self._unwrapped(record), created=record.created_at, now=now)

    def _wrapped(self, tenant: str, identity: str, key: bytes, *, created: datetime, now: datetime) -> WrappedKey:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # 9 MB that few need

        nonce = os.urandom(NONCE_BYTES)
        wrapped = nonce + AESGCM(self._keys[self.newest]).encrypt(nonce, key, _about(tenant, identity))
        return WrappedKey(
            tenant=tenant, id=identity, master=self.newest, wrapped=wrapped, created_at=created, wrapped_at=now
        )

    def _unwrapped(self, record: WrappedKey) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # 9 MB that few need
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # likewise

        master = self._keys.get(record.master)
        if master is None:
            raise Rejected(
                f"the data key of tenant {record.tenant!r} is wrapped by master key {record.master}, which is not "
                f"among those given ({', '.join(self._keys)}); add it to encryption.key"
            )
        nonce, text = record.wrapped[:NONCE_BYTES], record.wrapped[NONCE_BYTES:]
        try:
            return AESGCM(master).decrypt(nonce, text, _about(record.tenant, record.id))
        except (InvalidTag, ValueError):
            raise Rejected(
                f"the data key of tenant {record.tenant!r} was changed or damaged where it is kept; restore the bucket "
                "engram_data_keys from a copy"
            ) from None


def new_master_key() -> str:
    """32 bytes of randomness in base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def master_id(key: bytes) -> str:
    """What names a master key without telling it: 16 hex digits."""
    return hashlib.sha256(b"engram master key|" + key).hexdigest()[:16]


def _decoded(part: str, number: int) -> bytes:
    try:
        key = base64.b64decode(part.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise Rejected(
            f"encryption.key: key {number} is not 32 bytes in base64; make one with `engram encryption new-key`"
        )
    return key


def _about(tenant: str, identity: str) -> bytes:
    return f"engram data key|{tenant}|{identity}".encode()
