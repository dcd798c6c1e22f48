"""Opaque cursors: where a list goes on, signed for one tenant and one list. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac

from engram_contracts.errors import Rejected

_MAC_BYTES = 12


def seal(after: str, *, tenant: str, listing: str, pepper: bytes) -> str:
    """The cursor that goes on behind `after` in this tenant's list."""
    body = after.encode()
    return base64.urlsafe_b64encode(_mac(body, tenant, listing, pepper) + body).rstrip(b"=").decode()


def unseal(cursor: str | None, *, tenant: str, listing: str, pepper: bytes) -> str | None:
    """What `seal` was given, or `None` without a cursor. Raises `Rejected` for any other text."""
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(body, tenant, listing, pepper)):
        raise Rejected("this cursor was not issued for this list; send `meta.next` as it was given", field="cursor")
    return body.decode()


def _mac(body: bytes, tenant: str, listing: str, pepper: bytes) -> bytes:
    return hmac.digest(pepper, b"cursor|%b|%b|%b" % (tenant.encode(), listing.encode(), body), "sha256")[:_MAC_BYTES]
