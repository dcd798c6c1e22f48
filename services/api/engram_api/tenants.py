"""Tenants over HTTP: created, shown, changed, suspended, resumed, and deleted with everything they own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from engram_api.administering import Administering, AnyCall, own
from engram_api.calls import Answer, Call
from engram_api.drafts import command_id
from engram_api.models import NoQuery, Paged
from engram_contracts.administration import NewTenant, Suspension, TenantChanges, TenantList, TenantShown
from engram_contracts.control import Status, TenantRecord
from engram_contracts.erasing import Erase, ErasureStatus, StartErasure, StatusErasure
from engram_contracts.errors import Conflict, EngramError, NotFound, Rejected
from engram_contracts.recovery import SYSTEM
from engram_runtime.vault import vault_of

NO_TENANT = "there is no tenant with this name"
ERASE_SECONDS = 30.0


class TenantHandlers(Administering):
    """The operations on tenants. A tenant's own admins see theirs, the installation's owner sees and changes all."""

    async def list_tenants(self, call: Call[None, Paged]) -> Answer:
        """Tenants by name."""
        seen = [
            (name, record) for name, record in self._registers.tenants.items() if call.caller.tenant in (SYSTEM, name)
        ]
        found, meta = self._page(call, "tenants", seen)
        return Answer(data=TenantList(tenants=tuple(self._tenant_shown(record) for _, record in found)), meta=meta)

    async def get_tenant(self, call: Call[None, NoQuery]) -> Answer:
        """One tenant with the limits that count for it."""
        return Answer(data=self._tenant_shown(self._tenant(call)))

    async def create_tenant(self, call: Call[NewTenant, NoQuery]) -> Answer:
        """A tenant that there was not. The same request under its idempotency key is answered alike."""
        body = call.body
        own(call.caller, SYSTEM, NO_TENANT)
        self._check_plan(body.plan)
        before = await self._registers.tenants.stored(body.name)
        if before is not None and before.status == "deleting":
            await self._finish_deleting(before)
        record = TenantRecord(
            name=body.name,
            title=body.title,
            plan=body.plan,
            overrides=body.overrides,
            language=body.language,
            half_life_days=body.half_life_days,
            encrypted=body.encrypted,
            created_at=datetime.now(UTC),
        )
        if body.encrypted and await self._registers.tenants.stored(body.name) is None:
            await vault_of(self._bus).create(body.name, record.created_at)
        if not await self._registers.tenants.create(body.name, record):
            record = await self._made_before(call, record)
        return Answer(data=self._tenant_shown(record), headers={"Location": f"/v1/tenants/{body.name}"})

    async def change_tenant(self, call: Call[TenantChanges, NoQuery]) -> Answer:
        """Another title, plan, limits, or way to recall."""
        changes = {name: getattr(call.body, name) for name in call.body.model_fields_set}
        if "plan" in changes:
            self._check_plan(changes["plan"])
        return await self._edited(call, lambda record: record.model_copy(update=changes))

    async def suspend_tenant(self, call: Call[Suspension, NoQuery]) -> Answer:
        """Refuse its requests, at every door within a second. A repeat changes nothing."""
        return await self._edited(call, lambda record: _with_status(record, "suspended", call.body.reason))

    async def resume_tenant(self, call: Call[None, NoQuery]) -> Answer:
        """Serve it again. A repeat changes nothing."""
        return await self._edited(call, lambda record: _with_status(record, "active", None))

    async def delete_tenant(self, call: Call[None, NoQuery]) -> Answer:
        """Refuse its requests, and erase all it owns. A repeat tells how far that is, and at last closes its record."""
        name, identity = self._tenant(call).name, command_id(call, Erase.op, call.path["id"])
        record = await self._registers.tenants.change(
            name, lambda before: _with_status(before, "deleting", None, erasure=before.erasure or identity)
        )
        status = await self._ask(
            StartErasure(tenant=name, id=record.erasure, actor=call.caller.actor), within=ERASE_SECONDS
        )
        if status.state == "done":
            await self._forget_tenant(name)
        return Answer(data=status, status=200 if status.state == "done" else 202)

    def _tenant(self, call: AnyCall) -> TenantRecord:
        name = call.path["id"]
        own(call.caller, name, NO_TENANT)
        record = self._registers.tenants.get(name)
        if record is None:
            raise NotFound(NO_TENANT)
        return record

    def _tenant_shown(self, record: TenantRecord) -> TenantShown:
        limits = self._registers.keyring.limits_of(record)
        return TenantShown.model_validate({**dict(record), "limits": limits})

    def _check_plan(self, plan: str) -> None:
        if self._registers.keyring.plan(plan) is None:
            raise Rejected(f"there is no plan {plan!r}; see GET /v1/plans", field="plan")

    async def _edited(self, call: AnyCall, edit: Callable[[TenantRecord], TenantRecord]) -> Answer:
        name = self._tenant(call).name
        return Answer(data=self._tenant_shown(await self._registers.tenants.change(name, edit)))

    async def _made_before(self, call: AnyCall, record: TenantRecord) -> TenantRecord:
        """The tenant of that name, where an earlier try of this request made it. Raises `Conflict` for any other."""
        found = await self._registers.tenants.stored(record.name)
        if found is None or call.idempotency_key is None or not _alike(found, record):
            raise Conflict(f"there is a tenant {record.name!r}, or one that is being deleted", field="name")
        return found

    async def _finish_deleting(self, record: TenantRecord) -> None:
        """Close the record of a tenant of which nothing is left."""
        if record.erasure is None:
            return
        try:
            status: ErasureStatus = await self._ask(StatusErasure(tenant=SYSTEM, id=record.erasure))
        except EngramError:
            return
        if status.state == "done":
            await self._forget_tenant(record.name)

    async def _forget_tenant(self, name: str) -> None:
        """Take its keys and members out, and then its own record, so that a name is free once nothing is left."""
        registers = self._registers
        keys = [key for key, record in registers.keys.items() if record.tenant == name]
        members = [key for key, record in registers.members.items() if record.tenant == name]
        await asyncio.gather(*(registers.keys.remove(key) for key in keys))
        await asyncio.gather(*(registers.members.remove(key) for key in members))
        await vault_of(self._bus).destroy(name)
        await registers.tenants.remove(name)


def _with_status(
    record: TenantRecord, status: Status, reason: str | None, *, erasure: str | None = None
) -> TenantRecord:
    """The record with a status. Raises `Conflict` for a tenant that is being deleted, which stays so."""
    if record.status == "deleting" and status != "deleting":
        raise Conflict("this tenant is being deleted")
    if record.status == status:
        return record
    return record.model_copy(
        update={"status": status, "reason": reason, "changed_at": datetime.now(UTC), "erasure": erasure}
    )


def _alike(one: TenantRecord, other: TenantRecord) -> bool:
    named = ("title", "plan", "overrides", "status", "encrypted")
    return all(getattr(one, name) == getattr(other, name) for name in named)
