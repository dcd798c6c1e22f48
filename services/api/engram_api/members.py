"""Members over HTTP: whose tokens count for a tenant, and what they may do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from engram_api.administering import Administering, AnyCall, check_grant
from engram_api.calls import Answer, Call
from engram_api.keyring import member_id
from engram_api.models import NoQuery, Paged
from engram_contracts.administration import MemberChanges, MemberList, MemberShown, NewMember
from engram_contracts.control import Bounds, Member
from engram_contracts.errors import Conflict, NotFound, Rejected
from engram_contracts.permissions import BOUND
from engram_contracts.recovery import SYSTEM

NO_MEMBER = "there is no member with this id"
BOUNDS = ("user_ids", "session_ids")


class MemberHandlers(Administering):
    """The operations on the members of the caller's tenant."""

    async def list_members(self, call: Call[None, Paged]) -> Answer:
        """Members by id."""
        begins = f"{call.caller.tenant}."
        mine = [(key, record) for key, record in self._registers.members.items() if key.startswith(begins)]
        found, meta = self._page(call, "members", mine)
        return Answer(data=MemberList(members=tuple(_shown(record) for _, record in found)), meta=meta)

    async def get_member(self, call: Call[None, NoQuery]) -> Answer:
        """One member."""
        return Answer(data=_shown(self._member(call)))

    async def add_member(self, call: Call[NewMember, NoQuery]) -> Answer:
        """Let somebody's tokens count. The same request under its idempotency key is answered alike."""
        body, tenant = call.body, call.caller.tenant
        if tenant == SYSTEM:
            raise Rejected("the installation has no members; name a tenant in X-Engram-Tenant")
        member = Member(
            tenant=tenant,
            subject=body.subject,
            role=body.role,
            scopes=body.scopes,
            bounds=Bounds(user_ids=body.user_ids, session_ids=body.session_ids),
            name=body.name,
            created_at=datetime.now(UTC),
            created_by=call.caller.actor,
        )
        _check(call, member)
        if not await self._registers.members.create(_key(member), member):
            member = await self._added_before(call, member)
        return Answer(data=_shown(member), headers={"Location": f"/v1/members/{member_id(member.subject)}"})

    async def change_member(self, call: Call[MemberChanges, NoQuery]) -> Answer:
        """Another role, other scopes or bounds; counts at every door within a second."""
        before = self._member(call)
        _check(call, before)

        def edit(member: Member) -> Member:
            changed = _changed(member, call.body)
            _check(call, changed)
            return changed

        return Answer(data=_shown(await self._registers.members.change(_key(before), edit)))

    async def remove_member(self, call: Call[None, NoQuery]) -> Answer:
        """Let somebody's tokens count no more, where they do not name role and tenant themselves."""
        member = self._member(call)
        _check(call, member)
        await self._registers.members.remove(_key(member))
        return Answer(data=_shown(member))

    def _member(self, call: AnyCall) -> Member:
        found = self._registers.members.get(f"{call.caller.tenant}.{call.path['id']}")
        if found is None:
            raise NotFound(NO_MEMBER)
        return found

    async def _added_before(self, call: AnyCall, member: Member) -> Member:
        found = await self._registers.members.stored(_key(member))
        same = found is not None and found.model_copy(update={"created_at": member.created_at}) == member
        if found is None or call.idempotency_key is None or not same:
            raise Conflict("this subject is a member already; change it with PATCH", field="subject")
        return found


def _check(call: AnyCall, member: Member) -> None:
    if not member.bounds.any and (set(member.scopes or BOUND) - BOUND or member.role not in ("reader", "writer")):
        raise Rejected("a member who is bound to users or sessions is a reader or writer", field="role")
    check_grant(call.caller, member.role, member.scopes, member.bounds)


def _key(member: Member) -> str:
    return f"{member.tenant}.{member_id(member.subject)}"


def _shown(member: Member) -> MemberShown:
    return MemberShown.model_validate({**dict(member), "id": member_id(member.subject)})


def _changed(member: Member, changes: MemberChanges) -> Member:
    sent: dict[str, Any] = {name: getattr(changes, name) for name in changes.model_fields_set}
    bounds = member.bounds.model_copy(update={name: sent.pop(name) for name in BOUNDS if name in sent})
    return member.model_copy(update={**sent, "bounds": bounds})
