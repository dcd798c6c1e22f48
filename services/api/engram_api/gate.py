"""The gate: who is calling, for which tenant, and whether that is allowed."""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING

from multidict import MultiMapping

from engram_api.access import OPEN, UNBOUND, Caller, Permission, granted
from engram_api.keyring import Keyring
from engram_contracts.control import KeyRecord
from engram_contracts.errors import Forbidden, NotFound, Rejected, Unauthorized, Unavailable
from engram_contracts.permissions import BOUND
from engram_contracts.recovery import SYSTEM
from engram_runtime.vault import NO_VAULT, Vault

if TYPE_CHECKING:
    from engram_api.tokens import Claims, Tokens

TENANT_HEADER = "X-Engram-Tenant"
KEY_HEADER = "X-API-Key"
KEY_PREFIX = "eng_"
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)


class Gate:
    """Decides on every request before anything else looks at it.

    Without `tokens` only keys count. With `host_suffix`, the label before it in the host names the tenant.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        enabled: bool,
        metrics_token: str | None,
        tokens: Tokens | None = None,
        host_suffix: str | None = None,
        vault: Vault = NO_VAULT,
    ) -> None:
        self._vault = vault
        self._keyring = keyring
        self._enabled = enabled
        self._metrics_token = metrics_token
        self._tokens = tokens
        self._callers: dict[str, tuple[KeyRecord, Caller]] = {}
        """What was made of a key's record, as long as that is the same; as many as there are keys."""
        self._host_suffix = f".{host_suffix.strip('.').lower()}" if host_suffix else None

    @property
    def open(self) -> bool:
        """Whether nobody is asked for a key."""
        return not self._enabled

    async def admit(self, headers: MultiMapping[str], permission: Permission, *, system: bool = False) -> Caller | None:
        """The caller, or `None` where an operation asks for none. `system` takes who speaks for the installation.

        Raises `Rejected` for a request that names two identities, or two tenants, or none; `Unauthorized` without a key
        or token that counts; `Forbidden` where the tenant is suspended or the permission is not given.
        """
        if permission in OPEN:
            self._admit_reader_of_metrics(headers, permission)
            return None
        caller = await self.identify(headers)
        self.check(caller, permission, system=system)
        return caller

    async def identify(self, headers: MultiMapping[str]) -> Caller:
        """Who sent these headers, whatever it may do. Raises as `admit` does."""
        named = self._named_tenant(headers)
        if not self._enabled:
            return _everyone(named or "default")
        text = _credential(headers)
        if not self._keyring.complete:
            raise Unavailable("keys are still being read; try again", retry_after=1.0)
        if self._tokens is not None and not text.startswith(KEY_PREFIX):
            return self._caller_of_token(await self._tokens.verify(text), named)
        return self._caller_of_key(text, named)

    def recheck(self, caller: Caller | None, permission: Permission, *, system: bool = False) -> None:
        """Whether a caller that was let in may go on, for connections that stay open. Raises as `admit` does."""
        if caller is None:
            return
        if not self._counts(caller):
            raise Unauthorized("this key or token does not count any more")
        self.check(caller, permission, system=system)

    def check(self, caller: Caller, permission: Permission, *, system: bool = False) -> None:
        """Whether a caller may do something now. Raises as `admit` does."""
        if caller.tenant != SYSTEM:
            self._check_tenant(caller.tenant, caller.role)
        if permission not in caller.permissions:
            raise Forbidden(_missing(caller, permission))
        if caller.tenant == SYSTEM and not system:
            raise Rejected(
                f"this key speaks for the installation; name a tenant in {TENANT_HEADER}", field=TENANT_HEADER
            )

    def _counts(self, caller: Caller) -> bool:
        """Whether what it was identified by still counts: not revoked, not expired, still a member."""
        if not self._enabled or caller.actor is None:
            return not self._enabled
        if caller.until is not None and not self._keyring.before(caller.until):
            return False
        if caller.actor.startswith("sub:"):
            member = self._keyring.member(caller.tenant, caller.actor.removeprefix("sub:"))
            return not caller.member or member is not None
        return self._keyring.usable(caller.actor)

    def _caller_of_key(self, text: str, named: str | None) -> Caller:
        found = self._keyring.verify(text)
        if found is None:
            raise Unauthorized("this key is not valid here; it may be mistyped, revoked or expired")
        identity, record = found
        if record.tenant != SYSTEM and named not in (None, record.tenant):
            raise Rejected("the request names another tenant than the key; leave it out", field=TENANT_HEADER)
        known = self._callers.get(identity)
        if known is not None and known[0] is record and record.tenant != SYSTEM:
            return known[1]
        caller = self._new_caller(identity, record, named)
        self._callers[identity] = record, caller
        return caller

    def _new_caller(self, identity: str, record: KeyRecord, named: str | None) -> Caller:
        role = _role(record)
        return Caller(
            tenant=named or record.tenant if record.tenant == SYSTEM else record.tenant,
            role=role,
            actor=identity,
            permissions=granted(role, record.scopes, record.bounds),
            bounds=record.bounds,
            until=record.expires_at,
        )

    def _caller_of_token(self, claims: Claims, named: str | None) -> Caller:
        """The caller of a token. What an admin wrote down of a member counts before what the token says of it."""
        tenant = claims.tenant or named
        if tenant is None:
            raise Rejected(f"the token names no tenant; name one in {TENANT_HEADER}", field=TENANT_HEADER)
        if named not in (None, tenant):
            raise Rejected("the request names another tenant than the token; leave it out", field=TENANT_HEADER)
        member = self._keyring.member(tenant, claims.subject)
        if member is None and (claims.tenant is None or claims.role is None):
            raise Forbidden("this token's subject is no member of the tenant it names")
        role = member.role if member is not None else str(claims.role)
        bounds = claims.narrowed(member.bounds if member is not None else UNBOUND)
        return Caller(
            tenant=tenant,
            role=role,
            actor=f"sub:{claims.subject}",
            permissions=granted(role, member.scopes if member is not None else claims.scopes, bounds),
            bounds=bounds,
            until=claims.until,
            member=member is not None,
        )

    def _check_tenant(self, name: str, role: str) -> None:
        tenant = self._keyring.tenant(name)
        if tenant is None and self._enabled:
            raise (
                NotFound(f"there is no tenant {name!r}")
                if role == "owner"
                else Forbidden("the tenant of this key does not exist any more")
            )
        if tenant is not None and tenant.status != "active":
            raise Forbidden("this tenant is suspended; ask who runs this installation")
        if tenant is not None and tenant.encrypted and not self._vault.seals(name):
            raise Unavailable(
                "the data key of this tenant is not known here; see `engram encryption status`", retry_after=1.0
            )

    def _admit_reader_of_metrics(self, headers: MultiMapping[str], permission: Permission) -> None:
        if permission != "metrics" or self._metrics_token is None:
            return
        if not hmac.compare_digest(_credential(headers).encode(), self._metrics_token.encode()):
            raise Unauthorized("this is not the metrics token")

    def _named_tenant(self, headers: MultiMapping[str]) -> str | None:
        """The tenant that the header or the host names, or `None`. Raises `Rejected` where they differ."""
        by_header, by_host = _in_header(headers), self._in_host(headers)
        if by_header is not None and by_host is not None and by_header != by_host:
            raise Rejected(f"the host and {TENANT_HEADER} name different tenants", field=TENANT_HEADER)
        return by_header or by_host

    def _in_host(self, headers: MultiMapping[str]) -> str | None:
        if self._host_suffix is None:
            return None
        host = headers.get("Host", "").partition(":")[0].lower()
        label = host.removesuffix(self._host_suffix)
        return label if label != host and _TENANT.fullmatch(label) else None


def _missing(caller: Caller, permission: Permission) -> str:
    if not caller.bounds.any and permission not in BOUND:
        return f"a key bound to users or sessions cannot have {permission!r}, which concerns the whole tenant"
    return f"role {caller.role!r} as given here does not carry {permission!r}; use another key"


def _everyone(tenant: str) -> Caller:
    role = "owner" if tenant == SYSTEM else "admin"
    return Caller(tenant=tenant, role=role, permissions=granted(role, None, UNBOUND))


def _role(record: KeyRecord) -> str:
    """The role of a key. An admin of the installation is its owner, and nobody else is."""
    if record.tenant == SYSTEM:
        return "owner" if record.role == "admin" else record.role
    return "" if record.role == "owner" else record.role


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


def _in_header(headers: MultiMapping[str]) -> str | None:
    names = headers.getall(TENANT_HEADER, [])
    if not names:
        return None
    if names == [SYSTEM]:
        return SYSTEM
    if len(names) > 1 or not _TENANT.fullmatch(names[0]):
        raise Rejected(
            f"{TENANT_HEADER} must be one name of lower-case letters, digits, '-' and '_'", field=TENANT_HEADER
        )
    return names[0]
