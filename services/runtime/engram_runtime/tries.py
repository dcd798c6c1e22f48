"""Facts that end their worker: how often a follower began at one place, kept where a crash cannot undo it.

A follower that has begun at the same place again and again goes carefully: one fact at a time, each try written down
before. So the fact at fault is known, is buried once it has had its tries, and the log goes on behind it. One that
finds a try from which nobody came back goes carefully from the first.
"""

from __future__ import annotations

import contextlib

from pydantic import Field, ValidationError

from engram_contracts.errors import Unavailable
from engram_contracts.messages import Message
from engram_runtime.bus import KeyValue

STARTS = 2
"""So many starts at the same place are as many as chance explains."""
MOST = 2
"""Tries of a fact that is suspected."""


class Record(Message):
    """What is kept: where the follower began, how often, and the tries of the facts that were tried alone.

    `given_up` are facts that are buried, and passed over until the stored position is beyond them.
    """

    position: int = -1
    starts: int = 0
    tries: dict[int, int] = Field(default_factory=dict)
    given_up: tuple[int, ...] = ()


class Tries:
    """One follower's tries. Where they cannot be kept, because the broker is away, nobody is suspected."""

    def __init__(self, bucket: KeyValue, name: str) -> None:
        self._bucket = bucket
        self._key = f"follower.{name}"
        self._record = Record()
        self._begun = False
        self._left = 0

    @property
    def careful(self) -> bool:
        """Whether each fact is to be tried alone."""
        return self._left > 0

    def is_given_up(self, sequence: int) -> bool:
        """Whether a fact was buried before."""
        return sequence in self._record.given_up

    async def begin(self, position: int, *, ahead: int) -> None:
        """Note that this process begins at a position; `ahead` facts from there on are under suspicion."""
        if self._begun:
            return
        self._begun = True
        kept = await self._kept()
        same = kept.position == position
        self._record = Record(
            position=position,
            starts=kept.starts + 1 if same else 1,
            tries={sequence: tries for sequence, tries in kept.tries.items() if sequence > position},
            given_up=tuple(sequence for sequence in kept.given_up if sequence > position),
        )
        self._left = ahead if self._record.starts > STARTS or self._record.tries else 0
        await self._keep()

    async def note(self, sequence: int) -> int:
        """Write down a try before it is made; how many there were before this one."""
        before = self._record.tries.get(sequence, 0)
        await self._change(tries={**self._record.tries, sequence: before + 1})
        return before

    async def survived(self, sequence: int, *, applied: bool) -> None:
        """The worker lives: this was not what ended it, whether it was `applied` or not."""
        self._left -= applied
        tries = {each: count for each, count in self._record.tries.items() if each != sequence}
        await self._change(tries=tries, starts=self._record.starts if self.careful else 0)

    async def give_up(self, sequence: int) -> None:
        """Pass over a fact from now on."""
        await self._change(given_up=(*self._record.given_up, sequence))

    async def forget(self) -> None:
        """The log holds other facts under these numbers from now on."""
        self._record = Record()
        await self._keep()

    async def _change(self, **what: object) -> None:
        self._record = self._record.model_copy(update=what)
        await self._keep()

    async def _kept(self) -> Record:
        with contextlib.suppress(Unavailable, ValidationError):
            value = await self._bucket.get(self._key)
            return Record.model_validate_json(value) if value else Record()
        return Record()

    async def _keep(self) -> None:
        with contextlib.suppress(Unavailable):
            await self._bucket.put(self._key, self._record.encode())
