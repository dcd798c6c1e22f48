"""Which slots are taken, in four bytes each: spares a new memory the look-up that would find nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RECENT = 20_000
"""Slots kept aside before they are sorted in with the rest."""


class Slots:
    """A set of 32-bit numbers: a sorted array, and what came since."""

    def __init__(self, taken: NDArray[np.uint32]) -> None:
        self._sorted = np.sort(taken)
        self._recent: set[int] = set()

    def add(self, slots: Iterable[int]) -> None:
        """Take slots; one that is taken already stays so."""
        self._recent.update(slots)
        if len(self._recent) > RECENT:
            recent = np.fromiter(self._recent, np.uint32, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent = set()

    def among(self, slots: Iterable[int]) -> list[int]:
        """Those of the slots that are taken."""
        asked = list(slots)
        if not len(self._sorted):
            return [slot for slot in asked if slot in self._recent]
        numbers = np.array(asked, np.uint32)
        places = np.minimum(np.searchsorted(self._sorted, numbers), len(self._sorted) - 1)
        taken = self._sorted[places] == numbers
        return [slot for slot, there in zip(asked, taken.tolist(), strict=True) if there or slot in self._recent]
