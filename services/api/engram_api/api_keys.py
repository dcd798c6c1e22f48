"""Keys over HTTP: made, listed, rotated, revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from engram_api.administering import Administering, AnyCall, check_grant
from engram_api.calls import Answer, Call
from engram_api.models import NoQuery, Paged
from engram_contracts.administration import KeyList, KeyMade, KeyShown, NewKey, Rotation
from engram_contracts.control import Bounds, KeyRecord, KeyUse
from engram_contracts.errors import Conflict, Forbidden, NotFound, Rejected
from engram_contracts.ids import new_id
from engram_contracts.permissions import BOUND
from engram_contracts.recovery import SYSTEM
from engram_runtime.keys import key_id, mint_key, seed_of

NO_KEY = "there is no key with this id"
SHOWN_AGAIN = timedelta(days=1)
"""So long the request that made a key, sent again under its idempotency key, is answered with the key."""


class KeyHandlers(Administering):
    """The operations on the keys of the caller's tenant, or of the installation."""

    async def list_keys(self, call: Call[None, Paged]) -> Answer:
        """Keys by id; those that count no more are among them."""
        tenant = call.caller.tenant
        mine = [(key, record) for key, record in self._registers.keys.items() if record.tenant == tenant]
        found, meta = self._page(call, "keys", mine)
        return Answer(data=KeyList(keys=tuple([await self._key_shown(*each) for each in found])), meta=meta)

    async def get_key(self, call: Call[None, NoQuery]) -> Answer:
        """One key."""
        return Answer(data=await self._key_shown(*self._key(call)))

    async def create_key(self, call: Call[NewKey, NoQuery]) -> Answer:
        """A new key, which is shown this once. The same request under its idempotency key shows it again for a day."""
        body = call.body
        bounds = Bounds(user_ids=body.user_ids, session_ids=body.session_ids)
        self._check_new(call, body, bounds)
        text, record = mint_key(
            call.caller.tenant, body.role, body.name, self._pepper, expires_at=body.expires_at, mode=body.mode,
            seed=self._seed(call, "new"),
        )  # fmt: skip
        wanted = record.model_copy(update={"scopes": body.scopes, "bounds": bounds, "created_by": call.caller.actor})
        return await self._made(text, wanted)

    async def rotate_key(self, call: Call[Rotation, NoQuery]) -> Answer:
        """A new key that may do what an old one may, which counts on for the overlap."""
        old_id, old = self._key(call)
        check_grant(call.caller, old.role, old.scopes, old.bounds)
        text, record = mint_key(
            old.tenant, "reader", old.name, self._pepper, expires_at=call.body.expires_at, mode=old.mode,
            seed=self._seed(call, "next", old_id),
        )  # fmt: skip
        successor = str(key_id(text))
        ends = datetime.now(UTC) + timedelta(seconds=call.body.overlap)
        wanted = record.model_copy(
            update={
                "role": old.role,
                "scopes": old.scopes,
                "bounds": old.bounds,
                "created_by": call.caller.actor,
                "replaces": old_id,
            }
        )
        self._check_follows(old, successor)
        answer = await self._made(text, wanted)
        await self._registers.keys.change(old_id, lambda before: _succeeded(before, successor, ends))
        return answer

    async def revoke_key(self, call: Call[None, NoQuery]) -> Answer:
        """Refuse a key, at every door within a second. A repeat changes nothing."""
        identity, _ = self._key(call)
        record = await self._registers.keys.change(identity, _revoked)
        return Answer(data=await self._key_shown(identity, record))

    def _key(self, call: AnyCall) -> tuple[str, KeyRecord]:
        """A key of the caller's own tenant; any other is not there."""
        identity = call.path["id"]
        record = self._registers.keys.get(identity)
        if record is None or record.tenant != call.caller.tenant:
            raise NotFound(NO_KEY)
        return identity, record

    def _seed(self, call: AnyCall, *what: str) -> bytes:
        name = call.idempotency_key or new_id()
        return seed_of(self._pepper, call.caller.tenant, *what, name)

    def _check_new(self, call: AnyCall, body: NewKey, bounds: Bounds) -> None:
        if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
            raise Rejected("expires_at has passed already", field="expires_at")
        if (body.role == "owner") and call.caller.tenant != SYSTEM:
            raise Forbidden("only keys of the installation can have this role", field="role")
        if not bounds.any and (set(body.scopes or BOUND) - BOUND or body.role not in ("reader", "writer")):
            raise Rejected("a key that is bound to users or sessions is a reader's or writer's", field="role")
        check_grant(call.caller, body.role, body.scopes, bounds)

    def _check_follows(self, old: KeyRecord, new: str) -> None:
        if old.replaced_by not in (None, new):
            raise Conflict(f"this key was rotated before; rotate its successor {old.replaced_by!r}")
        if not old.usable(datetime.now(UTC)):
            raise Conflict("this key does not count any more; make a new one")

    async def _made(self, text: str, wanted: KeyRecord) -> Answer:
        identity = str(key_id(text))
        record = wanted
        if not await self._registers.keys.create(identity, wanted):
            record = await self._registers.keys.stored(identity) or wanted
        if record.revoked or datetime.now(UTC) - record.created_at > SHOWN_AGAIN:
            raise Conflict("a key was made under this Idempotency-Key before, and is not shown again")
        shown = await self._key_shown(identity, record)
        return Answer(data=KeyMade(**dict(shown), key=text), headers={"Location": f"/v1/keys/{identity}"})

    async def _key_shown(self, identity: str, record: KeyRecord) -> KeyShown:
        last = await self._registers.uses.get(identity)
        used = self._registers.keyring.used.get(identity)
        at = used or (KeyUse.model_validate_json(last).at if last else None)
        return KeyShown.of(identity, record, now=datetime.now(UTC), last_used_at=at)


def _revoked(record: KeyRecord) -> KeyRecord:
    if record.revoked:
        return record
    return record.model_copy(update={"revoked": True, "revoked_at": datetime.now(UTC)})


def _succeeded(record: KeyRecord, successor: str, ends: datetime) -> KeyRecord:
    """The record of a key that has a successor: it counts until then, or until it would have run out before."""
    if record.replaced_by == successor:
        return record
    soonest = min(filter(None, (record.expires_at, ends)))
    return record.model_copy(update={"replaced_by": successor, "expires_at": soonest})
