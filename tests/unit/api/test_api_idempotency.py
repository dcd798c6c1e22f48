"""The rules of idempotency records, on their own and in any order of requests, failures, deaths and expiries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from engram_api.idempotency import (
    MOST_KEPT,
    Begin,
    Kept,
    Record,
    Remake,
    Repeat,
    Wait,
    claimed,
    digest,
    done,
    failed,
    record_key,
    view,
)
from engram_contracts.errors import Rejected

T0 = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = 15.0


def kept(body: bytes = b"{}", status: int = 202) -> Kept:
    return Kept(status=status, content_type="application/json", headers={}, body=body)


def flying(named: str = "d") -> Record:
    return claimed(named, "door", T0, lease=LEASE)


def test_nothing_known_is_begun() -> None:
    assert view(None, "d", T0) == Begin(anew=False)


def test_the_same_request_waits_until_the_lease_is_over_then_takes_over() -> None:
    assert view(flying(), "d", T0 + timedelta(seconds=LEASE - 0.1)) == Wait()
    assert view(flying(), "d", T0 + timedelta(seconds=LEASE)) == Begin(anew=True)


def test_what_is_done_is_repeated_word_by_word_also_after_a_round_trip() -> None:
    record = Record.model_validate_json(done(flying(), kept(b"\x00 an answer")).encode())

    assert view(record, "d", T0 + timedelta(days=1)) == Repeat(kept(b"\x00 an answer"))


def test_an_answer_too_large_to_keep_is_made_again() -> None:
    record = Record.model_validate_json(done(flying(), kept(b"x" * (MOST_KEPT + 1))).encode())

    assert view(record, "d", T0) == Remake()


@pytest.mark.parametrize("record", [flying(), done(flying(), kept()), failed(flying(), 503, anew=False)])
def test_another_request_under_the_key_is_refused(record: Record) -> None:
    with pytest.raises(Rejected) as caught:
        view(record, "another", T0)

    assert (caught.value.http_status, caught.value.field) == (422, "Idempotency-Key")


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422])
def test_after_a_refusal_for_good_the_key_is_free(status: int) -> None:
    assert view(failed(flying(), status, anew=False), "corrected", T0) == Begin(anew=False)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_after_any_other_error_the_same_request_may_try_again(status: int) -> None:
    assert view(failed(flying(), status, anew=False), "d", T0) == Begin(anew=True)


def test_a_refusal_of_what_may_have_had_an_effect_before_does_not_free_the_key() -> None:
    with pytest.raises(Rejected):
        view(failed(flying(), 404, anew=True), "another", T0)


def test_an_answer_that_refuses_a_part_may_get_better() -> None:
    assert view(done(flying(), kept(status=207)), "d", T0) == Begin(anew=True)


def test_a_request_is_named_by_what_it_asks_for_and_not_by_how_it_wants_its_answer() -> None:
    plain = digest("POST", "/v1/memories", [], b"{}")

    assert plain == digest("POST", "/v1/memories", [("wait", "done"), ("timeout", "3")], b"{}")
    others = [
        digest("PATCH", "/v1/memories", [], b"{}"),
        digest("POST", "/v1/memories/a", [], b"{}"),
        digest("POST", "/v1/memories", [("reason", "x")], b"{}"),
        digest("POST", "/v1/memories", [("rea", "sonx")], b"{}"),
        digest("POST", "/v1/memories", [], b"{} "),
    ]
    assert len({plain, *others}) == 6


def test_tenants_and_routes_have_keys_of_their_own() -> None:
    keys = {record_key(t, r, k) for t in ("a", "b") for r in ("remember", "think") for k in ("k", "K", "é" * 99)}

    assert len(keys) == 12


class Requests(RuleBasedStateMachine):
    """Doors that work on requests under one key, fail, die and come back, against what clients may rely on."""

    flights = Bundle("flights")

    @initialize()
    def start(self) -> None:
        self.now = T0
        self.record: Record | None = None
        self.revision = 0
        self.effects: set[str] = set()
        """Requests that had an effect; the effect's id derives from the key, so each is one however often."""
        self.answered: dict[str, bytes] = {}

    def write(self, record: Record, revision: int) -> bool:
        """Compare and set."""
        if revision != self.revision:
            return False
        self.record, self.revision = record, self.revision + 1
        return True

    @rule(target=flights, asked=st.sampled_from(["first", "second"]))
    def request(self, asked: str) -> object:
        try:
            seen = view(self.record, asked, self.now)
        except Rejected:
            assert self.record is not None and self.record.digest not in ("", asked)
            return multiple()
        if isinstance(seen, Repeat):
            assert seen.answer.body == self.answered[asked]
        elif isinstance(seen, Begin):
            self.write(claimed(asked, f"door {self.revision}", self.now, lease=LEASE), self.revision)
            return asked, self.revision, seen.anew
        else:
            assert isinstance(seen, Wait)
        return multiple()

    @rule(flight=consumes(flights))
    def succeed(self, flight: tuple[str, int, bool]) -> None:
        asked, revision, _ = flight
        self.take_effect(asked)
        answer = kept(f"{asked} {revision}".encode())
        if self.write(done(claimed(asked, "door", self.now, lease=LEASE), answer), revision):
            self.answered[asked] = answer.body or b""

    @rule(flight=consumes(flights), status=st.sampled_from([400, 404, 429, 503]))
    def fail(self, flight: tuple[str, int, bool], status: int) -> None:
        asked, revision, anew = flight
        if status == 503:
            self.take_effect(asked)
        self.write(failed(claimed(asked, "door", self.now, lease=LEASE), status, anew=anew), revision)

    @rule(flight=consumes(flights), acted=st.booleans())
    def die(self, flight: tuple[str, int, bool], acted: bool) -> None:
        if acted:
            self.take_effect(flight[0])

    @rule(seconds=st.sampled_from([1.0, LEASE]))
    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def take_effect(self, asked: str) -> None:
        self.effects.add(asked)

    @invariant()
    def one_key_has_the_effect_of_one_request(self) -> None:
        assert len(self.effects) <= 1

    @invariant()
    def what_was_answered_stays_answered(self) -> None:
        for asked, body in self.answered.items():
            assert view(self.record, asked, self.now) == Repeat(kept(body))


Requests.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestRequests = Requests.TestCase
