"""How much the door takes in hand at once: requests, and the bytes of their bodies. Pure.

Everything that a request costs in memory grows with its body, so both bounds together bound the door's memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from engram_api.shares import Shares


@dataclass(slots=True)
class Place:
    """A request that is in hand, and what its body may take."""

    owner: str
    bytes: Shares
    reserved: int = 0

    def reserve(self, size: int) -> None:
        """Make room for a body before it is read. Raises as `Shares.take`."""
        self.bytes.take(self.owner, size)
        self.reserved += size


class Admission:
    """Lets requests in. One tenant may have a quarter of the bytes."""

    def __init__(self, *, requests: int, tenant_requests: int, body_bytes: int) -> None:
        self._requests = Shares("requests", total=requests, each=tenant_requests)
        self._bytes = Shares("bytes", total=body_bytes, each=body_bytes // 4)

    @contextlib.contextmanager
    def enter(self, tenant: str) -> Iterator[Place]:
        """A place for one request, given back with all its bytes at the end. Raises as `Shares.take`.

        Requests that belong to no tenant (health, metrics) always get one.
        """
        if tenant:
            self._requests.take(tenant)
        place = Place(tenant, self._bytes)
        try:
            yield place
        finally:
            if tenant:
                self._requests.give_back(tenant)
            if place.reserved:
                self._bytes.give_back(tenant, place.reserved)
