"""Trying commands: together, one by one, or one now and then while what they need is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence

from engram_contracts.commands import Command
from engram_contracts.errors import EngramError, Internal, Unavailable
from engram_runtime.breaker import Breaker, is_away
from engram_runtime.cancelling import Cancels
from engram_runtime.context import correlation
from engram_runtime.held import Held
from engram_runtime.mirror import ended
from engram_runtime.service import Delivery, Outcome, OutOfTurn, Taking
from engram_runtime.telemetry import HANDLING
from engram_runtime.tracing import processing
from engram_runtime.troubles import Troubles, words

log = logging.getLogger(__name__)

HANDED_BACK = Unavailable("handed back at shutdown")
STEPPED_ASIDE = Unavailable("tried alone while its dependency was away")
TOGETHER = 2
"""So often a batch is tried together before each of its messages is on its own."""


class Hung(Internal):
    """A handler took longer than any should."""


class Trier:
    """Has a stage's handler try commands, and holds them while what it depends on is away."""

    def __init__(
        self, stage: str, taking: Taking, *, breaker: Breaker, cancels: Cancels | None, troubles: Troubles
    ) -> None:
        self._stage = stage
        self._taking = taking
        self._breaker = breaker
        self._cancels = cancels
        self._troubles = troubles
        self._failed: dict[int, float] = {}
        """When messages failed that were tried alone, by sequence, as long as they are tried."""

    def forget(self, sequence: int) -> None:
        """This message is not tried any more."""
        self._failed.pop(sequence, None)

    async def outcomes(self, items: Sequence[Held]) -> list[Outcome]:
        """Outcomes of the items; while the dependency is away they are held, and one of them is tried now and then.

        What fails again and again, though the dependency answers others, is tried on its own.
        """
        outcomes: dict[int, Outcome] = {}
        left = list(items)
        failures = 0
        while left:
            outcomes.update(self._over(left))
            left = [item for item in left if item.receipt.sequence not in outcomes]
            if not left:
                break
            if len(left) == 1 or (self._breaker.closed and failures == TOGETHER):
                outcomes[left[0].receipt.sequence] = await self._lone(left[0])
            elif self._breaker.closed:
                outcomes.update(await self._together_or_trip(left))
                failures += 1
            else:
                outcomes.update(await self._probe(left))
            left = [item for item in left if item.receipt.sequence not in outcomes]
        return [outcomes[item.receipt.sequence] for item in items]

    def _over(self, items: Sequence[Held]) -> dict[int, Outcome]:
        """Those that are not wanted any more, and why."""
        if self._cancels is None:
            return {}
        found = {
            item.receipt.sequence: self._cancels.refused(item.tenant, item.receipt.at)
            or self._cancels.over(item.tenant, item.delivery.message)
            for item in items
            if item.delivery is not None
        }
        return {sequence: reason for sequence, reason in found.items() if reason is not None}

    async def _lone(self, item: Held) -> Outcome:
        """One item by itself. While the dependency is away it steps aside, so that others find out whether it is.

        Its failure is its own once the dependency has answered others since it failed before.
        """
        async with self._turn() as going:
            if not going:
                return HANDED_BACK
            outcome = (await self._try([item]))[0]
            if not is_away(outcome):
                self._close_after(outcome)
                return outcome
            before = self._failed.get(item.receipt.sequence)
            self._failed[item.receipt.sequence] = time.monotonic()
            if before is not None and self._breaker.answered > before:
                return outcome
            self._breaker.trip(outcome)
            return STEPPED_ASIDE

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        """Whether to go on: at once while the breaker is closed, else as the one who tries, once the pause is over."""
        if self._breaker.closed:
            yield True
            return
        async with self._breaker.probing.taken():
            yield self._breaker.closed or await self._breaker.pause()

    async def _together_or_trip(self, items: Sequence[Held]) -> dict[int, Outcome]:
        results = await self._try(items)
        away = [result for result in results if is_away(result)]
        if len(away) == len(items):
            self._breaker.trip(away[0])
            for item in items:
                await self._troubles.note(item, reason=words(away[0]), code=away[0].code)
            return {}
        return {item.receipt.sequence: result for item, result in zip(items, results, strict=True)}

    async def _probe(self, items: list[Held]) -> dict[int, Outcome]:
        """When the pause is over, try one item; another one the next time, should it be the item's own fault."""
        async with self._breaker.probing.taken():
            if self._breaker.closed:
                return {}
            if not await self._breaker.pause():
                return {item.receipt.sequence: HANDED_BACK for item in items}
            item = items.pop(0)
            items.append(item)
            outcome = (await self._try([item]))[0]
            if is_away(outcome):
                self._breaker.trip(outcome)
                return {}
            self._close_after(outcome)
            return {item.receipt.sequence: outcome}

    def _close_after(self, outcome: Outcome) -> None:
        if not self._breaker.closed and not isinstance(outcome, OutOfTurn):
            self._breaker.close()

    async def _try(self, items: Sequence[Held]) -> Sequence[Outcome]:
        deliveries = [item.delivery for item in items if item.delivery is not None]
        token = correlation.set(deliveries[0].correlation if len(deliveries) == 1 else None)
        try:
            consumer = self._taking.consumer
            with (
                HANDLING.labels(self._stage).time(),
                processing(self._stage, consumer.name, consumer.stream.name, deliveries) as step,
            ):
                outcomes = await self._handled(deliveries)
                step.came_to(outcomes)
            if not all(is_away(outcome) or isinstance(outcome, OutOfTurn) for outcome in outcomes):
                self._breaker.answered = time.monotonic()
            return outcomes
        except Exception as error:
            if not isinstance(error, EngramError):
                log.exception("handler failed", extra={"stage": self._stage, "batch": len(items)})
            return [error] * len(items)
        finally:
            correlation.reset(token)

    async def _handled(self, deliveries: Sequence[Delivery[Command]]) -> Sequence[Outcome]:
        """What the handler says. One that takes a single command is interrupted when that is not wanted any more."""
        longest = self._taking.consumer.longest
        if self._cancels is None or self._taking.consumer.batch > 1:
            return await self._within(longest, deliveries)
        working = asyncio.ensure_future(self._taking.handler(deliveries))
        over = asyncio.create_task(self._cancels.until_over(deliveries[0].tenant, deliveries[0].message))
        try:
            done, _ = await asyncio.wait((working, over), timeout=longest, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise Hung(f"its handling did not end within {longest:g} s")
            return working.result() if working.done() else [over.result()]
        finally:
            await ended(working, over)

    async def _within(self, seconds: float | None, deliveries: Sequence[Delivery[Command]]) -> Sequence[Outcome]:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._taking.handler(deliveries)
        except TimeoutError as error:
            if limit.expired():
                raise Hung(f"its handling did not end within {seconds:g} s") from error
            raise
