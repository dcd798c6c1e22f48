"""What the door takes and answers about tenants, keys, plans and members.

Fields that only the door sets (hashes, times, who made it) are in no body, so a client cannot send them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator

from engram_contracts.control import (
    STANDARD,
    HalfLife,
    KeyRecord,
    Label,
    Language,
    Limits,
    Member,
    Mode,
    Overrides,
    Plan,
    PlanName,
    Quotas,
    Rate,
    RouteClass,
    Subject,
    TenantRecord,
)
from engram_contracts.memory import Scope
from engram_contracts.messages import Message, Moment, Strict, Tenant
from engram_contracts.permissions import Permission, Role

MONTH_SECONDS = 30 * 86_400
TenantRole = Literal["reader", "writer", "operator", "admin"]
Scoped = Annotated[tuple[Permission, ...], Field(min_length=1, max_length=64)]
Reached = Annotated[tuple[Scope, ...], Field(min_length=1, max_length=100)]


# --- tenants ------------------------------------------------------------------------------------------------


class NewTenant(Strict):
    """A tenant to create."""

    name: Tenant
    title: Label | None = None
    plan: PlanName = STANDARD
    overrides: Overrides = Overrides()
    language: Language | None = None
    half_life_days: HalfLife | None = None
    encrypted: bool = False
    """Whether its text is to be encrypted where it is stored, which cannot be changed later."""


class TenantChanges(Strict):
    """What is to change of a tenant; `overrides` are replaced as a whole."""

    title: Label | None = None
    plan: PlanName | None = None
    overrides: Overrides | None = None
    language: Language | None = None
    half_life_days: HalfLife | None = None

    @field_validator("plan", "overrides")
    @classmethod
    def _cannot_be_cleared(cls, value: object) -> object:
        if value is None:
            raise ValueError("this field can be changed but not cleared; leave it out to keep it")
        return value


class Suspension(Strict):
    """Why a tenant is suspended."""

    reason: Label | None = None


class TenantShown(TenantRecord):
    """A tenant, and the limits that count for it."""

    limits: Limits = Limits()


class TenantList(Message):
    """Tenants, by name."""

    tenants: tuple[TenantShown, ...]


# --- plans --------------------------------------------------------------------------------------------------


class NewPlan(Strict):
    """A plan to create."""

    name: PlanName
    title: Label | None = None
    quotas: Quotas = Quotas()
    rates: dict[RouteClass, Rate] = Field(default_factory=dict)
    model_share: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)


class PlanChanges(Strict):
    """What is to change of a plan; `quotas` and `rates` are replaced as a whole."""

    title: Label | None = None
    quotas: Quotas | None = None
    rates: dict[RouteClass, Rate] | None = None
    model_share: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)

    @field_validator("quotas", "rates", "model_share")
    @classmethod
    def _cannot_be_cleared(cls, value: object) -> object:
        if value is None:
            raise ValueError("this field can be changed but not cleared; leave it out to keep it")
        return value


class PlanList(Message):
    """Plans, by name."""

    plans: tuple[Plan, ...]


# --- keys ---------------------------------------------------------------------------------------------------


class NewKey(Strict):
    """A key to make. `scopes` are the permissions of the role that it has; left out, it has all of them.

    With `user_ids` or `session_ids` it reads and writes only memories of these.
    """

    name: Label
    role: Role
    mode: Mode = "live"
    scopes: Scoped | None = None
    user_ids: Reached | None = None
    session_ids: Reached | None = None
    expires_at: Moment | None = None


class Rotation(Strict):
    """How a key gets a successor: so long both count, in seconds."""

    overlap: int = Field(default=86_400, ge=0, le=MONTH_SECONDS)
    expires_at: Moment | None = None


class KeyShown(Message):
    """A key, without the key itself. `last_used_at` may be a minute behind."""

    id: str
    name: str
    role: str
    mode: Mode
    status: Literal["active", "expired", "revoked"]
    scopes: tuple[Permission, ...] | None = None
    user_ids: tuple[str, ...] | None = None
    session_ids: tuple[str, ...] | None = None
    created_at: Moment
    created_by: str | None = None
    expires_at: Moment | None = None
    revoked_at: Moment | None = None
    last_used_at: Moment | None = None
    replaces: str | None = None
    replaced_by: str | None = None

    @classmethod
    def of(cls, identity: str, record: KeyRecord, *, now: Moment, last_used_at: Moment | None = None) -> Self:
        """A record as it is shown."""
        usable = "active" if record.usable(now) else "expired"
        same = {name: getattr(record, name) for name in cls.model_fields if hasattr(record, name)}
        return cls.model_validate(
            {
                **same,
                "id": identity,
                "status": "revoked" if record.revoked else usable,
                "user_ids": record.bounds.user_ids,
                "session_ids": record.bounds.session_ids,
                "last_used_at": last_used_at,
            }
        )


class KeyMade(KeyShown):
    """A key that was just made, with its text, which is shown this once."""

    key: str


class KeyList(Message):
    """Keys, by id."""

    keys: tuple[KeyShown, ...]


# --- members ------------------------------------------------------------------------------------------------


class NewMember(Strict):
    """Somebody whose tokens are to count: the `sub` of these, and what they may do."""

    subject: Subject
    role: TenantRole
    scopes: Scoped | None = None
    user_ids: Reached | None = None
    session_ids: Reached | None = None
    name: Label | None = None


class MemberChanges(Strict):
    """What is to change of a member; `null` takes away what narrows."""

    role: TenantRole | None = None
    scopes: Scoped | None = None
    user_ids: Reached | None = None
    session_ids: Reached | None = None
    name: Label | None = None

    @field_validator("role")
    @classmethod
    def _cannot_be_cleared(cls, value: object) -> object:
        if value is None:
            raise ValueError("this field can be changed but not cleared; leave it out to keep it")
        return value


class MemberShown(Member):
    """A member, with its id."""

    id: str


class MemberList(Message):
    """Members, by id."""

    members: tuple[MemberShown, ...]
