"""Something bounded that many use at once, so that no one of them can use it up. Pure."""

from __future__ import annotations

from collections import defaultdict

from engram_contracts.errors import Overloaded, RateLimited


class Shares:
    """Counts what each owner holds of `total`.

    An owner may hold up to `each`, where that is given. When all is held, an owner may still have its even share, and
    one that holds nothing is given what it needs, so who holds little is not refused because others hold much. What is
    held in all stays below twice `total`.
    """

    def __init__(self, what: str, *, total: int, each: int | None = None) -> None:
        self._what = what
        self._total = total
        self._each = each
        self._held: defaultdict[str, int] = defaultdict(int)
        self._sum = 0

    @property
    def held(self) -> int:
        """What all owners hold together."""
        return self._sum

    def take(self, owner: str, amount: int = 1) -> None:
        """Hold so much more. Raises `RateLimited` past the owner's own bound, `Overloaded` past its even share."""
        holding = self._held.get(owner, 0)
        if self._each is not None and holding and holding + amount > self._each:
            raise RateLimited(f"too many {self._what} of this tenant at once; slow down", retry_after=1.0)
        if self._sum and self._sum + amount > self._bound(holding, amount):
            raise Overloaded(f"too many {self._what} at once; try again", retry_after=1.0)
        self._held[owner] = holding + amount
        self._sum += amount

    def give_back(self, owner: str, amount: int = 1) -> None:
        """Hold so much less."""
        self._sum -= amount
        self._held[owner] -= amount
        if not self._held[owner]:
            del self._held[owner]

    def _bound(self, holding: int, amount: int) -> int:
        """How much all may hold with this: twice as much where it is for an owner that has less than its share."""
        owners = len(self._held) + (not holding)
        modest = not holding or holding + amount <= self._total // owners
        return 2 * self._total if modest and owners > 1 else self._total
