"""Tickets: each lets one WebSocket in, once, as the caller who asked for it. They lie on the broker, for every door."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from engram_api.access import Caller
from engram_contracts.control import Bounds
from engram_contracts.errors import Unauthorized
from engram_contracts.live import Ticket
from engram_contracts.messages import Message, Moment
from engram_contracts.topology import TICKETS
from engram_runtime.bus import Bus

VALID_SECONDS = 30.0
PREFIX = "wst_"
USED = b"used"


class Held(Message):
    """What is kept of a ticket, under the hash of its text: for whom it counts, and how long."""

    tenant: str
    role: str
    actor: str | None = None
    permissions: frozenset[str]
    bounds: Bounds = Bounds()
    until: Moment | None = None
    member: bool = False
    expires_at: Moment


class Tickets:
    """Makes tickets and takes them back."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = bus.bucket(TICKETS)

    async def make(self, caller: Caller) -> Ticket:
        """A new ticket for a caller. Raises `Unavailable`."""
        text = PREFIX + secrets.token_urlsafe(32)
        expires_at = datetime.now(UTC) + timedelta(seconds=VALID_SECONDS)
        held = Held(
            tenant=caller.tenant, role=caller.role, actor=caller.actor, permissions=caller.permissions,
            bounds=caller.bounds, until=caller.until, member=caller.member, expires_at=expires_at,
        )  # fmt: skip
        await self._bucket.put(_name(text), held.encode())
        return Ticket(ticket=text, expires_at=expires_at)

    async def take(self, text: str) -> Caller:
        """The caller of a ticket, which does not count any more from now on. Raises `Unauthorized`, `Unavailable`."""
        found = await self._bucket.entry(_name(text))
        if found is None or found[0] == USED or await self._bucket.update(_name(text), USED, found[1]) is None:
            raise Unauthorized("this ticket does not count; it may be used, or too old")
        try:
            held = Held.model_validate_json(found[0])
        except ValidationError as error:
            raise Unauthorized("this ticket does not count") from error
        if held.expires_at <= datetime.now(UTC):
            raise Unauthorized("this ticket is too old; ask for another one")
        return Caller(**{name: getattr(held, name) for name in Held.model_fields if name != "expires_at"})


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
