"""Plans over HTTP: limits that tenants have in common."""

from __future__ import annotations

from typing import Any

from engram_api.administering import Administering, AnyCall
from engram_api.calls import Answer, Call
from engram_api.models import NoQuery, Paged
from engram_contracts.administration import NewPlan, PlanChanges, PlanList
from engram_contracts.control import BUILT_IN, Plan
from engram_contracts.errors import Conflict, NotFound

NO_PLAN = "there is no plan with this name"


class PlanHandlers(Administering):
    """The operations on plans. Admins see them, the installation's owner changes them; tenants feel it at once."""

    async def list_plans(self, call: Call[None, Paged]) -> Answer:
        """Plans by name, with those that are built in."""
        every = {**BUILT_IN, **dict(self._registers.plans.items())}
        found, meta = self._page(call, "plans", sorted(every.items()))
        return Answer(data=PlanList(plans=tuple(plan for _, plan in found)), meta=meta)

    async def get_plan(self, call: Call[None, NoQuery]) -> Answer:
        """One plan."""
        return Answer(data=self._plan(call))

    async def create_plan(self, call: Call[NewPlan, NoQuery]) -> Answer:
        """A plan that there was not. The same request under its idempotency key is answered alike."""
        plan = Plan.model_validate(dict(call.body))
        taken = plan.name in BUILT_IN or not await self._registers.plans.create(plan.name, plan)
        if taken and (call.idempotency_key is None or self._registers.keyring.plan(plan.name) != plan):
            raise Conflict(f"there is a plan {plan.name!r}; change it with PATCH", field="name")
        return Answer(data=plan, headers={"Location": f"/v1/plans/{plan.name}"})

    async def change_plan(self, call: Call[PlanChanges, NoQuery]) -> Answer:
        """Other limits, for all its tenants. A plan that is built in is changed by a record that takes its place."""
        before, changes = self._plan(call), _sent(call.body)
        plans = self._registers.plans
        if before.name in BUILT_IN:
            await plans.create(before.name, BUILT_IN[before.name])
        return Answer(data=await plans.change(before.name, lambda plan: plan.model_copy(update=changes)))

    async def delete_plan(self, call: Call[None, NoQuery]) -> Answer:
        """Take a plan away that no tenant has; one that is built in is as it was delivered again."""
        plan = self._plan(call)
        if plan.name not in BUILT_IN:
            self._check_unused(plan.name)
        elif self._registers.plans.get(plan.name) is None:
            raise Conflict("this plan is built in, and as it was delivered")
        await self._registers.plans.remove(plan.name)
        return Answer(data=plan)

    def _plan(self, call: AnyCall) -> Plan:
        found = self._registers.keyring.plan(call.path["id"])
        if found is None:
            raise NotFound(NO_PLAN)
        return found

    def _check_unused(self, plan: str) -> None:
        users = [name for name, record in self._registers.tenants.items() if record.plan == plan]
        if users:
            raise Conflict(f"{len(users)} tenants have this plan; give them another first")


def _sent(changes: PlanChanges) -> dict[str, Any]:
    return {name: getattr(changes, name) for name in changes.model_fields_set}
