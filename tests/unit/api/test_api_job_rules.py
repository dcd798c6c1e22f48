"""The rules of jobs in any order of tries, crashes, cancelling, deadlines, burials and replays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engram_api.handlers import CANCELLABLE
from engram_api.jobs import job
from engram_api.whereabouts import Sighting
from engram_contracts.answers import Job
from engram_contracts.errors import Cancelled, EngramError, Expired, Failure, Internal, Rejected
from engram_contracts.events import CancelMark, JobTrouble, JobTry
from engram_contracts.ids import new_id
from engram_contracts.memory import Memory
from engram_contracts.questions import IndexedMemory, JobRecord
from engram_contracts.recovery import DeadLetter
from engram_contracts.retry import Retry
from engram_contracts.topology import work_subject
from engram_recovery import marks
from engram_runtime.bus import Stored
from engram_runtime.delivery import Bury, Done, End, decide

T0 = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = Retry(attempts=3)
COMMAND = new_id()


class JobRules(RuleBasedStateMachine):
    """One command on its way through a queue and its workers; what the door tells of it is checked at every step."""

    @initialize()
    def accept(self) -> None:
        self.clock = 0
        self.where: Literal["queue", "hand", "done", "dead", "over"] = "queue"
        self.trouble: JobTrouble | None = None
        self.mark: CancelMark | None = None
        self.expired = self.effect = False
        self.attempt = 0
        self.begun_after_mark = 0
        self.buried = 0

    def now(self) -> datetime:
        self.clock += 1
        return self.latest

    @property
    def latest(self) -> datetime:
        return T0 + timedelta(seconds=self.clock)

    @precondition(lambda self: self.where == "queue")
    @rule()
    def deliver(self) -> None:
        if self.mark is not None:
            self.settle(Cancelled("it was cancelled"))
        elif self.expired:
            self.settle(Expired("its deadline passed"))
        else:
            self.where, self.attempt = "hand", self.attempt + 1
            self.begun_after_mark += self.mark is not None

    @precondition(lambda self: self.where == "hand")
    @rule(outcome=st.sampled_from([None, Internal("not now"), Rejected("never")]))
    def handle(self, outcome: EngramError | None) -> None:
        self.settle(outcome)

    @precondition(lambda self: self.where == "hand" and (self.mark is not None or self.expired))
    @rule()
    def interrupt(self) -> None:
        self.settle(Cancelled("it was cancelled") if self.mark is not None else Expired("its deadline passed"))

    @precondition(lambda self: self.where == "hand")
    @rule(acted=st.booleans())
    def crash(self, acted: bool) -> None:
        self.effect = self.effect or acted
        self.where = "queue"

    @rule()
    def cancel(self) -> None:
        if self.told().state in CANCELLABLE and self.mark is None:
            self.mark = CancelMark(at=self.now(), actor="key1")

    @rule()
    def pass_deadline(self) -> None:
        self.expired = True

    @precondition(lambda self: self.where == "dead")
    @rule()
    def replay(self) -> None:
        self.trouble = marks.replayed(self.trouble, self.letter(), 9, self.now()) or self.trouble
        self.where, self.attempt = "queue", 0

    def settle(self, outcome: EngramError | None) -> None:
        decision = decide(outcome, attempt=max(self.attempt, 1), retry=RETRY, chance=0.5)
        if isinstance(decision, Done):
            self.effect, self.where = True, "done"
        elif isinstance(decision, End):
            assert outcome is not None
            self.where = "over"
            self.note(decision.state, outcome)
        elif isinstance(decision, Bury):
            assert outcome is not None
            self.where, self.buried = "dead", self.buried + 1
            self.note("dead", outcome, tried=True)
        else:
            assert outcome is not None
            self.where = "queue"
            self.note("retrying", outcome, tried=True)

    def note(
        self, state: Literal["retrying", "dead", "cancelled", "expired"], error: EngramError, *, tried: bool = False
    ) -> None:
        at, said = self.now(), {"code": Failure.of(error).code, "reason": error.message}
        tries = self.trouble.tries if self.trouble else ()
        added = (JobTry(stage="embedder", attempt=self.attempt, at=at, **said),) if tried else ()
        self.trouble = JobTrouble(
            state=state, stage="embedder", attempt=max(self.attempt, 1), at=at, tries=(*tries, *added)[-20:],
            dead_sequence=self.buried if state == "dead" else None, **said,
        )  # fmt: skip

    def letter(self) -> DeadLetter:
        return DeadLetter(
            sequence=self.buried, stage="embedder", tenant="acme", subject=work_subject("acme", "remember"),
            op="remember", why="never", code="INVALID_REQUEST", error="Rejected", reason="never", attempts=self.attempt,
            first_at=T0, last_at=self.latest, buried_at=self.latest, size=2,
        )  # fmt: skip

    def told(self) -> Job:
        record = JobRecord(memory_id=COMMAND, accepted_at=T0, embedded_at=T0, linked_at=T0)
        lies = Stored(subject=work_subject("acme", "remember"), body=b"{}", id=COMMAND, at=T0)
        memory = Memory(id=COMMAND, content="x", created_at=T0, updated_at=T0)
        return job(
            "job_1",
            COMMAND,
            Sighting(
                waiting=lies if self.where in ("queue", "hand") else None,
                trouble=self.trouble,
                cancel=self.mark,
                record=record if self.effect else None,
                indexed=IndexedMemory(memory=memory, indexed_at=T0, command=COMMAND) if self.effect else None,
            ),
        )

    @invariant()
    def an_effect_is_told_whatever_else_happened(self) -> None:
        if self.effect:
            assert self.told().state == "done" and not self.told().cancelling

    @invariant()
    def without_an_effect_it_is_where_it_is(self) -> None:
        if not self.effect:
            expected = {"queue": CANCELLABLE, "hand": CANCELLABLE, "dead": ("dead",), "over": ("cancelled", "expired")}
            assert self.told().state in expected[self.where], (self.where, self.told())

    @invariant()
    def nothing_begins_once_it_was_called_off(self) -> None:
        assert self.begun_after_mark == 0

    @invariant()
    def a_timeline_is_in_order_and_ends_with_the_end(self) -> None:
        told = self.told()
        times = [step.at for step in told.timeline if step.at is not None]
        assert times == sorted(times) and told.timeline[0].stage == "accepted"
        if told.state in ("dead", "cancelled", "expired"):
            assert told.timeline[-1].stage == told.state
            assert (told.dead is not None) == (told.state == "dead")


JobRules.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestJobRules = JobRules.TestCase
