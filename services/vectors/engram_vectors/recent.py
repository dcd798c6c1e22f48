"""Answers that were given lately, for who asks the same again."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Generic, TypeVar

from engram_contracts.questions import Recall
from engram_vectors.filters import TENANT
from engram_vectors.points import Changes
from engram_vectors.told import Told

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

GOOD_SECONDS = 60.0
"""What a query means by "yesterday", and how new a memory is, changes with time."""


class Lately(Generic[K, V]):
    """The `most` values that were used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, if it is still here."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; the one that was used longest ago makes room."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)


class Recent:
    """Recollections by question, each good until a memory of its tenant changes, one of its own expires, or a minute
    is over. Kept where one process writes everything (`most` above 0), which therefore knows of every change.

    One that explains itself is always made anew, as is one that was degraded or had the graph decide, which follows the
    log at its own pace.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: Lately[bytes, tuple[int, float, Told]] = Lately(most)
        self._open = most > 0
        self._clock = clock
        self._changes: Counter[str] = Counter()
        self._at_large = 0

    def version(self, tenant: str) -> int:
        """A number that grows with every change of a tenant's memories."""
        return self._at_large + self._changes[tenant]

    def of(self, question: Recall, *, now: datetime) -> Told | None:
        """The answer that is still good."""
        if not self._open or question.explain:
            return None
        known = self._known.get(question.encode())
        if known is None:
            return None
        version, until, answer = known
        if version != self.version(question.tenant) or self._clock() > until:
            return None
        return None if answer.until is not None and answer.until <= now else answer

    def keep(self, question: Recall, answer: Told, *, version: int) -> None:
        """Remember an answer for which the index was read from `version` on, unless something changed meanwhile."""
        lasting = not (question.explain or answer.degraded or answer.mode == "multi-hop" or _asks_graph(question))
        if self._open and lasting and version == self.version(question.tenant):
            self._known.put(question.encode(), (version, self._clock() + GOOD_SECONDS, answer))

    def change(self, changes: Changes) -> None:
        """Take note of what was written."""
        tenants = {payload[TENANT] for payload in changes.payloads()}
        self._changes.update(tenants)
        self._at_large += not tenants


def _asks_graph(question: Recall) -> bool:
    return question.weights is not None and bool(question.weights.graph)
