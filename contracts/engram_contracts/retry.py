"""When to try again: pure arithmetic over data that each consumer declares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how soon failed work is tried again.

    Delays are `first * factor**(attempt - 1)` seconds, at most `most`, spread by `jitter` (a share of the
    delay) so that work that failed together does not come back together. After `attempts` tries the work is
    worn out and goes to the dead letters; so it does after `endings` tries of its own in a row that nobody came back
    from, because its handling ended the worker, or hung.
    """

    attempts: int = 8
    endings: int = 2
    first: float = 0.2
    factor: float = 3.0
    most: float = 60.0
    jitter: float = 0.25

    def delay(self, attempt: int, *, chance: float, advised: float | None = None) -> float:
        """Seconds to wait after failed try number `attempt` (from 1).

        `chance` is a random number from 0 to 1. `advised` is what the failing side asked for (`Retry-After`);
        it is honoured even beyond `most`.
        """
        planned = min(self.first * self.factor ** min(attempt - 1, 64), self.most)
        spread = planned * (1 + self.jitter * (2 * chance - 1))
        return max(spread, advised or 0.0)

    def worn_out(self, attempt: int) -> bool:
        """Whether try number `attempt` was the last one allowed."""
        return attempt >= self.attempts
