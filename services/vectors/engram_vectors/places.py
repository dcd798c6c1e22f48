"""Where memories stand in their sessions: numbers such that neighbours' differ by one.

A place is the session's own number times 2**20, plus a count in the order of the log, from 1 on. So a memory's
neighbours can be asked for by number, and no two sessions' places meet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b

SESSION_BITS, PLACE_BITS = 32, 20
"""Together what a float of the index can hold without loss."""
REMEMBERED = 20_000

Session = tuple[str, str]
"""Tenant and session id."""


class Places:
    """Hands out places. `count` tells how many memories of a session the index holds; it is asked once a session."""

    def __init__(self, count: Callable[[str, str], Awaitable[int]]) -> None:
        self._count = count
        self._taken: OrderedDict[Session, int] = OrderedDict()

    async def learn(self, sessions: Iterable[Session]) -> None:
        """Have what `next` needs to know about these sessions."""
        for session in sessions:
            if session not in self._taken:
                self._taken[session] = await self._count(*session)

    def next(self, session: Session) -> int:
        """The next free place of a session that was learned."""
        self._taken[session] = taken = self._taken.get(session, 0) + 1
        self._taken.move_to_end(session)
        return (_number(session) << PLACE_BITS) + taken % (1 << PLACE_BITS)

    def trim(self) -> None:
        """Forget the sessions that were quiet longest."""
        while len(self._taken) > REMEMBERED:
            self._taken.popitem(last=False)

    def forget(self) -> None:
        """Forget all counts, because what was written on their ground may not have arrived."""
        self._taken.clear()


def _number(session: Session) -> int:
    """A session's number, the same for ever; of two sessions of a tenant it is the same in 1 of 4 billion cases."""
    tenant, name = session
    digest = blake2b(f"{len(tenant)}:{tenant}{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
