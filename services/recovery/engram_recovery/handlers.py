"""What recovery does: shows the dead letters, gives them another try, gives them up."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from engram_contracts.commands import Command
from engram_contracts.errors import EngramError, NotFound, Rejected
from engram_contracts.ids import new_id
from engram_contracts.questions import Check
from engram_contracts.recovery import (
    SHOWN_BYTES,
    SYSTEM,
    CancelReplay,
    DeadDetail,
    DeadGroups,
    DeadPage,
    DropDead,
    Dropped,
    GroupDead,
    ListDead,
    ListReplays,
    Replay,
    ReplayPage,
    ReplayRecord,
    ReplayStatus,
    ShowDead,
    StartReplay,
    StatusReplay,
)
from engram_contracts.topology import work_subject
from engram_contracts.trail import Act, targets
from engram_recovery import marks
from engram_recovery.browsing import Browser
from engram_recovery.graveyard import Graveyard
from engram_recovery.letters import Buried, as_json
from engram_recovery.payloads import edited
from engram_recovery.replaying import Replayer, check_reach, new_record
from engram_recovery.replays import Replays
from engram_runtime.bus import Bus, Entry
from engram_runtime.service import Delivery, Outcome

log = logging.getLogger(__name__)

DROPPED_AT_ONCE = 2_000
READ_AT_ONCE = 200


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


async def unnoted(_: Act) -> None:
    """Keep no audit trail."""


class Handlers:
    """One method per contract; `now` is the clock, `note` hands an act to the audit trail."""

    def __init__(
        self,
        bus: Bus,
        browser: Browser,
        graveyard: Graveyard,
        replays: Replays,
        replayer: Replayer,
        *,
        now: Callable[[], datetime] = utc_now,
        note: Callable[[Act], Awaitable[None]] = unnoted,
    ) -> None:
        self._note = note
        self._bus = bus
        self._browser = browser
        self._graveyard = graveyard
        self._replays = replays
        self._replayer = replayer
        self._now = now

    async def list_dead(self, question: ListDead) -> DeadPage:
        """Dead letters, newest first."""
        check_reach(question.tenant, question.filter)
        return await self._browser.page(question.tenant, question.filter, limit=question.limit, after=question.after)

    async def group_dead(self, question: GroupDead) -> DeadGroups:
        """Dead letters, counted."""
        check_reach(question.tenant, question.filter)
        return await self._browser.groups(question.tenant, question.filter, question.by, now=self._now())

    async def show_dead(self, question: ShowDead) -> DeadDetail:
        """Everything about one dead letter."""
        return _detail(await self._graveyard.get(question.tenant, question.sequence))

    async def start_replay(self, question: StartReplay) -> ReplayStatus:
        """Check what is asked for, then put it to work. A repeat answers with the replay that there is."""
        identity = question.id or new_id()
        known = await self._replays.find(question.tenant, identity)
        if known is None:
            await self._check(question)
            await self._note(self._act("replay", question.tenant, question.actor, [identity]))
            await self._put_to_work(question, identity)
        return await self._status(question.tenant, identity)

    async def status_replay(self, question: StatusReplay) -> ReplayStatus:
        """How far a replay is."""
        return await self._status(question.tenant, question.id)

    async def list_replays(self, question: ListReplays) -> ReplayPage:
        """Replays, newest first."""
        records = (await self._replays.all_of(question.tenant))[: question.limit]
        return ReplayPage(replays=tuple([await self._replays.status(record) for record in records]))

    async def cancel_replay(self, question: CancelReplay) -> ReplayStatus:
        """Ask for a replay's end. A repeat, and one that has ended, changes nothing."""
        record = await self._record(question.tenant, question.id)
        if not record.ended:
            await self._replays.cancel(record)
            log.info("cancelling replay", extra={"replay": record.id, "tenant": record.tenant, "actor": question.actor})
        return await self._status(question.tenant, question.id)

    async def drop_dead(self, question: DropDead) -> Dropped:
        """Delete dead letters for good; who did so is noted, and why stands in the log, before the first one goes."""
        check_reach(question.tenant, question.selection.filter)
        await self._graveyard.require(question.tenant, question.selection.sequences)
        chosen = [str(sequence) for sequence in question.selection.sequences]
        await self._note(self._act("drop-dead-letters", question.tenant, question.actor, chosen))
        log.warning("dropping dead letters", extra=question.model_dump(mode="json", exclude_none=True))
        answer = await self._drop(question)
        log.info("dropped dead letters", extra={"tenant": question.tenant, **answer.model_dump()})
        return answer

    async def replay(self, batch: Sequence[Delivery[Command]]) -> list[Outcome]:
        """Run replays to their end."""
        return [await self._outcome(delivery) for delivery in batch]

    async def check(self) -> Check:
        """Whether the dead letters can be reached."""
        await self._graveyard.extent()
        return Check(ok=True)

    def _act(self, action: str, tenant: str, actor: str | None, ids: Sequence[str]) -> Act:
        return Act(tenant=tenant, at=self._now(), action=action, actor=actor, **targets(ids))

    async def _outcome(self, delivery: Delivery[Command]) -> Outcome:
        if not isinstance(delivery.message, Replay):
            return Rejected(f"recovery does not take {delivery.event!r}", field="op")
        try:
            await self._replayer.replay(delivery.tenant, delivery.message)
        except EngramError as error:
            return error
        return None

    async def _check(self, question: StartReplay) -> None:
        check_reach(question.tenant, question.selection.filter)
        await self._graveyard.require(question.tenant, question.selection.sequences)
        if question.payload is not None:
            edited(await self._graveyard.get(question.tenant, question.selection.sequences[0]), question.payload)

    async def _put_to_work(self, question: StartReplay, identity: str) -> None:
        command = Replay(
            id=identity,
            accepted_at=self._now(),
            actor=question.actor,
            selection=question.selection,
            rate=question.rate,
            dry_run=question.dry_run,
            payload=question.payload,
        )
        owner = await self._owner(question)
        entry = Entry(subject=work_subject(question.tenant, Replay.op), body=command.encode(), id=identity, owner=owner)
        outcome = (await self._bus.append([entry]))[0]
        if isinstance(outcome, Exception):
            raise outcome
        await self._replays.create(new_record(command, question.tenant, self._now()))

    async def _owner(self, question: StartReplay) -> str | None:
        """Whose text a payload holds."""
        if question.payload is None:
            return None
        return (await self._graveyard.get(question.tenant, question.selection.sequences[0])).letter.tenant

    async def _status(self, tenant: str, identity: str) -> ReplayStatus:
        return await self._replays.status(await self._record(tenant, identity))

    async def _record(self, tenant: str, identity: str) -> ReplayRecord:
        if found := await self._replays.find(tenant, identity):
            return found[0]
        if tenant == SYSTEM:
            for record in await self._replays.all_of(SYSTEM):
                if record.id == identity:
                    return record
        raise NotFound(f"there is no replay {identity!r}")

    async def _drop(self, question: DropDead) -> Dropped:
        until = (await self._graveyard.extent()).last
        dropped, cursor = 0, 0
        while question.selection.sequences or dropped < DROPPED_AT_ONCE:
            lot, last = await self._graveyard.lot(
                question.tenant, question.selection, after=cursor, until=until, limit=READ_AT_ONCE
            )
            if last is None:
                return Dropped(dropped=dropped)
            dropped += await self._graveyard.take_out(
                [buried for _, buried in lot if buried],
                lambda trouble, buried: marks.dropped(trouble, buried.letter, question.reason, self._now()),
            )
            cursor = last
        return Dropped(dropped=dropped, more=True)


def _detail(buried: Buried) -> DeadDetail:
    cut = len(buried.body) > SHOWN_BYTES
    body = None if cut else as_json(buried.body)
    return DeadDetail(
        letter=buried.letter,
        headers=dict(buried.headers),
        body=body,
        raw=buried.body[:SHOWN_BYTES] if body is None else None,
        truncated=cut,
        history=buried.history,
    )
