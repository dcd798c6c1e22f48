"""How much there is of something that somebody else counts, a moment later than it happens. Pure."""

from __future__ import annotations

from dataclasses import dataclass

QUIET_SECONDS = 6.0
"""So long after the last of it was accepted, everything has come to the ledger, or never will."""


@dataclass(slots=True)
class Gauge:
    """How much there is: what was last told, and what was added here meanwhile."""

    told: int = 0
    added: int = 0
    added_at: float = float("-inf")

    def tell(self, amount: int, now: float) -> None:
        """Take what the ledger says; what was added lately may not have come to it yet."""
        if now - self.added_at > QUIET_SECONDS or amount > self.told + self.added:
            self.told, self.added = amount, 0

    def add(self, amount: int, now: float) -> None:
        """Count what is added."""
        self.added += amount
        self.added_at = now

    @property
    def now(self) -> int:
        """How much there is."""
        return max(self.told + self.added, 0)
