"""The delivery policy decides from the error's own advice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engram_contracts.errors import Conflict, Internal, NotFound, RateLimited, Rejected, Unavailable
from engram_contracts.retry import Retry
from engram_runtime.delivery import Bury, Done, Later, Receipt, bounded, decide

RETRY = Retry(attempts=3, first=1.0, factor=2.0, jitter=0.0)


def test_no_error_is_done():
    assert decide(None, attempt=1, retry=RETRY) == Done()


@pytest.mark.parametrize("error", [Rejected("x"), NotFound("x"), Conflict("x")])
def test_what_can_never_work_is_buried_at_once(error):
    assert decide(error, attempt=1, retry=RETRY) == Bury("never")


@pytest.mark.parametrize("error", [Unavailable("x"), Internal("x"), ValueError("x")])
def test_what_may_work_is_tried_later_and_later(error):
    delays = [decide(error, attempt=attempt, retry=RETRY, chance=0.5) for attempt in (1, 2)]

    assert delays == [Later(1.0), Later(2.0)]


def test_the_last_try_wears_it_out():
    assert decide(Unavailable("x"), attempt=3, retry=RETRY) == Bury("worn out")


def test_the_failing_sides_advice_is_honoured():
    assert decide(RateLimited("x", retry_after=30), attempt=1, retry=RETRY, chance=0.5) == Later(30)


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.ENGRAM_WORK.embedder-i0.2.17.5.1700000000000000000.3",
        "$JS.ACK._.abc123.ENGRAM_WORK.embedder-i0.2.17.5.1700000000000000000.3.tok",
    ],
)
def test_a_receipt_is_read_from_both_forms_of_the_reply_subject(reply):
    receipt = Receipt.of(SimpleNamespace(reply=reply))

    assert (receipt.delivered, receipt.sequence, receipt.consumer_sequence) == (2, 17, 5)
    assert receipt.at.timestamp() == 1_700_000_000


def test_words_in_a_header_are_one_bounded_line():
    text = bounded("first\r\nInjected: yes\n" + "x" * 1_000)

    assert len(text) == 500
    assert "\n" not in text and "\r" not in text
