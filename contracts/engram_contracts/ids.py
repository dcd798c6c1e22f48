"""Ids: time-ordered where nothing is known, derived where a repeat must meet its first self."""

from __future__ import annotations

import hmac
import os
import time
import zlib
from dataclasses import dataclass
from uuid import UUID, uuid5

NAMESPACE = UUID("6f1d4f0e-8a5c-5c1e-9a53-0b6d0a5c7e11")
"""Root of every derived id; changing it would give every idempotency key a second effect."""

PARTITIONS = 8


def new_id() -> str:
    """A time-ordered UUID (version 7, RFC 9562) as text."""
    milliseconds = time.time_ns() // 1_000_000
    tail = int.from_bytes(os.urandom(10), "big")
    high = (milliseconds << 16) | 0x7000 | (tail >> 64 & 0x0FFF)
    low = (0b10 << 62) | (tail & ((1 << 62) - 1))
    digits = f"{(high << 64) | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def derived_id(*parts: str) -> str:
    """The UUID (version 5) that the same parts always give; parts are length-prefixed, so none can imitate two."""
    return str(uuid5(NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts)))


def partition_of(tenant: str) -> int:
    """The log partition that holds everything of a tenant: crc32 modulo `PARTITIONS`."""
    return zlib.crc32(tenant.encode()) % PARTITIONS


@dataclass(frozen=True, slots=True)
class JobId:
    """Names one accepted command so that its whereabouts can be looked up without a table of jobs.

    `sequence` is where the command lies in the WORK stream, `command` its id. The text form ends in a MAC
    over tenant and both, so that a foreign or invented job id is refused before anything is looked up. `space` names
    whose it is inside the tenant, where its sender reaches only a part of that.
    """

    sequence: int
    command: str
    space: str = ""

    def text(self, tenant: str, pepper: bytes) -> str:
        """The job id as clients see it: `job_<sequence>_<command>_<mac>`, or with `_<space>` before the MAC."""
        body = f"{self.sequence:x}_{self.command.replace('-', '')}" + (f"_{self.space}" if self.space else "")
        return f"job_{body}_{_mac(tenant, body, pepper)}"

    @classmethod
    def parse(cls, text: str, tenant: str, pepper: bytes) -> JobId | None:
        """The id that `text` names for this tenant, or `None` if it was not issued to it."""
        head, _, rest = text.partition("_")
        body, _, mac = rest.rpartition("_")
        if head != "job" or not hmac.compare_digest(mac.encode(), _mac(tenant, body, pepper).encode()):
            return None
        sequence, command, *space = body.split("_")
        return cls(int(sequence, 16), str(UUID(command)), "".join(space))


def _mac(tenant: str, body: str, pepper: bytes) -> str:
    return hmac.digest(pepper, f"job|{tenant}|{body}".encode(), "sha256").hex()[:12]
