"""Who counts as standing still, and who does not."""

from __future__ import annotations

from engram.watchdog import BLINK_SECONDS, STILL_SECONDS, Watchdog

SECONDS = range(int(STILL_SECONDS) + 5)


def test_who_shows_no_sign_of_life_for_too_long_stands_still() -> None:
    dog = Watchdog()

    seen = [dog.still({"graph": (7, 1.0), "api": (8, float(now))}, now) for now in SECONDS]

    assert seen[int(STILL_SECONDS)] == []
    assert seen[-1] == ["graph"]


def test_a_new_process_of_that_name_begins_anew() -> None:
    dog = Watchdog()

    seen = [dog.still({"graph": (7 if now < 10 else 9, 1.0)}, now) for now in SECONDS]

    assert seen[-1] == []


def test_who_was_held_up_himself_blames_nobody() -> None:
    dog = Watchdog()
    dog.still({"graph": (7, 1.0)}, 0.0)

    late = dog.still({"graph": (7, 1.0)}, 10 * STILL_SECONDS)
    after = dog.still({"graph": (7, 1.0)}, 10 * STILL_SECONDS + BLINK_SECONDS)

    assert (late, after) == ([], [])
