"""The control plane's records: plans, tenants, keys and members, each in a bucket of its own, watched by every door.

The door writes them; nothing else does but the first start, which makes tenant `default` and the first keys. A change
counts on every door within a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from engram_contracts.memory import Scope
from engram_contracts.messages import Message, Moment, Strict, Tenant
from engram_contracts.permissions import Permission, Role
from engram_contracts.recovery import TenantOrSystem

PlanName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Who a token speaks for: its `sub`."""

KeyId = Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{12}$")]
MemberId = Annotated[str, StringConstraints(pattern=r"^[a-z2-7]{26}$")]
Amount = Annotated[int, Field(ge=0, le=2**53)]
Mode = Literal["live", "test"]
Status = Literal["active", "suspended", "deleting"]

RouteClass = Literal["standard", "model"]
"""What a rate counts: requests of any kind, and those that a language model works on (`think`), which count in both."""

UNLIMITED, STANDARD = "unlimited", "standard"


# --- plans --------------------------------------------------------------------------------------------------


class Quotas(Strict):
    """The most that a tenant may have or use; `None` is no bound.

    `memories`, `storage_bytes` (of memories' text and metadata) and `dead_letters` are what it holds at one time;
    `calls` (requests) and `think_tokens` (read and written by language models) what it uses in a day of UTC.
    """

    memories: Amount | None = None
    storage_bytes: Amount | None = None
    dead_letters: Amount | None = None
    calls: Amount | None = None
    think_tokens: Amount | None = None


class Rate(Strict):
    """A token bucket: it is filled with `per_minute` tokens a minute and holds `burst` at most."""

    per_minute: float = Field(gt=0, le=1e7, allow_inf_nan=False)
    burst: int = Field(ge=1, le=10**6)


class Limits(Strict):
    """Quotas, rates by class of route (a class that is left out is not limited), and a tenant's share of the models.

    `model_share` is the largest part of all calls of language models under way that one tenant may have, at least one.
    """

    quotas: Quotas = Quotas()
    rates: dict[RouteClass, Rate] = Field(default_factory=dict)
    model_share: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)


class Plan(Limits):
    """Limits that tenants have in common, under a name."""

    name: PlanName
    title: Label | None = None


class Overrides(Strict):
    """Limits of one tenant in place of its plan's: a quota or rate that is given counts, `null` lifts it."""

    quotas: dict[Literal["memories", "storage_bytes", "dead_letters", "calls", "think_tokens"], Amount | None] = Field(
        default_factory=dict
    )
    rates: dict[RouteClass, Rate | None] = Field(default_factory=dict)
    model_share: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)


BUILT_IN: Mapping[str, Plan] = {
    UNLIMITED: Plan(name=UNLIMITED, title="No bounds; tenant default has it"),
    STANDARD: Plan(
        name=STANDARD,
        title="What a tenant gets that is created without a plan",
        quotas=Quotas(
            memories=1_000_000,
            storage_bytes=4 * 1024**3,
            dead_letters=10_000,
            calls=100_000,
            think_tokens=1_000_000,
        ),
        rates={"standard": Rate(per_minute=60, burst=10), "model": Rate(per_minute=10, burst=10)},
        model_share=0.5,
    ),
}
"""Plans that are always there; a record under the same name takes their place."""


def limits_of(plan: Limits, overrides: Overrides) -> Limits:
    """The limits that count for a tenant of this plan."""
    rates = {**plan.rates, **overrides.rates}
    return Limits(
        quotas=plan.quotas.model_copy(update={str(name): amount for name, amount in overrides.quotas.items()}),
        rates={name: rate for name, rate in rates.items() if rate is not None},
        model_share=overrides.model_share or plan.model_share,
    )


Language = Literal[
    "none", "arabic", "armenian", "basque", "catalan", "czech", "danish", "dutch", "dutch_porter", "english",
    "esperanto", "estonian", "finnish", "french", "german", "greek", "hindi", "hungarian", "indonesian", "irish",
    "italian", "lithuanian", "nepali", "norwegian", "persian", "polish", "porter", "portuguese", "romanian", "russian",
    "serbian", "sesotho", "spanish", "swedish", "tamil", "turkish", "yiddish",
]  # fmt: skip
"""Whose stems words are counted as (Snowball's names); `none` takes them as they are written."""

HalfLife = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]
"""Days after which a memory counts half as new."""


# --- tenants ------------------------------------------------------------------------------------------------


class TenantRecord(Message):
    """What is kept of a tenant, under its name.

    `suspended` refuses its requests and what it publishes from `changed_at` on; what was accepted before is finished.
    `deleting` refuses likewise, until everything it owns is erased and this record with it.
    """

    name: Tenant
    status: Status = "active"
    created_at: Moment
    title: Label | None = None
    plan: PlanName = UNLIMITED
    overrides: Overrides = Overrides()
    language: Language | None = None
    """That of its memories, where it is another than the installation's. What is kept already keeps its stems."""
    half_life_days: HalfLife | None = None
    """What recency counts by in its recalls, unless a request says otherwise."""
    encrypted: bool = False
    """Whether its text is encrypted where it is stored; set when it is created."""
    reason: Label | None = None
    """Why it is suspended."""
    changed_at: Moment | None = None
    """When the status was set."""
    erasure: str | None = None
    """What erases it, while it is being deleted."""


class WrappedKey(Message):
    """What is kept of a tenant's data key, under the tenant's name: encrypted by the master key `master`.

    `id` names the data key in what it encrypted; both ids are in hex. `wrapped` is a nonce of 12 bytes, then the key by
    AES-256-GCM, with tenant and id as associated data.
    """

    tenant: Tenant
    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    master: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    wrapped: bytes
    created_at: Moment
    wrapped_at: Moment


# --- keys ---------------------------------------------------------------------------------------------------


class Bounds(Strict):
    """Whose memories a caller may reach: those with one of these users, and in one of these sessions; `None` is any."""

    user_ids: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=100)] | None = None
    session_ids: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=100)] | None = None

    @property
    def any(self) -> bool:
        """Whether nothing is ruled out."""
        return self.user_ids is None and self.session_ids is None

    def permits(self, user_id: str | None, session_id: str | None) -> bool:
        """Whether a memory of this user and session is within."""
        return (self.user_ids is None or user_id in self.user_ids) and (
            self.session_ids is None or session_id in self.session_ids
        )


class KeyRecord(Message):
    """What is kept of a key, under its id: never the key itself. Tenant `_system` stands for the installation."""

    tenant: TenantOrSystem
    hash: str
    """HMAC-SHA256 of the whole key under the pepper, in hex."""
    name: str
    role: str
    created_at: Moment
    expires_at: Moment | None = None
    revoked: bool = False
    mode: Mode = "live"
    scopes: tuple[Permission, ...] | None = None
    """Permissions of the role that the key has; `None` is all of them."""
    bounds: Bounds = Bounds()
    created_by: str | None = None
    revoked_at: Moment | None = None
    replaces: KeyId | None = None
    replaced_by: KeyId | None = None
    """The key that rotation put in its place; this one counts on until `expires_at`."""

    def usable(self, now: datetime) -> bool:
        """Whether the key still counts at this time."""
        return not self.revoked and (self.expires_at is None or now < self.expires_at)


class KeyUse(Message):
    """When a key was last used, under its id in a bucket of its own; doors write it down a minute late at most."""

    at: Moment


# --- members ------------------------------------------------------------------------------------------------


class Member(Message):
    """Somebody whose tokens count for a tenant, and what they may do; kept under `<tenant>.<id>`."""

    tenant: Tenant
    subject: Subject
    role: Role
    scopes: tuple[Permission, ...] | None = None
    bounds: Bounds = Bounds()
    name: Label | None = None
    created_at: Moment
    created_by: str | None = None
