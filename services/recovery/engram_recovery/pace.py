"""How fast a replay may go. Pure arithmetic over a clock's seconds."""

from __future__ import annotations

from typing import Self

MOST_AT_ONCE = 200
LOTS_A_SECOND = 50
MADE_UP_SECONDS = 30.0
BURST_SECONDS = 1.0
CATCHING_UP = 1.5
"""So many times the rate it goes while a delay is made up for."""


class Pace:
    """Messages in small lots, so that the rate is met over the whole run.

    Message number n (from 0) is due n / `rate` seconds after the start, and a lot goes out when its last message is
    due. A delay is made up for, half as fast again as the rate after what a second has; what is longer than half a
    minute moves the schedule.
    """

    def __init__(self, rate: float | None, now: float) -> None:
        self._rate = rate
        self._start = now
        self._sent = 0
        self._next = now

    @classmethod
    def resumed(cls, rate: float | None, now: float, *, sent: int, elapsed: float) -> Self:
        """The pace of a run that goes on where another stopped, so many seconds after the first one began.

        A clock that tells of less time than what was sent took does not hold it up.
        """
        pace = cls(rate, now)
        if rate is not None:
            pace._sent, took = sent, sent / rate
            pace._start = now - min(max(elapsed, took), took + MADE_UP_SECONDS)
        return pace

    def wait(self, now: float) -> float:
        """Seconds until the next lot is due."""
        if self._rate is None:
            return 0.0
        ahead = (self._sent + self._smallest - 1) / self._rate
        self._start = max(self._start, now - ahead - MADE_UP_SECONDS)
        return max(self._start + ahead - now, self._next - now, 0.0)

    def lot(self, now: float) -> int:
        """How many messages go out together now: what is due, or the smallest lot."""
        if self._rate is None:
            return MOST_AT_ONCE
        due = int((now - self._start) * self._rate) + 1 - self._sent
        lot = min(max(min(due, int(self._rate * BURST_SECONDS)), self._smallest), MOST_AT_ONCE)
        self._next = now + lot / (CATCHING_UP * self._rate)
        return lot

    def sent(self, count: int) -> None:
        """Note that so many messages went out."""
        self._sent += count

    @property
    def _smallest(self) -> int:
        return min(max(round((self._rate or 0.0) / LOTS_A_SECOND), 1), MOST_AT_ONCE)
