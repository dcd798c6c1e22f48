"""Dead letters over HTTP: looked at, given another try, given up. Recovery does the work.

A key of a tenant reaches that tenant's dead letters alone; one of the installation (`_system`) those of all, and
may name a tenant. What belongs to another tenant is not there.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeVar

from engram_api.asking import Asking
from engram_api.calls import Answer, Call
from engram_api.cursors import unseal
from engram_api.drafts import command_id
from engram_api.models import (
    DeadGroupsQuery,
    DeadLettersQuery,
    DropBody,
    DropQuery,
    NoQuery,
    OneReplayBody,
    ReplayBody,
    ReplaysQuery,
)
from engram_contracts.answers import DeadLetterList
from engram_contracts.errors import NotFound
from engram_contracts.messages import Message
from engram_contracts.questions import Question
from engram_contracts.recovery import (
    CancelReplay,
    DropDead,
    GroupDead,
    ListDead,
    ListReplays,
    Replay,
    Selection,
    ShowDead,
    StartReplay,
    StatusReplay,
)

R = TypeVar("R", bound=Message)
AnyCall = Call[Any, Any]

RECOVERY_SECONDS = 30.0
"""So long recovery may look through its dead letters."""

NO_LETTER = "there is no dead letter with this id"
NO_REPLAY = "there is no replay with this id"
_SEQUENCE = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_REPLAY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


class DeadLetterHandlers(Asking):
    """The operations on dead letters and their replays."""

    async def list_dead(self, call: Call[None, DeadLettersQuery]) -> Answer:
        """One page, newest first."""
        tenant, query, listing = call.caller.tenant, call.query, "dead-letters"
        after = unseal(query.cursor, tenant=tenant, listing=listing, pepper=self._pepper)
        question = ListDead(
            tenant=tenant,
            filter=query.wanted(datetime.now(UTC)),
            limit=query.limit,
            after=int(after) if after else None,
        )
        page = await self._recover(question)
        return Answer(
            data=DeadLetterList.model_construct(letters=page.letters),
            meta=self._next(str(page.after) if page.after else None, tenant, listing),
        )

    async def group_dead(self, call: Call[None, DeadGroupsQuery]) -> Answer:
        """Counts, largest first."""
        wanted = call.query.wanted(datetime.now(UTC))
        return Answer(data=await self._recover(GroupDead(tenant=call.caller.tenant, filter=wanted, by=call.query.by)))

    async def get_dead(self, call: Call[None, NoQuery]) -> Answer:
        """Everything about one."""
        question = ShowDead(tenant=call.caller.tenant, sequence=_sequence(call))
        return Answer(data=await self._recover(question, missing=NO_LETTER))

    async def start_replay(self, call: Call[ReplayBody, NoQuery]) -> Answer:
        """Put a replay of some to work."""
        body = call.body
        how: dict[str, Any] = {"rate": body.rate, "dry_run": body.dry_run, "payload": body.payload}
        return await self._replay(call, _chosen(body), **how)

    async def replay_one(self, call: Call[OneReplayBody, NoQuery]) -> Answer:
        """Put a replay of one to work."""
        chosen = Selection(sequences=(_sequence(call),))
        how: dict[str, Any] = {"dry_run": call.body.dry_run, "payload": call.body.payload}
        return await self._replay(call, chosen, missing=NO_LETTER, **how)

    async def list_replays(self, call: Call[None, ReplaysQuery]) -> Answer:
        """Replays, newest first."""
        return Answer(data=await self._recover(ListReplays(tenant=call.caller.tenant, limit=call.query.limit)))

    async def get_replay(self, call: Call[None, NoQuery]) -> Answer:
        """How far a replay is."""
        question = StatusReplay(tenant=call.caller.tenant, id=_replay_id(call))
        return Answer(data=await self._recover(question, missing=NO_REPLAY))

    async def cancel_replay(self, call: Call[None, NoQuery]) -> Answer:
        """Ask for a replay's end; one that has ended is answered as it is."""
        question = CancelReplay(tenant=call.caller.tenant, id=_replay_id(call), actor=call.caller.actor)
        return Answer(data=await self._recover(question, missing=NO_REPLAY))

    async def drop_some(self, call: Call[DropBody, NoQuery]) -> Answer:
        """Delete some for good, with a reason."""
        body = call.body
        return await self._drop(
            call, Selection(sequences=body.sequences, filter=body.filter, all=body.all), body.reason
        )

    async def drop_one(self, call: Call[None, DropQuery]) -> Answer:
        """Delete one for good, with a reason."""
        return await self._drop(call, Selection(sequences=(_sequence(call),)), call.query.reason, missing=NO_LETTER)

    async def _replay(
        self, call: Call[Any, Any], chosen: Selection, *, missing: str | None = None, **how: Any
    ) -> Answer:
        """Start a replay. Its id derives from the idempotency key, so that a repeat meets the replay there is."""
        identity = command_id(call, Replay.op, call.path.get("id", "some"))
        question = StartReplay(tenant=call.caller.tenant, id=identity, actor=call.caller.actor, selection=chosen, **how)
        status = await self._recover(question, missing=missing)
        return Answer(data=status, headers={"Location": f"/v1/dead-letters/replays/{identity}"})

    async def _drop(
        self, call: Call[Any, Any], chosen: Selection, reason: str, *, missing: str | None = None
    ) -> Answer:
        question = DropDead(tenant=call.caller.tenant, selection=chosen, reason=reason, actor=call.caller.actor)
        return Answer(data=await self._recover(question, missing=missing))

    async def _recover(self, question: Question[R], *, missing: str | None = None) -> R:
        """Recovery's answer; where it knows of nothing, the words in `missing`, which tell nothing more."""
        try:
            return await self._ask(question, within=RECOVERY_SECONDS)
        except NotFound as error:
            raise NotFound(missing or error.message) from error


def _chosen(body: Selection) -> Selection:
    return Selection.model_construct(sequences=body.sequences, filter=body.filter, all=body.all)


def _sequence(call: AnyCall) -> int:
    text = call.path["id"]
    if not _SEQUENCE.fullmatch(text):
        raise NotFound(NO_LETTER)
    return int(text)


def _replay_id(call: AnyCall) -> str:
    text = call.path["id"]
    if not _REPLAY.fullmatch(text):
        raise NotFound(NO_REPLAY)
    return text
