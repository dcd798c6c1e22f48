"""The rules of replay, whatever is buried, chosen, cancelled, or killed at whatever call in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engram_contracts.commands import Forget
from engram_contracts.errors import RateLimited, Unavailable
from engram_contracts.events import JobTrouble
from engram_contracts.ids import new_id
from engram_contracts.recovery import SYSTEM, DeadFilter, DeadLetter, Replay, ReplayRecord, Selection
from engram_contracts.topology import JOBS, REPLAYS, dead_subject, work_subject
from engram_recovery.graveyard import Graveyard
from engram_recovery.letters import REPLAY, REPLAY_OF, matches, summary
from engram_recovery.replaying import Replayer
from engram_recovery.replays import CANCEL, Replays
from engram_runtime.bus import Entry, Stored
from support.memory_broker import Killed, MemoryBroker

TENANTS = ("acme", "zeta")
CODES = ("NOT_FOUND", "CONFLICT")

selections = st.one_of(
    st.just(Selection(all=True)),
    st.sampled_from(CODES).map(lambda code: Selection(filter=DeadFilter(code=code))),
    st.sets(st.integers(1, 25), min_size=1, max_size=8).map(lambda them: Selection(sequences=tuple(them))),
)


@dataclass
class Asked:
    """A replay that was asked for. `sent_when_cancelled` is set once its record says so."""

    tenant: str
    command: Replay
    sent_when_cancelled: int | None = None


class Replaying(RuleBasedStateMachine):
    """Workers bury, replays run and die and run again, and nothing is lost, doubled, or touched by who may not."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.broker = MemoryBroker()
        self.ever: dict[int, DeadLetter] = {}
        self.asked: list[Asked] = []

    def teardown(self) -> None:
        self.loop.close()

    @rule(tenant=st.sampled_from(TENANTS), code=st.sampled_from(CODES), count=st.integers(1, 5))
    def bury(self, tenant: str, code: str, count: int) -> None:
        for _ in range(count):
            command = Forget(id=new_id(), accepted_at=self.now, memory_id="m")
            self._bury(work_subject(tenant, "forget"), command.encode(), code)

    @precondition(lambda self: len(self._unfinished()) < 2)
    @rule(
        tenant=st.sampled_from((*TENANTS, SYSTEM)),
        selection=selections,
        dry_run=st.integers(0, 4).map(lambda n: n == 4),
    )
    def ask(self, tenant: str, selection: Selection, dry_run: bool) -> None:
        command = Replay(id=new_id(), accepted_at=self.now, selection=selection, dry_run=dry_run)
        self.asked.append(Asked(tenant, command))

    @precondition(lambda self: self._unfinished())
    @rule(which=st.integers(0, 1), calls=st.integers(0, 40), worker=st.sampled_from(("away", *CODES)))
    def run_until_killed(self, which: int, calls: int, worker: str) -> None:
        self.broker.fuse.left = calls
        with contextlib.suppress(Killed):
            self._run(self._one_of(which), worker)
        self.broker.fuse.left = None

    @precondition(lambda self: self._unfinished())
    @rule(which=st.integers(0, 1), sent=st.integers(0, 8), worker=st.sampled_from(("away", *CODES)))
    def run_until_stopped_at_a_full_queue(self, which: int, sent: int, worker: str) -> None:
        before = len(self.broker.entries)

        def refuse(_: Entry) -> RateLimited | None:
            if len(self.broker.entries) - before < sent:
                return None
            self.replayer.stop()
            return RateLimited("full", retry_after=0.001)

        self.broker.refuse = refuse
        with contextlib.suppress(Unavailable):
            self._run(self._one_of(which), worker)
        self.broker.refuse = lambda _: None

    @precondition(lambda self: self._unfinished())
    @rule(which=st.integers(0, 1), worker=st.sampled_from(("away", *CODES)))
    def run_to_the_end(self, which: int, worker: str) -> None:
        asked = self._one_of(which)
        cancelled = f"{asked.tenant}.{asked.command.id}{CANCEL}" in self._bucket(REPLAYS)

        self._run(asked, worker)

        record = self._record(asked)
        assert record is not None
        assert record.state == ("cancelled" if cancelled else "done")

    @precondition(lambda self: self._unfinished())
    @rule(which=st.integers(0, 1))
    def cancel(self, which: int) -> None:
        asked = self._one_of(which)
        self._bucket(REPLAYS)[f"{asked.tenant}.{asked.command.id}{CANCEL}"] = b"1"

    @rule(fails=st.sampled_from((None, *CODES)))
    def work(self, fails: str | None) -> None:
        """Workers take all there is; what they refuse lies dead again."""
        self.now += timedelta(seconds=1)
        for entry in self.broker.entries[self.broker.taken :]:
            if fails:
                self._bury(entry.subject, entry.body, fails)
        self.broker.taken = len(self.broker.entries)

    @invariant()
    def nothing_is_lost(self) -> None:
        sent = {int(entry.headers[REPLAY_OF]) for entry in self.broker.entries}

        assert self.ever.keys() - self.broker.dead.letters.keys() <= sent

    @invariant()
    def each_replay_sends_each_dead_letter_once_to_where_it_was(self) -> None:
        sent = Counter((entry.headers[REPLAY], entry.headers[REPLAY_OF]) for entry in self.broker.entries)

        assert all(count == 1 for count in sent.values())
        for entry in self.broker.entries:
            assert entry.subject == self.ever[int(entry.headers[REPLAY_OF])].subject

    @invariant()
    def a_replay_touches_only_what_it_may_and_what_was_there_when_it_began(self) -> None:
        for asked in self.asked:
            sent = self._sent(asked)
            record = self._record(asked)
            assert not sent or record is not None
            assert record is None or sent <= self._meant(asked, record)

    @invariant()
    def what_is_done_left_nothing_behind_and_counted_right(self) -> None:
        for asked in self.asked:
            record = self._record(asked)
            if record is None or record.state != "done":
                continue
            assert not record.unsettled and record.failed == record.swallowed == 0
            if not asked.command.dry_run:
                sent = self._sent(asked)
                taken_first = set().union(*(self._sent(other) for other in self.asked if other is not asked))
                assert len(sent - taken_first) <= record.replayed <= len(sent)
                assert not self._meant(asked, record) & self.broker.dead.letters.keys()

    @invariant()
    def what_was_cancelled_sends_no_more(self) -> None:
        for asked in self.asked:
            record = self._record(asked)
            if record is not None and record.state == "cancelled":
                sent = len(self._sent(asked))
                assert asked.sent_when_cancelled in (None, sent)
                asked.sent_when_cancelled = sent

    @invariant()
    def a_job_is_dead_as_long_as_it_lies_among_the_dead(self) -> None:
        if any(record.unsettled or not record.ended for record in map(self._record, self.asked) if record):
            return
        for sequence, stored in self.broker.dead.letters.items():
            trouble = self._trouble(stored)
            assert trouble.state == "dead" and (trouble.dead_sequence or 0) >= sequence

    def _run(self, asked: Asked, worker: str) -> None:
        """A run; a worker that is not away refuses what it sends at once."""
        self.now += timedelta(seconds=10)
        if worker != "away":
            self.broker.appended = lambda entry: self._bury(entry.subject, entry.body, worker)
        self.replayer = Replayer(self.broker, Graveyard(self.broker), Replays(self.broker), now=lambda: self.now)
        try:
            self.loop.run_until_complete(self.replayer.replay(asked.tenant, asked.command))
        finally:
            self.broker.appended = lambda _: None
            if worker != "away":
                self.broker.taken = len(self.broker.entries)

    def _unfinished(self) -> list[Asked]:
        records = ((asked, self._record(asked)) for asked in self.asked)
        return [asked for asked, record in records if record is None or not record.ended]

    def _one_of(self, which: int) -> Asked:
        unfinished = self._unfinished()
        return unfinished[which % len(unfinished)]

    def _bury(self, subject: str, body: bytes, code: str) -> None:
        """What a worker does with what it refuses."""
        tenant = subject.rsplit(".", 1)[1]
        said = {"Engram-Dead-Subject": subject, "Engram-Dead-Code": code, "Engram-Dead-Last": self.now.isoformat()}
        stored = Stored(subject=dead_subject("embedder", tenant), body=body, id=None, at=self.now, headers=said)
        sequence = self.broker.dead.bury(stored)
        letter = self.broker.dead.letters[sequence]
        self.ever[sequence] = summary(letter)
        trouble = JobTrouble(
            state="dead", stage="embedder", attempt=1, reason="no", code=code, at=self.now, dead_sequence=sequence
        )
        self.broker.bucket(JOBS).set(self._job(letter), trouble.encode())

    def _job(self, stored: Stored) -> str:
        return f"{stored.subject.rsplit('.', 1)[1]}.{Forget.model_validate_json(stored.body).id}"

    def _trouble(self, stored: Stored) -> JobTrouble:
        return JobTrouble.model_validate_json(self._bucket(JOBS)[self._job(stored)])

    def _bucket(self, bucket: object) -> dict[str, bytes]:
        return self.broker.bucket(bucket).entries  # type: ignore[arg-type]  # a bucket of the topology

    def _record(self, asked: Asked) -> ReplayRecord | None:
        value = self._bucket(REPLAYS).get(f"{asked.tenant}.{asked.command.id}")
        return ReplayRecord.model_validate_json(value) if value else None

    def _sent(self, asked: Asked) -> set[int]:
        mine: list[Entry] = [entry for entry in self.broker.entries if entry.headers[REPLAY] == asked.command.id]
        return {int(entry.headers[REPLAY_OF]) for entry in mine}

    def _meant(self, asked: Asked, record: ReplayRecord) -> set[int]:
        """What the replay may send: chosen, of its tenant, and there when it began."""
        chosen = asked.command.selection
        return {
            sequence
            for sequence, letter in self.ever.items()
            if sequence <= (record.until_sequence or 0)
            and asked.tenant in (SYSTEM, letter.tenant)
            and (sequence in chosen.sequences or not chosen.sequences)
            and matches(letter, chosen.filter or DeadFilter())
            and not asked.command.dry_run
        }


Replaying.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestReplaying = Replaying.TestCase
