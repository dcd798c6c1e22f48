"""What was read of memories lately, kept in this process: their looks, and who stands where in a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from engram_vectors.looks import Look
from engram_vectors.points import PointId

NOBODY = 0


class Glances:
    """Looks by first point, and the memories that stand at places; beyond `most` of either, the oldest are let go.

    Whoever writes to the index says what changes, so that nothing here is older than the index.
    """

    def __init__(self, most: int = 200_000) -> None:
        self._most = most
        self._looks: dict[PointId, Look] = {}
        self._standing: dict[tuple[str, int], PointId] = {}

    def keep(self, looks: Mapping[PointId, Look]) -> None:
        """Take these in."""
        self._make_room(self._looks, len(looks))
        self._looks.update(looks)

    def of(self, heads: Set[PointId]) -> dict[PointId, Look]:
        """Those that are here."""
        looks = self._looks
        return {head: looks[head] for head in heads if head in looks}

    def settle(self, tenant: str, places: Sequence[int], looks: Mapping[PointId, Look]) -> None:
        """These memories are all that stand at these places."""
        self._make_room(self._standing, len(places))
        self._standing.update(dict.fromkeys(((tenant, place) for place in places), NOBODY))
        self._standing.update(((tenant, look.place), head) for head, look in looks.items())
        self.keep(looks)

    def arrive(self, tenant: str, looks: Mapping[PointId, Look]) -> None:
        """These memories were written just now; reading them first would cost more than all else in a recall."""
        self.keep(looks)
        standing = {(tenant, look.place): head for head, look in looks.items() if look.place}
        self._make_room(self._standing, len(standing))
        self._standing.update(standing)

    def standing(self, tenant: str, places: Sequence[int]) -> tuple[dict[PointId, Look], list[int]]:
        """Who stands at these places, and the places of which that is not known."""
        found: dict[PointId, Look] = {}
        unknown: list[int] = []
        for place in places:
            head = self._standing.get((tenant, place))
            look = self._looks.get(head) if head else None
            if look is not None and look.place == place:
                found[head] = look  # type: ignore[index]  # there is a look, so there is a head
            elif head != NOBODY:
                unknown.append(place)
        return found, unknown

    def change(self, heads: Iterable[PointId], arrivals: Iterable[tuple[str, int]]) -> None:
        """Forget the looks of these memories, and that nobody stood where they arrive (tenant and place)."""
        for head in heads:
            self._looks.pop(head, None)
        for arrival in arrivals:
            self._standing.pop(arrival, None)

    def _make_room(self, held: dict[Any, Any], more: int) -> None:
        excess = len(held) + more - self._most
        if excess > 0:
            for key in list(held)[: excess + self._most // 10]:
                del held[key]
