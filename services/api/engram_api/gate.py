"""The gate: who is calling, for which tenant, and whether that is allowed."""

from __future__ import annotations

import hmac
import re

from multidict import MultiMapping

from engram_api.access import OPEN, Caller, Permission, allowed
from engram_api.keyring import Keyring
from engram_contracts.errors import Forbidden, Rejected, Unauthorized, Unavailable
from engram_contracts.recovery import SYSTEM

TENANT_HEADER = "X-Engram-Tenant"
KEY_HEADER = "X-API-Key"
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


class Gate:
    """Decides on every request before anything else looks at it."""

    def __init__(self, keyring: Keyring, *, enabled: bool, metrics_token: str | None) -> None:
        self._keyring = keyring
        self._enabled = enabled
        self._metrics_token = metrics_token

    def admit(self, headers: MultiMapping[str], permission: Permission, *, system: bool = False) -> Caller | None:
        """The caller, or `None` where an operation asks for none. `system` takes who speaks for the installation.

        Raises `Rejected` for a request that names two identities, `Unauthorized` without a key that counts,
        `Forbidden` where the tenant is suspended or the role does not carry the permission.
        """
        if permission in OPEN:
            self._admit_reader_of_metrics(headers, permission)
            return None
        caller = self._identify(headers)
        if caller.tenant != SYSTEM:
            self._check_tenant(caller.tenant)
        elif not system:
            raise Forbidden("this key speaks for the installation, not for a tenant; use a key of the tenant")
        if not allowed(caller.role, permission):
            raise Forbidden(f"role {caller.role!r} does not carry {permission!r}; use a key with a higher role")
        return caller

    def _identify(self, headers: MultiMapping[str]) -> Caller:
        if not self._enabled:
            everyone = headers.getall(TENANT_HEADER, []) == [SYSTEM]
            return Caller(tenant=SYSTEM if everyone else _named_tenant(headers) or "default", role="admin")
        text = _credential(headers)
        if not self._keyring.complete:
            raise Unavailable("keys are still being read; try again", retry_after=1.0)
        found = self._keyring.verify(text)
        if found is None:
            raise Unauthorized("this key is not valid here; it may be mistyped, revoked or expired")
        identity, record = found
        if _named_tenant(headers) not in (None, record.tenant):
            raise Rejected(f"{TENANT_HEADER} names another tenant than the key; leave it out", field=TENANT_HEADER)
        return Caller(tenant=record.tenant, role=record.role, actor=identity)

    def _check_tenant(self, name: str) -> None:
        tenant = self._keyring.tenant(name)
        if tenant is None and self._enabled:
            raise Forbidden("the tenant of this key does not exist any more")
        if tenant is not None and tenant.status == "suspended":
            raise Forbidden("this tenant is suspended; ask who runs this installation")

    def _admit_reader_of_metrics(self, headers: MultiMapping[str], permission: Permission) -> None:
        if permission != "metrics" or self._metrics_token is None:
            return
        if not hmac.compare_digest(_credential(headers).encode(), self._metrics_token.encode()):
            raise Unauthorized("this is not the metrics token")


def _credential(headers: MultiMapping[str]) -> str:
    bearers, keys = headers.getall("Authorization", []), headers.getall(KEY_HEADER, [])
    if len(bearers) + len(keys) > 1:
        raise Rejected(f"send one key, in Authorization or in {KEY_HEADER}, not both", field="Authorization")
    if keys:
        return keys[0]
    scheme, _, text = bearers[0].partition(" ") if bearers else ("", "", "")
    if scheme.lower() != "bearer" or not text:
        raise Unauthorized(f"send your key as 'Authorization: Bearer <key>' or in {KEY_HEADER}")
    return text.strip()


def _named_tenant(headers: MultiMapping[str]) -> str | None:
    names = headers.getall(TENANT_HEADER, [])
    if not names:
        return None
    if len(names) > 1 or not _TENANT.fullmatch(names[0]):
        raise Rejected(
            f"{TENANT_HEADER} must be one name of lower-case letters, digits, '-' and '_'", field=TENANT_HEADER
        )
    return names[0]
