"""When the broker is to be started anew because it could not write, and when that would be of no use."""

from __future__ import annotations

from pathlib import Path

from engram.complaints import PAUSE_SECONDS, Complaints

LINE = b"[1] [ERR] JetStream stream '$G > ENGRAM_WORK' critical write error: no space left on device\n"


def say(log: Path, words: bytes) -> None:
    with log.open("ab") as file:
        file.write(words)


def test_a_new_complaint_counts_once_and_an_old_one_not(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    say(log, LINE)
    complaints = Complaints(log, tmp_path)

    before = complaints.mendable(1.0)
    say(log, b"[1] [INF] all is well\n" + LINE)
    after, again = complaints.mendable(2.0), complaints.mendable(3.0)

    assert (before, after, again) == (False, True, False)


def test_a_complaint_right_after_waits_for_its_turn(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    complaints = Complaints(log, tmp_path)
    say(log, LINE)
    complaints.mendable(1.0)
    say(log, LINE)

    soon, later = complaints.mendable(2.0), complaints.mendable(2.0 + PAUSE_SECONDS)

    assert (soon, later) == (False, True)


def test_a_log_that_was_begun_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "nats.log"
    say(log, b"x" * 10_000)
    complaints = Complaints(log, tmp_path)
    log.write_bytes(LINE)

    assert complaints.mendable(1.0)
